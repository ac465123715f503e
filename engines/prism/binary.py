"""Beam's Prism, the portable engine written in Go: built once from its own module, into the cache."""

import os
import shutil
import subprocess
import sys

from engines.flink.artifacts import BEAM_VERSION, cache_folder
from stores.errors import InputError, PinnerFormerError

MODULE = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def prism_binary() -> str:
    """The path of a Prism of the installed Beam's version; minutes of compiling on first use.

    Raises:
        InputError: Go is missing, or the module could not be built.
    """
    folder = os.path.join(cache_folder(), f"prism-{BEAM_VERSION}")
    path = os.path.join(folder, "prism")
    if not os.path.isfile(path):
        if not shutil.which("go"):
            raise InputError(f"no go to build {MODULE}@v{BEAM_VERSION} with; install Go 1.21 or newer")
        done = subprocess.run(
            ["go", "install", f"{MODULE}@v{BEAM_VERSION}"],
            env={**os.environ, "GOBIN": folder},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise InputError(f"{MODULE}@v{BEAM_VERSION}: go install failed: {lines[-1]}")
    return path


def prism_flags() -> list[str]:
    """What a Beam pipeline is started with to run on Prism, its workers in the launching process."""
    return ["--runner=PrismRunner", f"--prism_location={prism_binary()}"]


def main() -> None:
    """Prints the flags; builds the binary first where it is not there yet."""
    try:
        print(" ".join(prism_flags()))
    except PinnerFormerError as error:
        sys.exit(f"prism: {error}")


if __name__ == "__main__":
    main()
