"""The strings that ids stand for, kept with a release: merged night by night, and what happens where two have one id.

The string that was first keeps the id: the one that the release before has, then the one of the earliest batch. Rows of
another string are taken out before anything is made of them.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.files import FileEntry, Root
from stores.ids import find_sorted
from stores.schemas import names_schema
from stores.tables import read_files
from transforms.named_rows import Names
from transforms.sorted_rows import merge_order


@dataclasses.dataclass(frozen=True)
class Collided:
    """A string of a batch whose id stands for another string."""

    source: str
    id: int
    name: str


@dataclasses.dataclass(frozen=True)
class MergedNames:
    """What merging gave.

    Attributes:
        table: All names, sorted by id.
        added: How many of them are new.
        collided: What lost its id, batch by batch.
    """

    table: pa.Table
    added: int
    collided: list[Collided]


def read_names(root: Root, entries: Sequence[FileEntry], key: str) -> pa.Table:
    """The names of a bucket or a shard, compared with their sha256; none without files.

    Raises:
        StoreError: a file is missing or damaged.
    """
    return read_files(root, list(entries), verify=True) if entries else names_schema(key).empty_table()


def merge_names(old: pa.Table, parts: Sequence[tuple[str, Names]]) -> MergedNames:
    """Merges the names of some batches into those that are known.

    Args:
        old: Id and `name`, sorted by id, each id once.
        parts: (source, its names), those first that were first.
    """
    ids = np.concatenate([np.empty(0, np.int64), *(names.ids for _, names in parts)])
    strings = pa.concat_arrays([pa.array([], pa.string()), *(names.strings for _, names in parts)])
    old_ids, old_names = old.column(0).to_numpy(), _whole(old.column(1))
    collided: list[Collided] = []
    new_ids, new_names, doubted = _fold(ids, strings, old_ids, old_names)
    if len(doubted):  # once in billions of ids
        lost = _losers(ids, strings, doubted, old_ids, old_names)
        begin = np.cumsum([0, *(len(names.ids) for _, names in parts)])
        for at in lost.tolist():
            source = parts[int(np.searchsorted(begin, at, side="right")) - 1][0]
            collided.append(Collided(source, int(ids[at]), strings[at].as_py()))
        kept = np.ones(len(ids), bool)
        kept[lost] = False
        new_ids, new_names, _ = _fold(ids[kept], strings.filter(pa.array(kept)), old_ids, old_names)
    if not len(new_ids):
        return MergedNames(old, 0, collided)
    order = pa.array(merge_order(old_ids, new_ids))
    whole = pa.concat_arrays([old_names, new_names]).take(order)
    table = pa.table([pa.array(np.concatenate([old_ids, new_ids])).take(order), whole], schema=old.schema)
    return MergedNames(table, len(new_ids), collided)


def _fold(
    ids: np.ndarray, strings: pa.Array, old_ids: np.ndarray, old_names: pa.Array
) -> tuple[np.ndarray, pa.Array, np.ndarray]:
    """The pairs that are new, sorted, each id once; and the ids that have two strings, whose pair may be either."""
    order = np.argsort(ids)
    ids, strings = ids[order], strings.take(pa.array(order))
    again = np.zeros(len(ids), bool)
    again[1:] = ids[1:] == ids[:-1]
    differs = np.zeros(len(ids), bool)
    if again.any():
        differs[1:] = again[1:] & pc.not_equal(strings[1:], strings[:-1]).to_numpy(zero_copy_only=False)
    doubted = ids[differs]
    if again.any():
        ids, strings = ids[~again], strings.filter(pa.array(~again))
    at, known = find_sorted(old_ids, ids)
    mine = np.flatnonzero(known)
    other = pc.not_equal(strings.take(pa.array(mine)), old_names.take(pa.array(at[mine])))
    doubted = np.union1d(doubted, ids[mine[other.to_numpy(zero_copy_only=False)]])
    return ids[~known], strings.filter(pa.array(~known)), doubted


def _losers(
    ids: np.ndarray, strings: pa.Array, doubted: np.ndarray, old_ids: np.ndarray, old_names: pa.Array
) -> np.ndarray:
    """Positions of the pairs whose id stands for another string."""
    lost = []
    for one in doubted.tolist():
        rows = np.flatnonzero(ids == one)
        at, known = find_sorted(old_ids, np.array([one]))
        keeps = old_names[int(at[0])] if known[0] else strings[int(rows[0])]
        lost.append(rows[pc.not_equal(strings.take(pa.array(rows)), keeps).to_numpy(zero_copy_only=False)])
    return np.sort(np.concatenate(lost))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


def drop_names(names: pa.Table, gone: np.ndarray) -> pa.Table:
    """Names without those of some rows; the very same table where there are none.

    Args:
        gone: bool [N].
    """
    return names.filter(pa.array(~gone)).combine_chunks() if gone.any() else names
