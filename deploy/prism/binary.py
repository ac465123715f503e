"""Where `python -m engines.prism.binary` was before; kept for scripts that start it here."""

from engines.prism.binary import main

if __name__ == "__main__":
    main()
