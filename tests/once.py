"""Folders that are made once for all processes of a session: pytest-xdist's workers each have fixtures of their own."""

import fcntl
import os
import pickle
from collections.abc import Callable
from typing import TypeVar

import pytest

Told = TypeVar("Told")


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The temporary folder of the session, which all of its processes see."""
    base = tmp_path_factory.getbasetemp()
    return str(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


def make_once(base: str, name: str, make: Callable[[str], Told]) -> tuple[str, Told]:
    """A folder `base`/`name` that one process fills while the others wait; if that fails, the next one tries anew.

    Args:
        make: Fills the folder, which is there and empty; what it returns is pickled for the other processes.

    Returns:
        The folder, not to be changed, and what `make` returned.
    """
    with open(f"{base}/{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = f"{base}/{name}.told"
        if os.path.exists(told):
            with open(told, "rb") as file:
                folder, found = pickle.load(file)
            return folder, found
        number = sum(entry.startswith(f"{name}-") for entry in os.listdir(base))
        folder = f"{base}/{name}-{number}"
        os.mkdir(folder)
        found = make(folder)
        with open(told, "wb") as file:
            pickle.dump((folder, found), file)
    return folder, found
