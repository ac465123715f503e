"""The log rows of many days, read once and staged: what is shuffled are names of files, never rows."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import apache_beam as beam

from stores.column_names import ColumnNames
from stores.files import FileEntry
from stores.names import Counter, Step
from stores.row_pieces import list_buckets, write_pieces
from stores.string_ids import STRING
from stores.user_lists import read_erased
from transforms.gates.rhythm import HOURS
from transforms.markers import CompletionMarker, write_marker
from transforms.named_rows import PIN_NAMES, pack_pin_names, pack_rows
from transforms.read_logs import ReadCounts, RowGroup, read_valid, write_dead_letters
from transforms.report_outputs import REPORTS, tagged
from transforms.run import Run
from transforms.step_reports import task_report

ROWS = "rows"  # the folder of a run in which they are staged; another has the names of pins
Staged = tuple[int, FileEntry]  # (number of the day, a file of row pieces)


def is_of(entry: FileEntry, folder: str) -> bool:
    """Whether a staged file lies in one of a run's folders."""
    return entry.path.split("/")[2] == folder


def of_day(day: int, output: beam.pvalue.TaggedOutput) -> beam.pvalue.TaggedOutput:
    """Marks a report as one of a day of the range."""
    return beam.pvalue.TaggedOutput(output.tag, (day, output.value))


class SpoolRows(beam.DoFn):
    """(day, RowGroup) -> (day, file of its good rows, cut by bucket); the bad ones go to the day's dead letters."""

    def __init__(self, runs: Sequence[Run], columns: ColumnNames):
        self._runs = runs
        self._columns = columns

    def setup(self):
        self._runs[0].check_root()
        self._erased = read_erased(self._runs[0].root)

    def process(self, element: tuple[int, RowGroup]):
        started = time.perf_counter()
        day, group = element
        run = self._runs[day]
        counts = ReadCounts.zero()
        # In memory until the group is read: one row group, however large the file.
        pieces: list[tuple[int, bytes]] = []
        names: list[tuple[int, bytes]] = []
        shards = run.layout.pin_shards if run.layout.pin_ids == STRING else 0
        for batch in read_valid(group, self._columns, self._erased, counts):
            pieces += pack_rows(batch, run.layout.user_buckets)
            names += pack_pin_names(batch, shards)
        counters = counts.counters
        kept = counters[Counter.ROWS_READ] - counters[Counter.ROWS_DROPPED] - counters[Counter.ROWS_ERASED]
        entry = write_pieces(run.root, f"{run.staging}/{ROWS}", group.task, pieces, kept)
        staged = [entry]
        if run.layout.pin_ids == STRING:
            staged.append(write_pieces(run.root, f"{run.staging}/{PIN_NAMES}", group.task, names, 0))
        files = {"dead_letters": write_dead_letters(run, group, counts.dead)}
        run.note_progress(Step.READ_LOGS, counters[Counter.ROWS_READ])
        done = task_report(started, counters, files=files, histograms={HOURS: counts.hours.tolist()})
        write_marker(
            run.root, run.staging, Step.READ_LOGS, group.task, CompletionMarker({Step.READ_LOGS: done}, staged)
        )
        yield of_day(day, tagged(Step.READ_LOGS, done))
        yield day, entry
        for of_pins in staged[1:]:
            yield beam.pvalue.TaggedOutput(PIN_NAMES, (day, of_pins))


class FindBuckets(beam.DoFn):
    """(day, staged file) -> (bucket, (day, file)) for every bucket that has rows in it."""

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs

    def setup(self):
        self._runs[0].check_root()

    def process(self, element: Staged) -> Iterator[tuple[int, Staged]]:
        for bucket in list_buckets(self._runs[0].root, element[1]):
            yield int(bucket), element


@dataclasses.dataclass
class SpoolRowsByBucket(beam.PTransform):
    """Reads the log files of all days and tells every bucket in which files it has rows.

    Input: (day, RowGroup). Output: `main`, (bucket, (day, file)), `reports`, (day, (step, report)), and where pins are
    strings `pin_names`, (day, file of their names, cut by shard).

    Attributes:
        runs: One per day, in order.
        columns: The logs' own column names.
        staged: (day, file) of the row groups that an earlier attempt staged.
    """

    runs: Sequence[Run]
    columns: ColumnNames
    staged: Sequence[tuple[int, FileEntry]] = ()

    def expand(self, groups: beam.PCollection[tuple[int, RowGroup]]):
        # Reads the logs once for all days; the rows are written again, cut by bucket, at 36 bytes each.
        with_names = self.runs[0].layout.pin_ids == STRING
        outputs = (REPORTS, PIN_NAMES) if with_names else (REPORTS,)
        read = groups | "SpoolRows" >> beam.ParDo(SpoolRows(self.runs, self.columns)).with_outputs(
            *outputs, main="main"
        )
        rows_before = [(day, entry) for day, entry in self.staged if is_of(entry, ROWS)]
        found = groups.pipeline | "StagedBefore" >> beam.Create(rows_before)
        # A file is opened once more to list its buckets: 4 bytes per piece are read, and files that an earlier attempt
        # staged go the same way.
        by_bucket = (
            (read.main, found) | "AllStaged" >> beam.Flatten() | "FindBuckets" >> beam.ParDo(FindBuckets(self.runs))
        )
        out = {"main": by_bucket, REPORTS: read[REPORTS]}
        if with_names:
            names_before = [(day, entry) for day, entry in self.staged if is_of(entry, PIN_NAMES)]
            before = groups.pipeline | "NamesBefore" >> beam.Create(names_before)
            out[PIN_NAMES] = (read[PIN_NAMES], before) | "AllNames" >> beam.Flatten()
        return out
