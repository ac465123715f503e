"""Numbers of one id out of a mapped file: those that Parquet's own reader gives, whatever the file is like."""

import hashlib
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores import plain_columns
from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.page_headers import ColumnChunk, column_chunks, read_plain_page
from stores.plain_columns import read_numbers_of
from stores.tables import read_rows_of, write_part
from tests.warm import run_python
from tests.worlds import day

PLAIN = {"compression": "none", "use_dictionary": False, "data_page_size": 4096, "write_batch_size": 64}
USERS = [-(2**63), -7, 0, 5, 6, 900, 2**63 - 1]


def histories(seed: int = 0) -> pa.Table:
    """Users of many rows and of one, over several pages; a column with nulls."""
    draw = np.random.default_rng(seed)
    counts = [3, 1, 2000, 700, 1, 1500, 4]
    users = np.repeat(USERS, counts)
    pins = draw.integers(2**62, size=len(users))
    return pa.table({"user_id": users, "pin_id": pins, "other": pa.array(pins, mask=draw.random(len(pins)) < 0.01)})


def written(root: Root, rows: pa.Table, name: str = "a.parquet", **options) -> FileEntry:
    path = root.path(name)
    pq.write_table(rows, path, **{**PLAIN, **options})
    with open(path, "rb") as file:
        return FileEntry(name, 0, rows.num_rows, os.path.getsize(path), hashlib.sha256(file.read()).hexdigest())


def check(root: Root, entry: FileEntry, column: str = "pin_id") -> None:
    for user in [*USERS, -8, 1, 901]:
        rows = read_rows_of(root, [entry], "user_id", np.array([user]), [column])
        found = read_numbers_of(root, entry, "user_id", user, column)
        np.testing.assert_array_equal(found, rows[column].to_numpy())


@pytest.fixture
def root(tmp_path) -> Root:
    plain_columns._plain_columns.cache_clear()
    return Root(str(tmp_path))


@pytest.fixture
def read_otherwise(monkeypatch) -> list:
    """Files that were read as any Parquet file is."""
    seen = []
    monkeypatch.setattr(plain_columns, "read_rows_of", lambda *given: seen.append(given) or read_rows_of(*given))
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 1000},
        {"row_group_size": 1000, "write_statistics": False},
        {"write_page_checksum": True},
        {"data_page_size": 1 << 20},
    ],
)
def test_the_rows_of_a_user_over_pages_and_row_groups(root, options, read_otherwise):
    entry = written(root, histories(), **options)
    check(root, entry)
    assert not read_otherwise
    column, _ = plain_columns._plain_columns(root, entry, "user_id", "pin_id")
    assert column.rows[-1] == entry.rows and (len(column.offsets) > 3) == ("data_page_size" not in options)


def test_files_as_the_job_writes_them_are_read_so(root, read_otherwise):
    check(root, write_part(root, "histories", day(0), 3, histories().select(["user_id", "pin_id"])))
    required = pa.schema([pa.field(name, pa.int64(), nullable=False) for name in ("user_id", "pin_id")])
    check(root, written(root, histories().select(required.names).cast(required)))
    empty = write_part(root, "histories", day(0), 4, histories()[:0])
    assert not read_otherwise and read_numbers_of(root, empty, "user_id", 5, "pin_id").tolist() == []


@pytest.mark.parametrize(
    ("options", "column"),
    [
        ({"compression": "zstd"}, "pin_id"),
        ({"use_dictionary": True}, "pin_id"),
        ({"data_page_version": "2.0"}, "pin_id"),
        ({"column_encoding": {"pin_id": "DELTA_BINARY_PACKED"}}, "pin_id"),
        ({}, "other"),
    ],
)
def test_files_that_are_written_otherwise_are_read_all_the_same(root, options, column, read_otherwise):
    entry = written(root, histories(), **options)
    for user in (5, 901):
        rows = read_rows_of(root, [entry], "user_id", np.array([user]), [column])[column].to_numpy()
        np.testing.assert_array_equal(read_numbers_of(root, entry, "user_id", user, column), rows)
    assert len(read_otherwise) == 2


def test_a_file_whose_pages_are_known_is_not_mapped(root, read_otherwise, monkeypatch):
    entry = written(root, histories())
    rows = read_rows_of(root, [entry], "user_id", np.array([USERS[1]]), ["pin_id"])
    read_numbers_of(root, entry, "user_id", USERS[0], "pin_id")
    monkeypatch.setattr(Root, "open_input", None)
    found = read_numbers_of(root, entry, "user_id", USERS[1], "pin_id")
    assert len(found) and found.tolist() == rows["pin_id"].to_pylist() and not read_otherwise


def test_a_file_that_is_gone_or_cut_is_named_though_its_pages_are_known(root):
    entry = written(root, histories())
    check(root, entry)
    os.truncate(root.path(entry.path), entry.bytes - 100)
    with pytest.raises(StoreError, match=r"a\.parquet: has .* bytes"):
        read_numbers_of(root, entry, "user_id", 5, "pin_id")
    os.unlink(root.path(entry.path))
    with pytest.raises(StoreError, match=r"a\.parquet: cannot be read"):
        read_numbers_of(root, entry, "user_id", 5, "pin_id")


def test_a_damaged_page_header_raises_nothing_of_its_own(root):
    rows = histories().select(["user_id", "pin_id"])
    entry = written(root, rows, data_page_size=1 << 20)
    with open(root.path(entry.path), "rb") as file:
        whole = bytearray(file.read())
    at = pq.ParquetFile(root.path(entry.path)).metadata.row_group(0).column(0).data_page_offset
    page = read_plain_page(memoryview(whole), at, len(whole))
    assert page is not None and page.values == entry.rows and page.end - page.begin == 8 * entry.rows + 4 + 3
    draw = np.random.default_rng(2)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in draw.integers(at, page.begin, 1 + draw.integers(3)):
            damaged[place] = draw.integers(256)
        found = read_plain_page(memoryview(damaged), at, len(damaged))
        assert found is None or (found.end <= len(damaged) and found.begin > at)
    for end in range(at, page.begin):
        assert read_plain_page(memoryview(whole), at, end) is None
    assert read_plain_page(memoryview(b"\x1c" * 99), 0, 99) is None  # structs without an end


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"use_dictionary": True}])
def test_chunks_are_those_of_the_footer(root, options):
    entry = written(root, histories(), row_group_size=1000, **options)
    metadata = pq.ParquetFile(root.path(entry.path)).metadata
    for number in range(3):
        groups = [metadata.row_group(index).column(number) for index in range(metadata.num_row_groups)]
        assert column_chunks(metadata, number) == [
            ColumnChunk(
                not options,
                chunk.data_page_offset,
                chunk.total_compressed_size,
                chunk.total_uncompressed_size,
                (chunk.statistics.min, chunk.statistics.max),
            )
            for chunk in groups
        ]


# In a process of its own: what pyarrow ends for a damaged footer is the process.
DAMAGED_FOOTERS = """
import sys
import numpy as np
from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.plain_columns import read_numbers_of
from stores.tables import read_rows_of

root, name, rows = Root(sys.argv[1]), sys.argv[2], int(sys.argv[3])
whole = open(root.path(name), "rb").read()
draw, found = np.random.default_rng(4), {"read": 0, "refused": 0}
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for number in range(200):
    damaged = bytearray(whole)
    damaged[draw.integers(footer, len(whole) - 8)] = draw.integers(256)
    entry = FileEntry(f"{number}.parquet", 0, rows, len(whole), "")
    with open(root.path(entry.path), "wb") as file:
        file.write(damaged)
    for read in (
        lambda: read_numbers_of(root, entry, "user_id", 900, "pin_id"),
        lambda: read_rows_of(root, [entry], "user_id", np.array([900]), ["pin_id"]),
    ):
        try:
            read()
            found["read"] += 1
        except StoreError:
            found["refused"] += 1
assert min(found.values()) > 30, found
"""


def test_a_damaged_footer_is_refused_and_ends_no_process(root):
    entry = written(root, histories().select(["user_id", "pin_id"]), row_group_size=1000)
    done = run_python(DAMAGED_FOOTERS, root.path(""), entry.path, str(entry.rows))
    assert done.returncode == 0, done.stderr[-2000:]
