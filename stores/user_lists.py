"""Lists of users: those that a person gives, with ids as the logs have them; and those that lie under a root.

A person's list has one id per line. Ids that are strings are taken as they stand, spaces too; where one may hold a line
break, ids are separated by NUL instead, as `find -print0` does it. Lists under a root have inner ids, which of strings
are the hashes: no file but the tables of names says what anybody is called.
"""

import codecs
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.id_names import Id, parse_id
from stores.string_ids import INT64, STRING, hash_strings

ERASED = "erased"


def read_user_list(path: str, kind: str = INT64, flag: str = "--users") -> np.ndarray:
    """Sorted distinct inner ids int64 of a file, one id per line.

    Args:
        kind: Of the root's user ids.
        flag: That named the file, for messages.

    Raises:
        UsageError: it cannot be read, is empty, or a line is not a user id; names the line.
    """
    return np.unique(np.array(list(read_listed(path, kind, flag)), np.int64))


def read_listed(path: str, kind: str = INT64, flag: str = "--users") -> dict[int, str]:
    """Inner id -> how the file has it, of every id of a file; in its order.

    Raises:
        UsageError: as `read_user_list`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UsageError(f"{flag} {path}: {error.strerror}; expected one user id per line") from None
    found = (_strings_in if kind == STRING else _numbers_in)(f"{flag} {path}", data)
    if not found:
        raise UsageError(f"{flag} {path}: nobody in it; expected one user id per line")
    return found


def _numbers_in(named: str, data: bytes) -> dict[int, str]:
    ids = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.strip().decode(errors="replace")
        if not text:
            continue
        value = parse_id(text, INT64)
        if value is None:
            raise UsageError(f"{named}: line {number}: {text[:40]!r} is not a user id; one per line")
        ids[value] = text
    return ids


def _strings_in(named: str, data: bytes) -> dict[int, str]:
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.decode())
        except UnicodeDecodeError:
            raise UsageError(f"{named}: line {number}: not UTF-8, as ids are; write the file as UTF-8") from None
    texts = [text for text in texts if text]
    return dict(zip(hash_strings(pa.array(texts, pa.large_string())).tolist(), texts, strict=True))


def to_user_list(ids: Iterable[Id]) -> bytes:
    """What `read_listed` reads as these ids."""
    texts = [str(one) for one in ids]
    if any(set(text) & {"\n", "\r"} for text in texts):
        return "".join(f"{text}\0" for text in texts).encode()
    return "".join(f"{text}\n" for text in texts).encode()


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
