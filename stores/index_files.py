"""The files of an index shard beside those of its old graph: of pins that changed since that was built, or that it
misses."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.files import FileEntry, Root
from stores.masks import NO_IDS
from stores.tables import part_stem, read_files

CHANGED, MASKED = "changed", "masked"  # the first words of their names


def write_masked(root: Root, date: datetime.date, number: int, masked: np.ndarray) -> FileEntry:
    """Writes the pins of a shard's old graph, int64, ascending, that are not served from it any more:
    `indexes/<date>/masked-NNNNN-<digest>.parquet` of `pin_id`."""
    rows = pa.table({"pin_id": masked})
    folder = f"indexes/{date.isoformat()}"
    return root.write_named_by_content(
        folder, part_stem(number, MASKED), ".parquet", number, len(masked), lambda path: pq.write_table(rows, path)
    )


def has_role(entry: FileEntry, role: str) -> bool:
    """Whether a file of an index is a second graph's (`CHANGED`), or the list of masked pins (`MASKED`)."""
    return entry.path.rpartition("/")[2].startswith(f"{role}-")


def count_indexed(entries: list[FileEntry]) -> int:
    """How many pins are served from the files of shards, by the rows that their manifest says."""
    return sum(-entry.rows if has_role(entry, MASKED) else entry.rows for entry in entries)


def count_twins(entries: list[FileEntry]) -> int:
    """How many twins the files of shards hold, of pins masked too."""
    return sum(entry.rows for entry in entries if entry.path.endswith(".parquet") and not has_role(entry, MASKED))


def read_masked(root: Root, entries: list[FileEntry]) -> np.ndarray:
    """The pins of a shard's old graph that are not served from it any more: int64, ascending.

    Args:
        entries: All files of the shard.
    """
    masks = [entry for entry in entries if has_role(entry, MASKED)]
    return read_files(root, masks, verify=True)["pin_id"].to_numpy() if masks else NO_IDS
