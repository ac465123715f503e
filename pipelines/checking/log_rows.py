"""The rows of the logs, counted as the night reads them: what is dropped and why, who, what, when."""

import collections
import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pinnerformer_model.days import DAY_MS
from pipelines.checking.samples import CountedIds
from stores import locations
from stores.id_columns import encode_names, find_empty, find_unusable, id_kind
from stores.logs import TEXT_COLUMNS, ColumnNames, LogFile, read_row_group
from stores.names import Counter
from stores.string_ids import STRING
from transforms.read_logs import BATCH_ROWS, ReadCounts, RowGroup, read_numbered_batches, read_valid

EXAMPLES = 3  # rows shown of a reason
MOST_WORDS = 10_000  # of a text column, that are counted one by one
NAMES = {"user_id": "user_name", "pin_id": "pin_name"}  # beside rows whose ids are strings
NOBODY = np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True)
class SizedGroup:
    """A row group of a log file and how many rows it has."""

    group: RowGroup
    rows: int

    @property
    def name(self) -> str:
        return self.group.task


def sized_groups(file: LogFile) -> Iterator[SizedGroup]:
    """The row groups of a log file."""
    metadata = pq.read_metadata(locations.open_input(file.path))
    for index in range(metadata.num_row_groups):
        yield SizedGroup(RowGroup(file, index), metadata.row_group(index).num_rows)


@dataclasses.dataclass
class LogRows:
    """What the rows looked at are.

    Attributes:
        read: How many there are, good and bad.
        dropped: Reason -> how many rows the night would leave out.
        examples: Reason -> a few of them, file, number and what is in them.
        words: Text column -> word -> good rows.
        users, pins: Of the good rows.
        ids: `user_id`, `pin_id` -> smallest, largest; of ids that are strings, a few of them.
        unmeasured: Good rows without a duration.
        hours: int64 [26]: good rows by the hour of their partition's day, as the night counts them.
        past_end_ms: How far the latest row lies past the end of its partition's day; 0 where none does.
        odd_times: Of rows dropped for their time, the times, ms since 1970: a few.
    """

    read: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    words: dict[str, collections.Counter[str]] = dataclasses.field(
        default_factory=lambda: {name: collections.Counter() for name in TEXT_COLUMNS}
    )
    users: CountedIds = dataclasses.field(default_factory=CountedIds)
    pins: CountedIds = dataclasses.field(default_factory=CountedIds)
    ids: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    unmeasured: int = 0
    hours: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(26, np.int64))
    past_end_ms: int = 0
    odd_times: list[int] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> int:
        return self.read - sum(self.dropped.values())

    def add_group(self, group: RowGroup, columns: ColumnNames, most: int) -> None:
        """Reads a row group as the night does, at most about so many rows of it.

        Raises:
            InputError: it is damaged, or an id is out of range; names the file, the column and the row.
        """
        counts = ReadCounts.zero()
        for batch in read_valid(group, columns, NOBODY, counts):
            self._add_good(batch)
            for dead in counts.dead:
                self._add_dropped(dead, group.file)
            counts.dead.clear()
            if most and counts.counters[Counter.ROWS_READ] >= most:
                break
        self.read += counts.counters[Counter.ROWS_READ]
        self.hours += counts.hours

    def _add_good(self, batch: pa.RecordBatch) -> None:
        for name, ids in (("user_id", self.users), ("pin_id", self.pins)):
            values = batch[name].to_numpy()
            ids.add(values)
            if len(values) and NAMES[name] in batch.schema.names:
                self.ids.setdefault(name, tuple(batch[NAMES[name]][:EXAMPLES].to_pylist()))
            elif len(values):
                low, high = self.ids.get(name, (values[0], values[0]))
                self.ids[name] = (min(int(low), int(values.min())), max(int(high), int(values.max())))
        for name, words in self.words.items():
            for found in pc.value_counts(batch[name].dictionary_decode()):
                word = found["values"].as_py()
                if len(words) < MOST_WORDS or word in words:
                    words[word] += found["counts"].as_py()
        self.unmeasured += batch["duration_s"].null_count

    def _add_dropped(self, dead: pa.Table, file: LogFile) -> None:
        times = dead["timestamp_ms"].fill_null(0).to_numpy()
        reasons = dead["reason"].cast(pa.string()).to_numpy()
        for reason in np.unique(reasons):
            rows = np.flatnonzero(reasons == reason)
            self.dropped[str(reason)] += len(rows)
            shown = self.examples.setdefault(str(reason), [])
            for index in rows[: EXAMPLES - len(shown)].tolist():
                shown.append(f"{file.name}, row {dead['row'][index].as_py()}: {describe_row(dead, index)}")
        late, old = reasons == "timestamp_after_partition", reasons == "timestamp_too_old"
        if late.any():
            self.past_end_ms = max(self.past_end_ms, int(times[late].max()) - file.days.end_ms(file.date))
        self.odd_times += times[late | old][: 100 - len(self.odd_times)].tolist()

    def first_hour(self) -> int:
        """The hour of its partition's day with which a day's rows begin; 0 where they begin with it, or before."""
        inside = self.hours[1:25]
        begun = np.flatnonzero(inside > 0.001 * inside.sum())
        return int(begun[0]) if len(begun) and not self.hours[0] else 0


def describe_row(dead: pa.Table, index: int) -> str:
    """What is in a dropped row, for a person."""
    row = {name: dead[name][index].as_py() for name in ("user_id", "pin_id", "timestamp_ms", "action", "surface")}
    for ours, theirs in NAMES.items():
        if theirs in dead.column_names:
            row[ours] = dead[theirs][index].as_py()
    row["timestamp_ms"] = show_time(row["timestamp_ms"])
    return ", ".join(f"{name.removesuffix('_ms')} {'null' if v is None else v}" for name, v in row.items())


def show_time(timestamp_ms: int | None) -> str | None:
    """A time as people read it, in UTC; the number where no calendar has it."""
    if timestamp_ms is None:
        return None
    try:
        moment = datetime.datetime.fromtimestamp(timestamp_ms / 1000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def unit_of_times(times: Sequence[int]) -> str | None:
    """What unit times that are no milliseconds seem to have; None where they may well be milliseconds."""
    if not times:
        return None
    middle = sorted(times)[len(times) // 2]
    for unit, to_ms in (("seconds", 1000.0), ("microseconds", 1e-3), ("nanoseconds", 1e-6)):
        # Of this century: what is read as milliseconds is of 1970, or of the year 50,000.
        if 10_957 * DAY_MS < middle * to_ms < 47_482 * DAY_MS:
            return unit
    return None


def count_rows_per_user(group: RowGroup, columns: ColumnNames, users: CountedIds) -> None:
    """Counts the rows of a row group by their user, and reads nothing else of them; rows of nobody are not counted.

    Raises:
        InputError: as `read_row_group`.
    """
    for _, batch in read_row_group(group.file.path, group.index, columns, ("user_id",), batch_rows=BATCH_ROWS):
        column = batch.column(0)
        if id_kind(column.type) == STRING:
            ids, names = encode_names(column)
            too_long, no_text = find_unusable(names)
            nobody = names.indices.is_null().to_numpy(zero_copy_only=False) | find_empty(names)
            users.add(ids[~(nobody | too_long | no_text)])
        else:
            users.add(column.drop_null().cast(pa.int64(), safe=False).to_numpy())


def find_names(groups: Iterable[RowGroup], columns: ColumnNames, pins: np.ndarray) -> dict[int, str]:
    """Pin -> what the logs call it, of a few pins; groups are read until all of them are found."""
    found: dict[int, str] = {}
    for group in groups:
        for _, batch in read_numbered_batches(group, columns):
            if NAMES["pin_id"] not in batch.schema.names:
                return {int(pin): str(pin) for pin in pins}
            rows = np.flatnonzero(np.isin(batch["pin_id"].fill_null(-1).to_numpy(), pins))
            for row in rows.tolist():
                found.setdefault(batch["pin_id"][row].as_py(), batch[NAMES["pin_id"]][row].as_py())
            if len(found) == len(pins):
                return found
    return found
