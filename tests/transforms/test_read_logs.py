import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.errors import InputError
from stores.log_text import MAX_TEXT_BYTES
from stores.logs import DEFAULT_DAYS, ColumnNames, describe_files
from stores.partitions import PartitionDays
from stores.schemas import ENGAGEMENTS
from transforms.batches import MAX_SHUFFLED_BYTES, from_ipc, split_by_bucket, to_ipc
from transforms.read_logs import (
    REASONS,
    ReadCounts,
    find_bad_rows,
    normalise,
    read_batches,
    read_valid,
    row_groups,
    to_milliseconds,
)

DAY = datetime.date(2026, 11, 20)
END_MS = 1795219200000  # 2026-11-21T00:00:00Z
DAY_MS = 86_400_000


def raw(**columns):
    good = {
        "user_id": [1],
        "pin_id": [2],
        "timestamp_ms": [END_MS - 1],
        "action": ["save"],
        "surface": ["home"],
        "duration_s": [1.5],
    }
    return pa.RecordBatch.from_pydict({**good, **columns})


def why(days=None, **columns):
    reason = find_bad_rows(normalise(raw(**columns), ColumnNames()), DAY, days)
    return None if reason[0] < 0 else REASONS[reason[0]]


def text(*values: bytes) -> pa.Array:
    """Bytes that a file says are text, as pyarrow reads them: unchecked."""
    column = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(column), column.buffers())


def read_file(folder, days=DEFAULT_DAYS, **columns) -> tuple[list[dict], ReadCounts]:
    """The good rows of a file of some rows, in row groups of three; and what became of the others."""
    rows = max(map(len, columns.values()))
    good = {name: pa.concat_arrays([column] * rows) for name, column in zip(raw().schema.names, raw(), strict=True)}
    path = folder / "ds=2026-11-20" / "a.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({**good, **columns}), path, row_group_size=3)
    (file,) = describe_files(str(path.parent), DAY, ColumnNames(), days)
    counts, found = ReadCounts.zero(), []
    for group in row_groups(file):
        for batch in read_valid(group, ColumnNames(), np.array([7]), counts):
            found += batch.to_pylist()
            for _, piece in split_by_bucket(batch, 2):
                assert all(len(chunk) <= MAX_SHUFFLED_BYTES for chunk in to_ipc(piece))
    return found, counts


def test_the_day_ends_where_it_should():
    assert datetime.datetime.fromtimestamp(END_MS / 1000, datetime.UTC).isoformat() == "2026-11-21T00:00:00+00:00"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({}, None),
        ({"duration_s": [0.0]}, None),
        ({"duration_s": pa.array([None], pa.float32())}, None),
        ({"duration_s": [float("nan")]}, None),
        ({"timestamp_ms": [END_MS - 367 * DAY_MS]}, None),
        ({"user_id": [-5]}, None),
        ({"user_id": pa.array([None], pa.int64())}, "null_user_id"),
        ({"pin_id": pa.array([None], pa.int64())}, "null_pin_id"),
        ({"timestamp_ms": pa.array([None], pa.int64())}, "null_timestamp"),
        ({"action": pa.array([None], pa.string())}, "null_action"),
        ({"surface": pa.array([None], pa.string())}, "null_surface"),
        ({"pin_id": [-1]}, "negative_pin_id"),
        ({"duration_s": [-0.1]}, "negative_duration"),
        ({"timestamp_ms": [END_MS]}, "timestamp_after_partition"),
        ({"timestamp_ms": [END_MS - 367 * DAY_MS - 1]}, "timestamp_too_old"),
        ({"duration_s": [float("inf")]}, None),
        ({"duration_s": [1e39]}, None),
        ({"duration_s": [float("-inf")]}, "negative_duration"),
        ({"timestamp_ms": pa.array([(1 << 63) + 5], pa.uint64())}, "timestamp_after_partition"),
        ({"action": ["x" * (MAX_TEXT_BYTES - 3)]}, "text_too_long"),
        ({"action": ["x" * (MAX_TEXT_BYTES - 4)]}, None),
        ({"surface": text(b"ho\xffme")}, "text_not_utf8"),
    ],
)
def test_every_reason(columns, reason):
    assert why(**columns) == reason


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime.datetime(2026, 11, 20, 12)], pa.timestamp("us")),
        pa.array([datetime.datetime(2026, 11, 20, 12)], pa.timestamp("ns", "UTC")),
        pa.array([END_MS - DAY_MS // 2], pa.int64()),
    ],
)
def test_timestamps_of_every_kind(column):
    assert normalise(raw(timestamp_ms=column), ColumnNames())["timestamp_ms"].to_pylist() == [END_MS - DAY_MS // 2]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int64(), pa.large_string()),
    ],
)
def test_strings_of_every_kind(kind):
    got = normalise(raw(action=pa.array(["save"]).cast(kind)), ColumnNames())
    assert got.schema == ENGAGEMENTS
    assert got["action"].to_pylist() == ["save"]


def test_other_column_names_and_extra_columns(tmp_path):
    folder = tmp_path / "ds=2026-11-20"
    folder.mkdir()
    batch = raw(item_id=[77], extra=["x"]).drop_columns(["pin_id"])
    pq.write_table(pa.Table.from_batches([batch]), folder / "a.parquet")
    columns = ColumnNames.parse(["pin_id=item_id"])
    (file,) = describe_files(str(folder), DAY, columns)
    (group,) = row_groups(file)
    (got,) = read_batches(group, columns)
    assert got.to_pylist()[0]["pin_id"] == 77


def test_absent_columns_are_one_value_and_their_words_are_ours(tmp_path):
    """Dead letters have our words too; an action that is null in the file is null, whatever is absent elsewhere."""
    folder = tmp_path / "ds=2026-11-20"
    folder.mkdir()
    rows = [
        raw(action=pa.array([word], pa.string()), pin_id=[pin]) for pin, word in enumerate(["add", "view", None, "buy"])
    ]
    rows.append(raw(action=["add"], pin_id=[-1]))
    lacking = [batch.drop_columns(["surface", "duration_s"]) for batch in rows]
    pq.write_table(pa.Table.from_batches(lacking), folder / "a.parquet", row_group_size=2)
    columns = ColumnNames.parse([], ["action=like", "surface", "duration_s"], ["action:add=buy"])
    (file,) = describe_files(str(folder), DAY, columns)
    assert file.lacking == ("duration_s", "surface")
    counts, found = ReadCounts.zero(), []
    for group in row_groups(file):
        for batch in read_valid(group, columns, np.array([7]), counts):
            assert batch.schema.equals(ENGAGEMENTS)
            found += batch.to_pylist()
    assert [(row["pin_id"], row["action"]) for row in found] == [(0, "buy"), (1, "view"), (3, "buy")]
    assert {(row["surface"], row["duration_s"]) for row in found} == {("unknown", None)}
    dead = [row for piece in counts.dead for row in piece.to_pylist()]
    assert [(row["reason"], row["action"]) for row in dead] == [("null_action", None), ("negative_pin_id", "buy")]
    (batch,) = [normalise(rows[0].drop_columns(["action"]), columns)]
    assert batch["action"].to_pylist() == ["like"]


def test_damaged_pages_name_the_file(tmp_path):
    folder = tmp_path / "ds=2026-11-20"
    folder.mkdir()
    path = folder / "a.parquet"
    pq.write_table(pa.Table.from_batches([raw(pin_id=[5])] * 1000), path, compression="zstd")
    (file,) = describe_files(str(folder), DAY, ColumnNames())
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet: row group 0 cannot be read"):
        list(read_batches(row_groups(file)[0], ColumnNames()))


def test_durations_that_are_no_number_were_not_measured():
    """Something divided by zero in the log pipeline: an infinite one would fail its user every night."""
    for kind in (pa.float64(), pa.float32(), pa.float16()):
        values = pa.array([np.float16(v) for v in (1.5, np.inf, np.nan, 0)], pa.float16()).cast(kind)
        for column in (values, pa.concat_arrays([values, pa.nulls(1, kind)])):
            rows = pa.record_batch([column], names=["duration_s"])
            whole = {name: pa.concat_arrays([raw()[name]] * len(column)) for name in raw().schema.names[:-1]}
            got = normalise(raw(**whole, duration_s=rows["duration_s"]), ColumnNames())["duration_s"].to_pylist()
            assert got == [1.5, None, None, 0.0, None][: len(column)]
    assert normalise(raw(duration_s=[1e39]), ColumnNames())["duration_s"].to_pylist() == [None]


def test_times_past_what_milliseconds_hold_are_its_ends():
    most = (1 << 63) - 1
    seconds = pa.array([most, -most, 5, None], pa.timestamp("s"))
    assert to_milliseconds(seconds).to_pylist() == [most // 1000 * 1000, -(most // 1000 * 1000), 5000, None]
    assert to_milliseconds(pa.array([1 << 63, 5, None], pa.uint64())).to_pylist() == [most, 5, None]


def test_days_of_another_zone_and_clocks_that_are_fast():
    """A partition of a day of UTC-8 ends at 08:00 UTC; with two minutes of skew two minutes later."""
    hour, west = 3_600_000, PartitionDays(day_offset_s=-8 * 3600)
    east = PartitionDays(day_offset_s=5 * 3600 + 1800)
    skewed = PartitionDays(max_clock_skew_s=120)
    for days, end in ((west, END_MS + 8 * hour), (east, END_MS - 5.5 * hour), (skewed, END_MS + 120_000)):
        assert why(days, timestamp_ms=[int(end) - 1]) is None
        assert why(days, timestamp_ms=[int(end)]) == "timestamp_after_partition"
    assert why(west, timestamp_ms=[END_MS - 367 * DAY_MS]) == "timestamp_too_old"
    assert why(skewed, timestamp_ms=[END_MS - 367 * DAY_MS]) is None


def test_hours_are_those_of_the_partitions_day(tmp_path):
    """Days of UTC-8 begin at 08:00 UTC; rows that a skew of the clocks lets in are counted after the day."""
    hour, west = 3_600_000, PartitionDays(day_offset_s=-8 * 3600, max_clock_skew_s=120)
    for days, start in ((PartitionDays(), END_MS - DAY_MS), (west, END_MS - DAY_MS + 8 * hour)):
        times = [start - 1, start, start + hour, start + DAY_MS - 1, start + DAY_MS + 1]  # the last too late, or skewed
        _, counts = read_file(tmp_path, days, timestamp_ms=pa.array(times))
        assert counts.hours[[0, 1, 2, 24]].tolist() == [1, 1, 1, 1]
        assert counts.hours[25] == (days is west) and counts.hours.sum() == 4 + (days is west)


def test_a_row_too_large_to_shuffle_is_a_dead_letter(tmp_path):
    """One action of 10 MB: its row is dropped, with its file and number, and no other."""
    actions = ["save"] * 4 + ["x" * 10_000_000] + ["save"] * 3
    found, counts = read_file(tmp_path, action=pa.array(actions), user_id=pa.array(range(8)))
    assert [row["user_id"] for row in found] == [0, 1, 2, 3, 5, 6]  # 7 was erased
    assert counts.counters["dropped_text_too_long"] == counts.counters["rows_dropped"] == 1
    (dead,) = counts.dead
    assert dead.to_pylist() == [
        {**found[0], "user_id": 4, "action": "x" * 1000, "reason": "text_too_long", "row": 4},
    ]
    assert dead["action"].combine_chunks().dictionary.nbytes < 10_000


def test_text_that_is_none_stops_nothing(tmp_path):
    """Bytes that are no UTF-8; the words of a row group stand in the dictionary of every batch of it."""
    actions = text(b"save", b"\xff\xfe", b"click", b"save", b"click", b"\xc3")
    for columns in ({"action": actions}, {"surface": actions.dictionary_encode()}):
        found, counts = read_file(tmp_path, **columns)
        (name,) = columns
        assert [row[name] for row in found] == ["save", "click", "save", "click"]
        assert counts.counters["dropped_text_not_utf8"] == 2
        dead = pa.concat_tables(counts.dead).to_pylist()
        assert [(row[name], row["row"]) for row in dead] == [("\ufffd\ufffd", 1), ("\ufffd", 5)]


def test_reasons_that_do_not_occur_leave_the_counters_what_they_were(tmp_path):
    _, counts = read_file(tmp_path, pin_id=pa.array([1, -1]))
    assert set(counts.counters) == {
        "rows_read",
        "bytes_shuffled",
        "rows_erased",
        "rows_dropped",
        *(f"dropped_{reason}" for reason in REASONS[:9]),
    }


@pytest.mark.parametrize("name", ["user_id", "pin_id"])
def test_ids_past_int64_are_named_by_column_and_row(tmp_path, name):
    with pytest.raises(InputError, match=rf"a\.parquet: column '{name}', row 4: {(1 << 63) + 5}; ids must fit int64"):
        read_file(tmp_path, **{name: pa.array([0, 1, 2, 3, (1 << 63) + 5], pa.uint64())})
    found, _ = read_file(tmp_path, **{name: pa.array([0, 1, 2, 3, None], pa.uint64())})
    assert [row[name] for row in found] == [0, 1, 2, 3]


def test_words_too_many_for_a_piece():
    """A piece carries the dictionaries of its batch: with 3 MB of words each gets those that it uses."""
    words = [f"{number:06d}" + "x" * 300 for number in range(10_000)]
    columns = {
        name: pa.concat_arrays([column] * 10_000) for name, column in zip(raw().schema.names, raw(), strict=True)
    }
    batch = normalise(pa.RecordBatch.from_pydict({**columns, "surface": words}), ColumnNames())
    chunks = list(to_ipc(batch))
    assert max(map(len, chunks)) <= MAX_SHUFFLED_BYTES and len(chunks) < 10
    assert [row for got in from_ipc(chunks) for row in got.to_pylist()] == batch.to_pylist()
