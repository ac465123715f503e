"""Imports of a command's modules: without what Beam would load beside, and without looking for garbage meanwhile."""

import contextlib
import gc
import importlib
import importlib.abc
import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# What Beam takes along where it is installed, and does without where it is not: S3 and MongoDB as Beam reads and writes
# them, data frames as elements, and a manager of several models in one process. No step of ours uses any of it.
BESIDE_BEAM = ("boto3", "bson", "pandas", "scipy")
OF_BEAM = ("apache_beam", "apache_beam.ml.inference.base")


def import_job(module: str, *, beam_alone: bool) -> ModuleType:
    """Imports the module of a command that computes, in two thirds of the time that `import` takes.

    Args:
        beam_alone: Whether Beam is loaded without `BESIDE_BEAM`. An engine's client may want Beam's own way to a
            store (`--temp_location s3://...`), so only where the job runs in this process and its workers.
    """
    if module in sys.modules:
        return sys.modules[module]
    with no_collection(), without_warnings():
        if beam_alone:
            with hidden(BESIDE_BEAM):
                for name in OF_BEAM:
                    importlib.import_module(name)
        imported = importlib.import_module(module)
        keep_from_pandas()
        return imported


def keep_from_pandas() -> None:
    """Lets pyarrow, where it is loaded, ask for pandas once and find none: else it loads it at the first conversion.

    It asks to know whether what it is given is a pandas object. No command makes any.
    """
    pa = sys.modules.get("pyarrow")
    if pa is not None:
        with hidden(("pandas",)):
            pa.array([True]).to_numpy(zero_copy_only=False)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps what modules log while the body loads them from the screen: Beam says of BigQuery, MongoDB and others that
    they are not installed, which nobody asked for."""
    was = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(was)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Lets the body make objects that stay, as imports do, and keeps them out of every later search for garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Half a million objects of libraries: whoever searches them finds nothing, and a forked process that does
        # writes into pages that it had in common with its parent.
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Makes imports of modules fail in the body, as if they were not installed; loaded ones stay as they are."""
    finder = _Hiding(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Hiding(importlib.abc.MetaPathFinder):
    """Finds nothing of some names, and lets nobody else look. (A None in `sys.modules` is a module to Cython.)"""

    def __init__(self, names: tuple[str, ...]):
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r} (hidden)", name=fullname)
