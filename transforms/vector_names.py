"""The strings that pins are, on their way from logs and vector sets into a vector set that is made of both."""

from collections.abc import Iterable, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from stores.files import FileEntry, Root
from stores.ids import find_sorted
from stores.schemas import names_schema
from stores.tables import read_files, write_rows
from stores.vector_sets import PinRows
from transforms.id_names import merge_names
from transforms.named_rows import Names, unpack_names
from transforms.run import RunFolder


class KeepNames(beam.DoFn):
    """(shard, names of pins, as `ReadLogs` gives them) -> FileEntry of the shard's names, staged."""

    def __init__(self, run: RunFolder):
        self._run = run

    def setup(self):
        self._run.check_root()

    def process(self, element: tuple[int, Iterable[bytes]]):
        shard, chunks = element
        # Of two strings with one id the first in the logs keeps it: the other's engagements are then taken for its own,
        # which a vector bears. Once in billions of ids.
        merged = merge_names(names_schema("pin_id").empty_table(), unpack_names(chunks))
        yield write_rows(self._run.root, f"{self._run.staging}/names", shard, merged.table)


def read_staged_names(root: Root, entries: Iterable[FileEntry]) -> list[Names]:
    """What `KeepNames` wrote, a shard after the other."""
    found = []
    for entry in sorted(entries, key=lambda entry: entry.part):
        rows = read_files(root, [entry])
        found.append(Names(rows["pin_id"].to_numpy(), rows["name"].combine_chunks()))
    return found


def names_in_rows(rows: PinRows | None) -> list[Names]:
    """The names that a vector set has; none where its pins are numbers."""
    return [] if rows is None or rows.names is None else [Names(rows.pin, rows.names)]


def strings_of(pins: np.ndarray, known: Sequence[Names]) -> pa.Array:
    """The strings of pins int64 [P], each of which some source knows; of several, the first that does.

    Args:
        known: Each sorted by id.
    """
    strings = pa.concat_arrays([names.strings.cast(pa.large_string()) for names in known])
    row = np.full(len(pins), -1)
    first = 0
    for names in known:
        at, found = find_sorted(names.ids, pins)
        new = found & (row < 0)
        row[new] = first + at[new]
        first += len(names.ids)
    if (row < 0).any():
        raise ValueError(f"{int((row < 0).sum())} pins without a name")
    return strings.take(pa.array(row)).cast(pa.string())
