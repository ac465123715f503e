"""Appending to LMDB: pages are filled whole, and what may not be appended is dropped without a word."""

import contextlib
import itertools
import operator
from collections.abc import Iterator

import lmdb

FEW = 100  # keys that are taken out and put back for the sake of appending


def put_sorted(cursor: lmdb.Cursor, keys: list[bytes], values: list[bytes]) -> None:
    """Puts values under keys in ascending order; appended where nothing of it stands in the way.

    Appending fills pages whole. It also drops, without a word, a key that is not later than all that are there: so it
    is done only where that was looked at, and whoever calls counts.
    """
    ascending = all(map(operator.lt, keys, itertools.islice(keys, 1, None)))
    append = ascending and not (cursor.last() and bytes(cursor.key()) >= keys[0])
    cursor.putmulti(list(zip(keys, values, strict=True)), append=append)


@contextlib.contextmanager
def nothing_after(transaction: lmdb.Transaction, prefix: bytes) -> Iterator[None]:
    """Takes the few keys that come after all of a prefix out while the body runs, so that it can append.

    Those are records of namespaces, as `<namespace>:generations`. Users of another generation stay: then the body has
    to put its own in between. Nobody sees it, since all is one transaction.
    """
    with transaction.cursor() as cursor:
        found = cursor.set_range(prefix + b"\xff" * 9)  # after the last user
        later = [(bytes(key), bytes(value)) for key, value in itertools.islice(cursor, FEW + 1)] if found else []
    later = later if len(later) <= FEW else []
    for key, _ in later:
        transaction.delete(key)
    yield
    for key, value in later:
        transaction.put(key, value)
