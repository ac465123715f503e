"""Where `python -m engines.flink.cluster` was before; kept for scripts that start it here."""

import sys

from engines.flink.cluster import main

if __name__ == "__main__":
    sys.exit(main())
