"""Lists of users: those that a person gives, and those that lie under a root, one id per line."""

import re

import numpy as np

from stores.errors import StoreError, UsageError
from stores.files import Root

ERASED = "erased"


def read_user_list(path: str) -> np.ndarray:
    """Sorted distinct int64 ids of a file, one per line.

    Raises:
        UsageError: it cannot be read, is empty, or a line is not a user id; names the line.
    """
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise UsageError(f"--users {path}: {error.strerror}; expected one user id per line") from None
    ids = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        value = int(text) if re.fullmatch(rb"[+-]?[0-9]{1,19}", text) else 1 << 64  # int() takes 1_000 for 1000
        if not -(1 << 63) <= value < 1 << 63:
            shown = text[:40].decode(errors="replace")
            raise UsageError(f"--users {path}: line {number}: {shown!r} is not a user id; one per line")
        ids.append(value)
    if not ids:
        raise UsageError(f"--users {path}: nobody in it; expected one user id per line")
    return np.unique(np.array(ids, np.int64))


def read_erased(root: Root) -> np.ndarray:
    """Sorted int64 ids of the users that ROOT/erased lists, one per line; empty if there is no such file.

    Raises:
        StoreError: a line is not a whole number.
    """
    return read_ids(root, ERASED) if root.exists(ERASED) else np.empty(0, np.int64)


def read_ids(root: Root, relative: str) -> np.ndarray:
    """Sorted distinct int64 ids of a file under the root, one per line.

    Raises:
        StoreError: a line is not a whole number.
    """
    lines = root.read_bytes(relative).split()
    try:
        return np.unique(np.array([int(line) for line in lines], np.int64))
    except (ValueError, OverflowError) as error:
        raise StoreError(f"{root.path(relative)}: {error}; expected one user id per line") from None


def write_ids(root: Root, relative: str, users: np.ndarray) -> None:
    """Writes what `read_ids` reads."""
    root.write_bytes(relative, "".join(f"{user}\n" for user in users.tolist()).encode())
