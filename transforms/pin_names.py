"""The names of pins, shard by shard: of the vectors, then of the logs, beside those that the release before has."""

import dataclasses
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import apache_beam as beam

from stores.files import FileEntry, Root
from stores.manifests import Manifest, read_manifest
from stores.names import Counter, Step
from stores.pin_vectors import read_table_names
from stores.row_pieces import read_pieces
from stores.tables import PIN_NAMES, part_stem, write_part
from transforms.backfill_rows import FindBuckets, of_day
from transforms.id_names import MergedNames, merge_names, read_names
from transforms.markers import CompletionMarker, write_marker
from transforms.named_rows import Names, unpack_names
from transforms.report_outputs import REPORTS, tagged
from transforms.run import Run
from transforms.step_reports import StepReport, task_report

VECTORS = ""  # the source of the names that vectors have: before every batch of the logs


def names_of(manifest: Manifest | None, shard: int) -> list[FileEntry]:
    """The files of a shard's names in a release; none where there are none."""
    return manifest.parts(PIN_NAMES).get(shard, []) if manifest else []


def vector_names(root: Root, tables: Iterable[FileEntry]) -> list[tuple[str, Names]]:
    """The names that a shard's vector table has, as `merge_names` takes them."""
    found = [read_table_names(root, entry) for entry in tables]
    return [(VECTORS, Names(*names)) for names in found if names is not None]


def write_pin_names(
    run: Run, shard: int, entries: Sequence[FileEntry], merged: MergedNames, started: float
) -> StepReport:
    """Writes a shard's names if there are new ones, and reports."""
    written = list(entries)
    if merged.added or not written:
        written = [write_part(run.root, PIN_NAMES, run.date, shard, merged.table)]
    return task_report(started, {Counter.PINS_NAMED: merged.added}, files={PIN_NAMES: written})


class NameShard(beam.DoFn):
    """(shard, its vector table and names from the logs) -> `Collided` strings; writes the shard's names."""

    def __init__(self, run: Run):
        self._run = run

    def setup(self):
        self._run.check_root()
        self._before = read_manifest(self._run.root, self._run.previous) if self._run.previous else None

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]):
        started = time.perf_counter()
        run, (shard, groups) = self._run, element
        entries = names_of(self._before, shard)
        old = read_names(run.root, entries, "pin_id")
        merged = merge_names(old, [*vector_names(run.root, groups["tables"]), *unpack_names(groups["names"])])
        done = write_pin_names(run, shard, entries, merged, started)
        write_marker(run.root, run.staging, Step.NAME_PINS, part_stem(shard), CompletionMarker({Step.NAME_PINS: done}))
        yield tagged(Step.NAME_PINS, done)
        yield from merged.collided


@dataclasses.dataclass
class NamePins(beam.PTransform):
    """Merges the names of pins, shards in parallel.

    Input: (shard, Arrow IPC bytes), as `ReadLogs` gives the names of pins. Output: `main`, the `Collided` strings, and
    `reports`, which name the files.

    Attributes:
        tables: The pin vector tables, one per shard.
        finished: Shards whose names an earlier attempt of the run wrote.
    """

    run: Run
    tables: beam.PCollection[FileEntry]
    finished: Collection[int] = ()

    def expand(self, names: beam.PCollection[tuple[int, bytes]]):
        finished = frozenset(self.finished)
        tables = (
            self.tables
            | "ShardsToName" >> beam.Filter(lambda entry: entry.part not in finished)
            | "TableByShard" >> beam.Map(lambda entry: (entry.part, entry))
        )
        # Distinct names of each batch, and of vectors the name of a file: small beside the rows, which go by user.
        return (
            {"names": names, "tables": tables}
            | "GroupByShard" >> beam.CoGroupByKey()
            | "NameShard" >> beam.ParDo(NameShard(self.run)).with_outputs(REPORTS, main="main")
        )


class NameShardOfDays(beam.DoFn):
    """(shard, its vector table and (day, file of names)) -> (day, `Collided`); writes the shard's names of every day.

    No marker is kept: what it reads is small beside the rows, and stays as long as the range is not committed.
    """

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs

    def setup(self):
        self._runs[0].check_root()
        run = self._runs[0]
        self._before = read_manifest(run.root, run.previous) if run.previous else None

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]):
        shard, groups = element
        root, entries = self._runs[0].root, names_of(self._before, shard)
        names = read_names(root, entries, "pin_id")
        of_vectors = vector_names(root, groups["tables"])
        files: dict[int, list[FileEntry]] = {}
        for day, entry in groups["names"]:
            files.setdefault(day, []).append(entry)
        for day, run in enumerate(self._runs):
            started = time.perf_counter()
            chunks = [piece for entry in files.get(day, ()) for piece in read_pieces(root, entry, shard)]
            merged = merge_names(names, [*of_vectors, *unpack_names(chunks)])
            done = write_pin_names(run, shard, entries, merged, started)
            names, entries = merged.table, done.files[PIN_NAMES]
            yield of_day(day, tagged(Step.NAME_PINS, done))
            for one in merged.collided:
                yield day, one


@dataclasses.dataclass
class NamePinsOfDays(beam.PTransform):
    """As `NamePins`, of all days of a range, in order.

    Input: (day, file of names, cut by shard). Output: `main`, (day, `Collided`), and `reports`, (day, (step, report)).

    Attributes:
        runs: One per day, in order.
        tables: The pin vector tables, one per shard.
    """

    runs: Sequence[Run]
    tables: beam.PCollection[FileEntry]

    def expand(self, staged: beam.PCollection[tuple[int, FileEntry]]):
        tables = self.tables | "TableByShard" >> beam.Map(lambda entry: (entry.part, entry))
        names = staged | "FindShards" >> beam.ParDo(FindBuckets(self.runs))
        return (
            {"names": names, "tables": tables}
            | "GroupByShard" >> beam.CoGroupByKey()
            | "NameShard" >> beam.ParDo(NameShardOfDays(self.runs)).with_outputs(REPORTS, main="main")
        )
