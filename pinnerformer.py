"""PinnerFormer: nightly user and pin embeddings. The one name to import, and the console script.

    from pinnerformer import EmbeddingClient, Retriever

Importing it is cheap: what it names is loaded when it is asked for. The packages behind it have plain names (`stores`,
`pipelines`, ...), which a folder of somebody else's may have too; where one of those stands before ours on Python's
path, the message says which.
"""

import gc
import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.embedding_client import EmbeddingClient
    from stores.retriever import Retriever

    __version__: str

__all__ = ["EmbeddingClient", "Retriever", "__version__", "main"]

_HOME = os.path.dirname(os.path.abspath(__file__))
_PACKAGES = ("pinnerformer_model", "stores", "transforms", "pipelines")
_EXPORTS = {"EmbeddingClient": "stores.embedding_client", "Retriever": "stores.retriever"}

# Jobs whose processes have one thread each, as many processes as pay: threads of one process go in lockstep, and wait
# for the slowest where other work has a core. What is said to libraries before they are loaded; spinning is waiting
# that takes the core from whoever is waited for.
_ONE_THREAD_EACH = ("daily", "backfill", "repair", "item-vectors", "training-data")
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    shadow = _find_shadow()
    if shadow:
        raise ImportError(shadow)
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def _version() -> str:
    """The version that pyproject.toml says: as it was installed, or of the source tree that nobody has installed."""
    from importlib import metadata

    try:
        return metadata.version("pinnerformer")
    except metadata.PackageNotFoundError:
        import tomllib

        with open(os.path.join(_HOME, "pyproject.toml"), "rb") as file:
            return tomllib.load(file)["project"]["version"]


def _find_shadow() -> str | None:
    """What to say if one of our packages is not the one beside this file; None if all are ours."""
    for package in _PACKAGES:
        ours = os.path.join(_HOME, package)
        found = _find_package(package)
        if found is None:
            return f"our package `{package}` is missing: {ours} was not installed; install pinnerformer again"
        if os.path.realpath(found) != os.path.realpath(ours) and _hides(found, ours):
            return f"{found} shadows our package `{package}` ({ours}): {_why(found)}, or rename it"
    return None


def _find_package(package: str) -> str | None:
    """The folder, or the file, that an import of a package finds first; None if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # imported already, by a loader that says nothing of itself
        spec = None
    if spec is None:
        module = sys.modules.get(package)
        return os.path.dirname(module.__file__) if module is not None and module.__file__ else None
    return next(iter(spec.submodule_search_locations or []), spec.origin)


def _hides(found: str, ours: str) -> bool:
    """Whether something found before our package keeps any of its modules from being imported.

    A folder without `__init__.py` is no package: where ours is installed as usual, it is passed over, and beside the
    finder of an editable install only what bears one of our names is taken for ours.
    """
    if not os.path.isdir(found) or os.path.exists(os.path.join(found, "__init__.py")):
        return True
    names = [{name.partition(".")[0] for name in os.listdir(folder)} for folder in (found, ours)]
    return bool((names[0] & names[1]) - {"__pycache__"})


def _why(shadow: str) -> str:
    """How a folder came to be on the path, and how it goes."""
    holder = os.path.realpath(os.path.dirname(shadow))
    named = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if holder in map(os.path.realpath, named):
        return f"PYTHONPATH names the folder that it lies in; take {os.path.dirname(shadow)} out of PYTHONPATH"
    if holder == os.path.realpath(os.getcwd()):
        return "it lies in the current folder; start from another folder"
    return f"Python looks there first; take {os.path.dirname(shadow)} off its path"


def main() -> int:
    """The console script: runs one command; returns its exit code."""
    shadow = _find_shadow()
    if shadow:
        print(f"pinnerformer: {shadow}", file=sys.stderr)
        return 2
    if sys.argv[1:2] and sys.argv[1] in _ONE_THREAD_EACH:
        for name, value in _ONE_THREAD.items():
            os.environ.setdefault(name, value)
    from pipelines import cli

    try:
        return cli.main()
    finally:
        # At its end the interpreter searches all that is left for garbage, several times: half a second where torch
        # and Beam are loaded. What is set aside is not searched.
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
