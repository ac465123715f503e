"""Reads engagement logs: only the columns needed, validated a column at a time, cut by the bucket of the user."""

import dataclasses
import datetime
import time
from collections.abc import Collection, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pinnerformer_model.days import DAY_MS, midnight_ms
from stores import locations
from stores.erasure import read_erased
from stores.errors import InputError
from stores.files import FileEntry, Root
from stores.logs import COLUMNS, ColumnNames, LogFile, open_log_file
from stores.names import Counter, Step
from stores.schemas import ENGAGEMENTS
from transforms.batches import split_by_bucket, to_ipc
from transforms.markers import CompletionMarker, write_marker
from transforms.report_outputs import REPORTS, tagged
from transforms.run import Repair, RunFolder
from transforms.step_reports import task_report

BATCH_ROWS = 1 << 18
OLDEST_DAYS = 366

# A row is dropped for the first of these that holds.
REASONS = (
    "null_user_id",
    "null_pin_id",
    "null_timestamp",
    "null_action",
    "null_surface",
    "negative_pin_id",
    "negative_duration",
    "timestamp_after_partition",
    "timestamp_too_old",
)


def normalise(batch: pa.RecordBatch, columns: ColumnNames) -> pa.RecordBatch:
    """Brings a batch of a log file to the schema `ENGAGEMENTS`; NaN durations become null, other nulls stay.

    Raises:
        pa.ArrowInvalid: a number does not fit the column's type, or a word is not UTF-8.
    """
    arrays = []
    for name, field in zip(COLUMNS, ENGAGEMENTS, strict=True):
        column = batch[columns.theirs(name)]
        if name == "timestamp_ms" and pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
        elif name == "duration_s":
            column = column.cast(pa.float32(), safe=False)
            if column.null_count < len(column):
                column = pc.if_else(pc.is_nan(column), None, column)
        elif name in ("action", "surface") and column.type != field.type:
            column = (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).cast(pa.string())
            column = column.dictionary_encode()
        if name in ("action", "surface"):
            column.dictionary.validate(full=True)  # few words; else it is a later step that meets them, and no file
        arrays.append(column.cast(field.type))
    return pa.record_batch(arrays, schema=ENGAGEMENTS)


def _null(column: pa.Array) -> np.ndarray:
    return column.is_null().to_numpy(zero_copy_only=False)


def find_bad_rows(batch: pa.RecordBatch, partition: datetime.date) -> np.ndarray:
    """Says of every row why it cannot be used.

    Args:
        batch: Rows of schema `ENGAGEMENTS`.
        partition: The ingestion date of the rows' file.

    Returns:
        int8 [N]: an index into `REASONS`, -1 for a good row.
    """
    end_ms = midnight_ms(partition) + DAY_MS
    timestamp = batch["timestamp_ms"].fill_null(0).to_numpy()
    tests = {
        **{f"null_{name.removesuffix('_ms')}": _null(batch[name]) for name in COLUMNS if name != "duration_s"},
        "negative_pin_id": batch["pin_id"].fill_null(0).to_numpy() < 0,
        "negative_duration": batch["duration_s"].fill_null(0).to_numpy() < 0,
        "timestamp_after_partition": timestamp >= end_ms,
        "timestamp_too_old": timestamp < end_ms - (OLDEST_DAYS + 1) * DAY_MS,
    }
    reason = np.full(batch.num_rows, -1, np.int8)
    for index in reversed(range(len(REASONS))):
        reason[tests[REASONS[index]]] = index
    return reason


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """The unit that a worker reads: one row group of a log file."""

    file: LogFile
    index: int

    @property
    def task(self) -> str:
        """Its name as a task of a run."""
        return f"{self.file.name.replace('/', '+')}+{self.index:05d}"


def row_groups(file: LogFile) -> list[RowGroup]:
    """The row groups of a log file, so that a large file spreads over workers."""
    groups = pq.read_metadata(locations.open_input(file.path)).num_row_groups
    return [RowGroup(file, index) for index in range(groups)]


def read_batches(group: RowGroup, columns: ColumnNames) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a row group in schema `ENGAGEMENTS`.

    Raises:
        InputError: the file is damaged, or a number is out of range; names the file.
    """
    path = group.file.path
    try:
        with open_log_file(path, columns) as source:
            for batch in source.iter_batches(
                BATCH_ROWS, row_groups=[group.index], columns=[columns.theirs(c) for c in COLUMNS], use_threads=False
            ):
                yield normalise(batch, columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: row group {group.index} cannot be read ({str(error).splitlines()[0]}); "
            "the file is damaged, write it again or remove it"
        ) from error


@dataclasses.dataclass
class ReadCounts:
    """What happened to the rows of one row group.

    Attributes:
        counters: rows_read, rows_erased, rows_dropped, bytes_shuffled, and dropped_<reason> for each of `REASONS`.
        dead: The rows that were dropped, with their `reason`.
    """

    counters: dict[str, int]
    dead: list[pa.Table]

    @classmethod
    def zero(cls) -> "ReadCounts":
        names = (Counter.ROWS_READ, Counter.BYTES_SHUFFLED, Counter.ROWS_ERASED, Counter.ROWS_DROPPED)
        return cls(dict.fromkeys((*names, *(f"dropped_{reason}" for reason in REASONS)), 0), [])


def read_valid(
    group: RowGroup, columns: ColumnNames, erased_users: np.ndarray, counts: ReadCounts
) -> Iterator[pa.RecordBatch]:
    """Yields the good rows of a row group and counts the others.

    Args:
        erased_users: Sorted int64 ids whose rows are left out.
        counts: Added to as batches are read.
    """
    counters = counts.counters
    for batch in read_batches(group, columns):
        counters[Counter.ROWS_READ] += batch.num_rows
        reason = find_bad_rows(batch, group.file.date)
        if (reason >= 0).any():
            bad = np.flatnonzero(reason >= 0)
            for index, count in enumerate(np.bincount(reason[bad], minlength=len(REASONS))):
                counters[f"dropped_{REASONS[index]}"] += int(count)
            counters[Counter.ROWS_DROPPED] += len(bad)
            if len(erased_users):  # counted, and kept nowhere
                ids = batch["user_id"].take(pa.array(bad))
                bad = bad[_null(ids) | ~np.isin(ids.fill_null(0).to_numpy(), erased_users)]
            names = pa.DictionaryArray.from_arrays(pa.array(reason[bad].astype(np.int32)), pa.array(REASONS))
            counts.dead.append(pa.table(batch.take(pa.array(bad))).append_column("reason", names))
            batch = batch.filter(pa.array(reason < 0))
        if len(erased_users):
            erased = np.isin(batch["user_id"].to_numpy(), erased_users)
            counters[Counter.ROWS_ERASED] += int(erased.sum())
            batch = batch.filter(pa.array(~erased))
        yield batch


def write_dead_letters(run: RunFolder, group: RowGroup, dead: list[pa.Table]) -> list[FileEntry]:
    """Writes the dropped rows of a row group, with the file they came from, into the run's folder; none, no file."""
    if not dead:
        return []
    names = pa.array([group.file.name], pa.string()).take(pa.array(np.zeros(sum(map(len, dead)), np.int32)))
    rows = pa.concat_tables(dead).append_column("file", names)
    return [
        run.root.write_named_by_content(
            f"{run.staging}/dead_letters",
            f"{group.file.date}-{group.index:05d}",
            ".parquet",
            0,
            rows.num_rows,
            lambda path: pq.write_table(rows, path),
        )
    ]


class ReadAndPartition(beam.DoFn):
    """RowGroup -> (bucket, Arrow IPC bytes) of its good rows; the bad ones go to the dead letters of the run."""

    def __init__(
        self,
        run: RunFolder,
        columns: ColumnNames,
        buckets: int,
        repair: Repair | None,
        finished: Collection[int],
        erased_root: Root,
    ):
        self._erased_root = erased_root
        self._run = run
        self._columns = columns
        self._buckets = buckets
        self._repair = repair
        self._finished = frozenset(finished)

    def setup(self):
        self._run.check_root()
        self._erased = read_erased(self._erased_root)
        self._repaired = self._repair.read_users(self._run.root) if self._repair else None

    def process(self, group: RowGroup):
        started = time.perf_counter()
        counts = ReadCounts.zero()
        counters = counts.counters
        for batch in read_valid(group, self._columns, self._erased, counts):
            if self._repaired is not None:
                mine = np.isin(batch["user_id"].to_numpy(), self._repaired)
                counters[Counter.ROWS_OF_OTHERS] = counters.get(Counter.ROWS_OF_OTHERS, 0) + int((~mine).sum())
                batch = batch.filter(pa.array(mine))
            for bucket, rows in split_by_bucket(batch, self._buckets):
                for chunk in to_ipc(rows):  # packed all the same: a resumed run counts what an undisturbed one does
                    counters[Counter.BYTES_SHUFFLED] += len(chunk)
                    if bucket not in self._finished:
                        yield bucket, chunk
        files = write_dead_letters(self._run, group, counts.dead)
        self._run.note_progress(Step.READ_LOGS, counters[Counter.ROWS_READ])
        done = task_report(started, counters, files={"dead_letters": files})
        write_marker(
            self._run.root, self._run.staging, Step.READ_LOGS, group.task, CompletionMarker({Step.READ_LOGS: done})
        )
        yield tagged(Step.READ_LOGS, done)


@dataclasses.dataclass
class ReadLogs(beam.PTransform):
    """Reads the log files of a run and routes their rows to the bucket that owns their user.

    Input: row groups. Output: `main`, (bucket, Arrow IPC bytes of at most 1 MB), and `reports`.

    Attributes:
        buckets: How many own the users.
        repair: Whose rows alone are read; None: everybody's.
        finished: Buckets whose histories are up to date already: their rows are not shuffled.
        erased_root: The root whose erased users are left out, also of the dead letters; None: the run's own.
    """

    run: RunFolder
    columns: ColumnNames
    buckets: int
    repair: Repair | None = None
    finished: Collection[int] = ()
    erased_root: Root | None = None

    def expand(self, groups: beam.PCollection[RowGroup]):
        read = ReadAndPartition(
            self.run, self.columns, self.buckets, self.repair, self.finished, self.erased_root or self.run.root
        )
        return groups | "ReadAndPartition" >> beam.ParDo(read).with_outputs(REPORTS, main="main")
