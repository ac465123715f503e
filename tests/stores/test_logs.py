"""Log files of every writer: read right, or refused by file, column and row."""

import datetime
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.errors import InputError
from stores.logs import COLUMNS, ColumnNames, describe_files, open_log_file, read_row_group
from tests.warm import run_python

NO_NAMES = ColumnNames()
ROWS = 4000
NOON = datetime.datetime(2026, 11, 6, 12, tzinfo=datetime.UTC)


def table(**columns) -> pa.Table:
    """Rows whose texts are too many for a dictionary of a small page limit."""
    rows = np.arange(ROWS)
    good = {
        "user_id": pa.array(rows),
        "pin_id": pa.array(rows * 1_000_003),
        "timestamp_ms": pa.array(rows + int(NOON.timestamp() * 1000)),
        "action": pa.array([f"action {row % 3}" for row in rows]),
        "surface": pa.array([f"surface {row % 1700}" for row in rows]),
        "duration_s": pa.array(rows / 7, pa.float32()),
    }
    return pa.table({**good, **columns})


def read(path: str) -> pa.Table:
    """The rows of the first row group, texts in full."""
    batches = []
    for _, batch in read_row_group(path, 0, NO_NAMES, batch_rows=1000):
        plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
        batches.append(pa.record_batch(plain, names=batch.schema.names))
    return pa.Table.from_batches(batches)


@pytest.mark.parametrize("page", ["1.0", "2.0"])
@pytest.mark.parametrize(
    "how",
    [
        {"use_dictionary": False, "column_encoding": {"action": "DELTA_BYTE_ARRAY", "surface": "PLAIN"}},
        {"use_dictionary": False, "column_encoding": {"surface": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"user_id": "DELTA_BINARY_PACKED", "pin_id": "BYTE_STREAM_SPLIT"}},
        {"dictionary_pagesize_limit": 1000, "data_page_size": 2000},
        {"compression": "zstd", "write_page_checksum": True},
    ],
)
def test_every_encoding_is_read(tmp_path, how, page):
    path = str(tmp_path / "a.parquet")
    pq.write_table(table(), path, data_page_version=page, **how)
    assert read(path).equals(table())


def test_an_encoding_without_dictionaries_from_some_page_on(tmp_path, monkeypatch):
    """What parquet-mr writes when a dictionary grows too large: pyarrow gives up where the encoding changes."""
    path = str(tmp_path / "a.parquet")
    pq.write_table(table(), path)
    batches = pq.ParquetFile.iter_batches

    def stops(self, *args, **more):
        whole = list(batches(self, *args, **more))
        if pa.types.is_dictionary(whole[0]["action"].type):
            yield whole[0].slice(0, 700)
            raise OSError("Not yet implemented: DecodeArrow of DictAccumulator for DeltaByteArrayDecoder.")
        yield from whole

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", stops)
    numbered = [(first, batch.num_rows) for first, batch in read_row_group(path, 0, NO_NAMES, batch_rows=1000)]
    assert numbered == [(0, 700), (700, 300), (1000, 1000), (2000, 1000), (3000, 1000)]
    assert read(path).equals(table())


@pytest.mark.parametrize("schema", [True, False])
def test_text_of_every_kind(tmp_path, schema):
    for number, kind in enumerate((pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string()))):
        path = str(tmp_path / f"{number}.parquet")
        pq.write_table(table(action=table()["action"].cast(kind)), path, store_schema=schema)
        assert read(path)["action"].cast(pa.string()).equals(table()["action"])


def test_old_timestamps_of_any_year(tmp_path):
    """INT96, Spark's old default, in the nanoseconds that pyarrow reads it in: the year 2611 is a moment of 2026."""
    far = [NOON.replace(year=year) for year in (2026, 2611, 9999)] * 2
    path = str(tmp_path / "a.parquet")
    rows = table().slice(0, 6)
    rows = rows.set_column(2, "timestamp_ms", pa.array(far, pa.timestamp("us", "UTC")))
    pq.write_table(rows, path, use_deprecated_int96_timestamps=True)
    assert read(path)["timestamp_ms"].cast(pa.timestamp("us", "UTC")).to_pylist() == far


def test_a_flipped_bit_is_named_by_column_and_rows(tmp_path):
    path = str(tmp_path / "a.parquet")
    how = {"compression": "none", "use_dictionary": ["action", "surface"], "row_group_size": 3000}
    pq.write_table(table(), path, write_page_checksum=True, **how)
    with open(path, "r+b") as file:
        data = file.read()
        at = data.find(np.int64(3100 * 1_000_003).tobytes())
        file.seek(at + 2)
        file.write(bytes([data[at + 2] ^ 1]))
    list(read_row_group(path, 0, NO_NAMES, batch_rows=1000))
    with pytest.raises(InputError) as refused:
        list(read_row_group(path, 1, NO_NAMES, batch_rows=1000))
    assert f"{path}: row group 1 cannot be read (column 'pin_id', rows 3000 to 3999: " in str(refused.value)
    assert "CRC" in str(refused.value)


def test_columns_that_are_there_twice_or_in_a_folders_name_only(tmp_path):
    twice = str(tmp_path / "a.parquet")
    pq.write_table(table().append_column("user_id", table()["user_id"]), twice)
    with pytest.raises(InputError, match=r"a\.parquet: 2 columns are called 'user_id'"):
        open_log_file(twice, NO_NAMES)
    pq.write_table(table().append_column("x", table()["user_id"]).append_column("x", table()["user_id"]), twice)
    assert read(twice).equals(table())  # what is not needed may be there as often as it likes
    folder = tmp_path / "surface=home"
    folder.mkdir()
    pq.write_table(table().drop_columns(["surface"]), folder / "a.parquet")
    with pytest.raises(InputError, match="no column 'surface' but in the name of its folder"):
        open_log_file(str(folder / "a.parquet"), NO_NAMES)


def test_what_is_no_parquet_file_is_called_what_it_is(tmp_path):
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(b"rows"))
    with pytest.raises(InputError, match=rf"{path}: not a readable Parquet file \(it is gzip around the whole file\)"):
        open_log_file(str(path), NO_NAMES)


def test_only_what_is_wanted_is_read(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(table().rename_columns(["who", *COLUMNS[1:]]), path)
    columns = ColumnNames.parse(["user_id=who"])
    (batch,) = [batch for _, batch in read_row_group(path, 0, columns, ("user_id",), batch_rows=ROWS)]
    assert batch.schema.names == ["who"] and batch.num_rows == ROWS


def test_columns_that_may_be_absent(tmp_path):
    """A file that has them is read as ever; one that lacks them has no such column in its batches."""
    columns = ColumnNames.parse(["surface=place"], ["surface", "duration_s"])
    path = str(tmp_path / "a.parquet")
    pq.write_table(table().drop_columns(["surface"]), path)
    with pytest.raises(InputError, match="no column 'surface' .* say --column surface=NAME; if the logs .* --absent"):
        open_log_file(path, NO_NAMES)
    (batch,) = [batch for _, batch in read_row_group(path, 0, columns, batch_rows=ROWS)]
    assert batch.schema.names == ["user_id", "pin_id", "timestamp_ms", "action", "duration_s"]
    (batch,) = [batch for _, batch in read_row_group(path, 0, columns, ("surface",), batch_rows=ROWS)]
    assert batch.num_rows == ROWS and batch.num_columns == 0
    folder = tmp_path / "ds=2026-11-06"
    folder.mkdir()
    (tmp_path / "a.parquet").rename(folder / "a.parquet")
    pq.write_table(table().rename_columns([*COLUMNS[:4], "place", "duration_s"]), folder / "b.parquet")
    one, other = describe_files(str(folder), NOON.date(), columns)
    assert (one.lacking, other.lacking) == (("surface",), ())
    with pytest.raises(InputError, match="no column 'who'"):
        open_log_file(str(folder / "b.parquet"), ColumnNames.parse(["user_id=who"], ["surface"]))


def test_a_column_in_the_name_of_a_folder_is_not_absent(tmp_path):
    """Its values are there, and one word in their place would be another."""
    (tmp_path / "surface=web").mkdir()
    path = str(tmp_path / "surface=web" / "a.parquet")
    pq.write_table(table().drop_columns(["surface"]), path)
    with pytest.raises(InputError, match="no column 'surface' but in the name of its folder"):
        open_log_file(path, ColumnNames.parse([], ["surface"]))


# In a process of its own: asked for a column of a damaged footer, pyarrow would end the process.
DAMAGED_FOOTERS = """
import sys
from stores.column_names import ColumnNames
from stores.errors import InputError
from stores.logs import open_log_file

whole = open(sys.argv[1], "rb").read()
footer, found = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), {"opened": 0, "refused": 0}
for place in range(footer, footer + 60):  # the schema
    for value in (3, whole[place] ^ 1):
        damaged = bytearray(whole)
        damaged[place] = value
        with open(f"{sys.argv[1]}-damaged", "wb") as file:
            file.write(damaged)
        try:
            open_log_file(f"{sys.argv[1]}-damaged", ColumnNames()).close()
            found["opened"] += 1
        except InputError:
            found["refused"] += 1
assert min(found.values()) > 20, found
"""


def test_a_damaged_footer_of_string_ids_ends_no_process(tmp_path):
    path, rows = tmp_path / "a.parquet", 500
    columns = {name: pa.array([f"{name}-{number % 90}" for number in range(rows)]) for name in ("user_id", "pin_id")}
    words = {name: pa.array(["click"] * rows) for name in ("action", "surface")}
    times = pa.array([1_762_000_000_000 + number for number in range(rows)])
    table = pa.table({**columns, **words, "timestamp_ms": times, "duration_s": pa.array([1.0] * rows, pa.float32())})
    pq.write_table(table, path, row_group_size=200)
    done = run_python(DAMAGED_FOOTERS, str(path))
    assert done.returncode == 0, done.stderr[-2000:]
