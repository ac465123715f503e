import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.errors import InputError
from stores.logs import ColumnNames, describe_files
from stores.schemas import ENGAGEMENTS
from transforms.read_logs import REASONS, find_bad_rows, normalise, read_batches, row_groups

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


def why(**columns):
    reason = find_bad_rows(normalise(raw(**columns), ColumnNames()), DAY)
    return None if reason[0] < 0 else REASONS[reason[0]]


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
