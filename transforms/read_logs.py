"""Reads engagement logs: only the columns needed, validated a column at a time, cut by the bucket of the user."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Collection, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pinnerformer_model.days import DAY_MS
from stores import locations
from stores.column_names import TEXT_COLUMNS, ColumnNames
from stores.errors import InputError
from stores.files import FileEntry, Root
from stores.id_columns import encode_names, id_kind
from stores.log_text import is_plain, not_text, read_text, readable_text, too_long, used_text
from stores.logs import COLUMNS, LogFile, read_row_group
from stores.names import Counter, Step
from stores.partitions import PartitionDays
from stores.schemas import ENGAGEMENTS, NAME_COLUMNS, STRING_CODES
from stores.string_ids import STRING
from stores.user_lists import read_erased
from transforms.dead_letters import constant, name_faults, write_dead
from transforms.gates.rhythm import HOURS
from transforms.markers import CompletionMarker, write_marker
from transforms.named_rows import PIN_NAMES, pack_pin_names, pack_rows, source_name, split_collided, with_source
from transforms.report_outputs import REPORTS, tagged
from transforms.run import Repair, RunFolder
from transforms.step_reports import task_report

BATCH_ROWS = 1 << 18
OLDEST_DAYS = 366
INT64_MAX = (1 << 63) - 1

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
    "text_too_long",
    "text_not_utf8",
    "empty_user_id",
    "empty_pin_id",
)
ALWAYS_COUNTED = REASONS[:9]  # the others are counted where they occur


class OutOfRangeError(ValueError):
    """An id that no int64 holds.

    Attributes:
        column: Ours.
        row: Its number in the batch.
    """

    def __init__(self, column: str, row: int, value: int):
        super().__init__(
            f"{value}; ids must fit int64: write them as int64, hashes by their 64 bits as a signed number"
        )
        self.column = column
        self.row = row


def normalise(batch: pa.RecordBatch, columns: ColumnNames) -> pa.RecordBatch:
    """Brings a batch of a log file to the schema `ENGAGEMENTS`; durations that are no number become null.

    What the logs lack is one value, and their words are ours, as `columns` says. NaN and infinity are what a division
    by zero leaves in a log; other nulls stay. Where ids are strings, they follow in dictionary columns of their own,
    `user_name` and `pin_name`.

    Raises:
        OutOfRangeError: an id past 2**63, of an unsigned column.
    """
    arrays, fields, names = [], list(ENGAGEMENTS), []
    for name, field in zip(COLUMNS, ENGAGEMENTS, strict=True):
        if name in TEXT_COLUMNS:
            arrays.append(read_text(batch, name, columns).cast(field.type))
            continue
        theirs = columns.theirs(name)
        if columns.may_lack(name) and theirs not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch[theirs]
        if name == "timestamp_ms":
            column = to_milliseconds(column)
        elif name == "duration_s":
            column = column.cast(pa.float32(), safe=False)
            if pc.all(pc.is_finite(column)).as_py() is False:
                unknown = pc.or_(pc.is_nan(column), pc.equal(column, float("inf")))
                column = pc.if_else(unknown, None, column)
        elif id_kind(column.type) == STRING:
            valid = column.is_valid()
            ids, strings = encode_names(column)
            column = pa.array(ids, mask=None if not column.null_count else ~valid.to_numpy(zero_copy_only=False))
            fields.append(pa.field(NAME_COLUMNS[name], STRING_CODES))
            names.append(strings)
        elif column.type == pa.uint64():
            _refuse_too_large(name, column)
        arrays.append(column.cast(field.type))
    return pa.record_batch([*arrays, *names], schema=pa.schema(fields))


def to_milliseconds(column: pa.Array) -> pa.Array:
    """Times as int64 ms since 1970; those past what that holds become the last, or the first, moment that it does."""
    if pa.types.is_timestamp(column.type):
        if column.type.unit == "s":
            most = INT64_MAX // 1000
            seconds = pc.max_element_wise(pc.min_element_wise(column.cast(pa.int64()), most, skip_nulls=False), -most)
            seconds = pc.if_else(column.is_null(), None, seconds)
            return pc.multiply(seconds, 1000)
        return column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
    if column.type == pa.uint64():
        return pc.min_element_wise(column, pa.scalar(INT64_MAX, pa.uint64()), skip_nulls=False).cast(pa.int64())
    return column


def _refuse_too_large(name: str, column: pa.Array) -> None:
    values = column.fill_null(0).to_numpy()
    bad = np.flatnonzero(values > np.uint64(INT64_MAX))
    if len(bad):
        raise OutOfRangeError(name, int(bad[0]), int(values[bad[0]]))


def _null(column: pa.Array) -> np.ndarray:
    return column.is_null().to_numpy(zero_copy_only=False)


def find_bad_rows(batch: pa.RecordBatch, partition: datetime.date, days: PartitionDays | None = None) -> np.ndarray:
    """Says of every row why it cannot be used.

    Args:
        batch: Rows of schema `ENGAGEMENTS`.
        partition: The ingestion date of the rows' file.
        days: Which moments a partition's day has; by default those of its UTC day.

    Returns:
        int8 [N]: an index into `REASONS`, -1 for a good row.
    """
    days = days or PartitionDays()
    timestamp = batch["timestamp_ms"].fill_null(0).to_numpy()
    texts = [batch[name] for name in TEXT_COLUMNS]
    plain = is_plain(texts)
    tests = {
        "text_too_long": np.zeros(batch.num_rows, bool) if plain else too_long(texts),
        "text_not_utf8": np.zeros(batch.num_rows, bool) if plain else not_text(texts),
        **{f"null_{name.removesuffix('_ms')}": _null(batch[name]) for name in COLUMNS if name != "duration_s"},
        "negative_pin_id": batch["pin_id"].fill_null(0).to_numpy() < 0,
        "negative_duration": batch["duration_s"].fill_null(0).to_numpy() < 0,
        "timestamp_after_partition": timestamp >= days.end_ms(partition),
        "timestamp_too_old": timestamp < days.start_ms(partition) - OLDEST_DAYS * DAY_MS,
    }
    reason = np.full(batch.num_rows, -1, np.int8)
    for name, found in name_faults(batch).items():
        tests[name] = tests.get(name, False) | found
    for index in reversed(range(len(REASONS))):
        if REASONS[index] in tests:
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
        InputError: the file is damaged, or an id is out of range; names the file, the column and the row.
    """
    for _, batch in read_numbered_batches(group, columns):
        yield batch


def read_numbered_batches(group: RowGroup, columns: ColumnNames) -> Iterator[tuple[int, pa.RecordBatch]]:
    """As `read_batches`, each with the number of its first row in the file."""
    path = group.file.path
    for first, batch in read_row_group(path, group.index, columns, batch_rows=BATCH_ROWS):
        try:
            rows = normalise(batch, columns)
            yield first, with_source(rows, source_name(group.file.name, group.index, first))
        except OutOfRangeError as error:
            theirs = columns.theirs(error.column)
            raise InputError(f"{path}: column {theirs!r}, row {first + error.row}: {error}") from None
        except pa.ArrowException as error:
            rows = f"rows {first} to {first + batch.num_rows - 1}"
            raise InputError(
                f"{path}: {rows}: not understood ({str(error).splitlines()[0]}); write them again"
            ) from error


@dataclasses.dataclass
class ReadCounts:
    """What happened to the rows of one row group.

    Attributes:
        counters: rows_read, rows_erased, rows_dropped, bytes_shuffled, and dropped_<reason> for each of `REASONS`.
        dead: The rows that were dropped, with their `reason` and `row`, their number in the file from 0 on.
        hours: int64 [26], good rows by the hour of their partition's day, as `count_hours` counts them.
    """

    counters: dict[str, int]
    dead: list[pa.Table]
    hours: np.ndarray

    @classmethod
    def zero(cls) -> "ReadCounts":
        names = (Counter.ROWS_READ, Counter.BYTES_SHUFFLED, Counter.ROWS_ERASED, Counter.ROWS_DROPPED)
        return cls(
            dict.fromkeys((*names, *(f"dropped_{reason}" for reason in ALWAYS_COUNTED)), 0), [], np.zeros(26, np.int64)
        )

    def drop(self, batch: pa.RecordBatch, reason: np.ndarray, first: int, erased_users: np.ndarray) -> None:
        """Counts the bad rows of a batch and keeps them, but for those of erased users, which are kept nowhere.

        Args:
            reason: int8 [N], as `find_bad_rows` gives it.
            first: Number of the batch's first row in its file.
            erased_users: Sorted int64 ids.
        """
        bad = np.flatnonzero(reason >= 0)
        for index, count in enumerate(np.bincount(reason[bad], minlength=len(REASONS))):
            name = f"dropped_{REASONS[index]}"
            if count or name in self.counters:
                self.counters[name] = self.counters.get(name, 0) + int(count)
        self.counters[Counter.ROWS_DROPPED] += len(bad)
        if len(erased_users):
            ids = batch["user_id"].take(pa.array(bad))
            bad = bad[_null(ids) | ~np.isin(ids.fill_null(0).to_numpy(), erased_users)]
        rows = batch.take(pa.array(bad)).replace_schema_metadata(None)
        if not is_plain(texts_of(batch)):
            rows = with_text(rows, readable_text)
        names = pa.DictionaryArray.from_arrays(pa.array(reason[bad].astype(np.int32)), pa.array(REASONS))
        table = pa.table(rows).append_column("reason", names)
        self.dead.append(table.append_column("row", pa.array(first + bad.astype(np.int64))))


def texts_of(batch: pa.RecordBatch) -> list[pa.DictionaryArray]:
    """The columns of a batch that hold text, names of users and pins too."""
    return [column for column in batch.columns if pa.types.is_dictionary(column.type)]


def with_text(batch: pa.RecordBatch, change: Callable[[pa.DictionaryArray], pa.DictionaryArray]) -> pa.RecordBatch:
    """A batch of schema `ENGAGEMENTS` with its text columns changed."""
    columns = [
        change(column) if pa.types.is_dictionary(column.type) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.record_batch(columns, schema=batch.schema)


def count_hours(timestamp_ms: np.ndarray, midnight_ms: int) -> np.ndarray:
    """Counts rows by the hour, so that a shift, a missing hour and times without hours show.

    Args:
        midnight_ms: When the partition's day begins.

    Returns:
        int64 [26]: rows before the partition's day, in each of its 24 hours, and after it.
    """
    hour = (timestamp_ms - midnight_ms) // (DAY_MS // 24)
    return np.bincount(np.clip(hour, -1, 24) + 1, minlength=26)


def read_valid(
    group: RowGroup, columns: ColumnNames, erased_users: np.ndarray, counts: ReadCounts
) -> Iterator[pa.RecordBatch]:
    """Yields the good rows of a row group and counts the others.

    Args:
        erased_users: Sorted int64 ids whose rows are left out.
        counts: Added to as batches are read.
    """
    counters = counts.counters
    for first, batch in read_numbered_batches(group, columns):
        counters[Counter.ROWS_READ] += batch.num_rows
        reason = find_bad_rows(batch, group.file.date, group.file.days)
        if (reason >= 0).any():
            counts.drop(batch, reason, first, erased_users)
            batch = batch.filter(pa.array(reason < 0))
        if not is_plain([batch[name] for name in TEXT_COLUMNS]):
            # The dictionaries hold words of rows that were dropped, or that stand in a later batch of the row group.
            # (Of names only those go on that a row has.)
            batch = with_text(batch, used_text)
        if len(erased_users):
            erased = np.isin(batch["user_id"].to_numpy(), erased_users)
            counters[Counter.ROWS_ERASED] += int(erased.sum())
            batch = batch.filter(pa.array(~erased))
        counts.hours += count_hours(batch["timestamp_ms"].to_numpy(), group.file.days.start_ms(group.file.date))
        yield from split_collided(batch)


def write_dead_letters(run: RunFolder, group: RowGroup, dead: list[pa.Table]) -> list[FileEntry]:
    """Writes the dropped rows of a row group, with the file they came from, into the run's folder; none, no file."""
    if not dead:
        return []
    rows = pa.concat_tables(dead)
    rows = rows.append_column("file", constant(group.file.name, rows.num_rows))
    return [write_dead(run, f"{group.file.date}-{group.index:05d}", rows)]


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
        pin_shards: int,
    ):
        self._pin_shards = pin_shards
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
            for bucket, chunk in pack_rows(batch, self._buckets):
                # Packed all the same: a resumed run counts what an undisturbed one does.
                counters[Counter.BYTES_SHUFFLED] += len(chunk)
                if bucket not in self._finished:
                    yield bucket, chunk
            for shard, chunk in pack_pin_names(batch, self._pin_shards):
                yield beam.pvalue.TaggedOutput(PIN_NAMES, (shard, chunk))
        files = write_dead_letters(self._run, group, counts.dead)
        self._run.note_progress(Step.READ_LOGS, counters[Counter.ROWS_READ])
        histograms = {HOURS: counts.hours.tolist()}
        done = task_report(started, counters, files={"dead_letters": files}, histograms=histograms)
        write_marker(
            self._run.root, self._run.staging, Step.READ_LOGS, group.task, CompletionMarker({Step.READ_LOGS: done})
        )
        yield tagged(Step.READ_LOGS, done)


@dataclasses.dataclass
class ReadLogs(beam.PTransform):
    """Reads the log files of a run and routes their rows to the bucket that owns their user.

    Input: row groups. Output: `main`, (bucket, bytes of at most 1 MB, as `named_rows.pack_rows` has them), `reports`
    and, where pins are asked for by name, `pin_names`, (shard, Arrow IPC bytes).

    Attributes:
        buckets: How many own the users.
        repair: Whose rows alone are read; None: everybody's.
        finished: Buckets whose histories are up to date already: their rows are not shuffled.
        erased_root: The root whose erased users are left out, also of the dead letters; None: the run's own.
        pin_shards: How many own the names of pins; 0: nobody asks for them.
    """

    run: RunFolder
    columns: ColumnNames
    buckets: int
    repair: Repair | None = None
    finished: Collection[int] = ()
    erased_root: Root | None = None
    pin_shards: int = 0

    def expand(self, groups: beam.PCollection[RowGroup]):
        root = self.erased_root or self.run.root
        read = ReadAndPartition(self.run, self.columns, self.buckets, self.repair, self.finished, root, self.pin_shards)
        outputs = (REPORTS, PIN_NAMES) if self.pin_shards else (REPORTS,)
        return groups | "ReadAndPartition" >> beam.ParDo(read).with_outputs(*outputs, main="main")
