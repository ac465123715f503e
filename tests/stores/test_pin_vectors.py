"""Vectors looked up in sorted tables; and vector sets of every writer, read right or refused by file and row."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.errors import InputError
from stores.files import Root
from stores.ids import bucket_of, find_sorted
from stores.pin_topics import read_topics
from stores.pin_vectors import (
    VectorTable,
    describe_vectors,
    map_vector_table,
    read_vector_table,
    read_vectors,
    read_version,
    write_vector_table,
)
from stores.vector_columns import LEAST_NORM, MOST_NORM, norms_of
from tests.worlds import write_vectors

WIDTH = 256


@pytest.mark.parametrize(
    ("table", "values", "found"),
    [
        ([], [], []),
        ([], [3], [None]),
        ([5], [4, 5, 6], [None, 0, None]),
        ([-7, 0, 9], [9, -7, 0, 9], [2, 0, 1, 2]),
        ([1, 2, 3], [], []),
        ([10, 20], [25, 5, 15, 20], [None, None, None, 1]),
    ],
)
def test_where_values_stand_in_a_sorted_table(table, values, found):
    at, hit = find_sorted(np.array(table, np.int64), np.array(values, np.int64))
    assert [int(row) if there else None for row, there in zip(at, hit, strict=True)] == found


def vectors_of(pins: np.ndarray) -> np.ndarray:
    """A pin's vector is its id, 256 times."""
    return np.repeat(pins.astype(np.float16)[:, None], WIDTH, axis=1)


def write_tables(root: Root, pins: list[int], shards: int) -> list:
    ids = np.array(pins, np.int64)
    shard = bucket_of(ids, shards)
    return [
        write_vector_table(
            root, "vectors", f"shard-{s}", s, np.sort(ids[shard == s]), vectors_of(np.sort(ids[shard == s]))
        )
        for s in range(shards)
    ]


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_vectors_come_in_the_order_asked_whatever_the_shards(tmp_path, shards):
    root = Root(str(tmp_path))
    entries = write_tables(root, [4, 8, 15, 16, 23, 42], shards)  # with seven, some are empty
    table = VectorTable.open(root, entries[::-1], "float16")
    asked = np.array([42, 5, 4, 4, 99, 23], np.int64)
    found, vectors = table.look_up(asked)
    assert found.tolist() == [True, False, True, True, False, True]
    np.testing.assert_array_equal(vectors, vectors_of(np.array([42, 4, 4, 23])))
    rows = table.rows(asked)
    laid_out = np.concatenate(table.ids)
    assert [int(laid_out[row]) if row >= 0 else None for row in rows] == [42, None, 4, 4, None, 23]
    nothing, none = table.look_up(np.empty(0, np.int64))
    assert nothing.tolist() == [] and none.shape == (0, WIDTH)


def test_a_table_is_one_file_a_shard(tmp_path):
    root = Root(str(tmp_path))
    entries = write_tables(root, [1, 2, 3], 3)
    with pytest.raises(ValueError, match=r"expected one file a shard, got parts \[0, 2\]"):
        VectorTable.open(root, [entries[0], entries[2]], "float16")


@pytest.mark.parametrize("read", [map_vector_table, read_vector_table])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_what_is_written_is_what_is_read(tmp_path, read, count):
    root, ids = Root(str(tmp_path)), np.arange(count) * 3
    vectors = np.random.default_rng(0).standard_normal((count, WIDTH)).astype(np.float16)
    entry = write_vector_table(root, "vectors", "shard", 0, ids, vectors)
    found = read(root, entry, "float16")
    np.testing.assert_array_equal(found[0], ids)
    np.testing.assert_array_equal(found[1], vectors)
    assert entry.rows == count and found[1].dtype == np.float16


def test_row_groups_hold_all_of_a_file(tmp_path):
    vectors = {pin: np.full(WIDTH, pin, np.float16) for pin in range(70)}
    write_vectors(str(tmp_path), vectors)  # row groups of 31
    (file,) = describe_vectors(str(tmp_path), "v1").files
    assert (file.rows, file.row_groups, file.dtype) == (70, 3, "float16")
    parts = [read_vectors(file, group) for group in range(3)]
    assert [len(ids) for ids, _ in parts] == [31, 31, 8]
    assert np.concatenate([ids for ids, _ in parts]).tolist() == list(range(70))
    np.testing.assert_array_equal(parts[2][1], vectors_of(np.arange(62, 70)))


def test_a_bad_row_is_named_by_its_place_in_the_file(tmp_path):
    vectors = {pin: np.ones(WIDTH, np.float16) for pin in range(70)}
    vectors[65] = np.full(WIDTH, np.inf, np.float16)
    write_vectors(str(tmp_path), vectors)
    (file,) = describe_vectors(str(tmp_path), "v1").files
    read_vectors(file, 1)
    with pytest.raises(InputError, match=r"row 65 \(pin_id 65\): vector has NaN or infinity"):
        read_vectors(file, 2)


PINS = 6


def vectors(pins: int = PINS) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((pins, 256)).astype(np.float32)


def write(folder, name: str = "vectors.parquet", ids=None, rows=None, version="v1", **how) -> str:
    """Writes a file of vectors and version.json; returns the file's path."""
    folder.mkdir(exist_ok=True)
    rows = vectors() if rows is None else rows
    column = rows if isinstance(rows, pa.Array) else pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 256)
    table = pa.table({"pin_id": pa.array(range(len(column))) if ids is None else ids, "vector": column})
    pq.write_table(table, folder / name, row_group_size=4, **how)
    (folder / "version.json").write_text(json.dumps({"pinsage_version": version}))
    return str(folder / name)


def read_all(folder) -> list[tuple[np.ndarray, np.ndarray]]:
    files = describe_vectors(str(folder), "v1").files
    return [read_vectors(file, group) for file in files for group in range(file.row_groups)]


def refused(folder) -> str:
    with pytest.raises(InputError) as error:
        read_all(folder)
    return str(error.value)


def test_files_of_every_name_are_read(tmp_path):
    for number, name in enumerate(("000001_0", "b.parq", "c.parquet")):
        write(tmp_path, name, pa.array(range(number * PINS, (number + 1) * PINS)))
    (tmp_path / "_SUCCESS").touch()
    found = [ids for ids, _ in read_all(tmp_path)]
    assert np.concatenate(found).tolist() == list(range(3 * PINS))


def test_what_would_not_be_read_is_refused(tmp_path):
    path = write(tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    assert "readme.txt: not a readable Parquet file" in refused(tmp_path)
    (tmp_path / "readme.txt").unlink()
    (tmp_path / "shard=1").mkdir()
    assert f"{tmp_path}/shard=1: not a file, and nothing in it would be read" in refused(tmp_path)
    with pytest.raises(InputError, match="shard=1"):
        read_topics(str(tmp_path), np.arange(3))
    assert path


def test_a_column_that_is_there_twice(tmp_path):
    path = write(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.append_column("pin_id", table["pin_id"]), path)
    assert f"{path}: 2 columns are called 'pin_id'" in refused(tmp_path)
    pq.write_table(table.append_column("topic", table["pin_id"]).append_column("topic", table["pin_id"]), path)
    assert len(read_all(tmp_path)) == 1  # the topics are not asked for
    with pytest.raises(InputError, match=r"vectors\.parquet: unreadable \(expected one column"):
        read_topics(str(tmp_path), np.arange(3))


def test_ids_past_int64(tmp_path):
    path = write(tmp_path, ids=pa.array([0, 1, 2, 3, 4, (1 << 63) + 5], pa.uint64()))
    assert f"{path}: row 5 (pin_id {(1 << 63) + 5}): pin_id does not fit int64" in refused(tmp_path)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (1e-40, "too short"),
        (LEAST_NORM / 17, "too short"),
        (MOST_NORM / 15, "too long"),
        (3e38, "too long"),
        (np.inf, "NaN or infinity"),
    ],
)
def test_a_vector_that_has_no_direction_in_float32_is_named(tmp_path, value, what):
    rows = vectors()
    rows[5] = value
    path = write(tmp_path, rows=rows)
    assert f"{path}: row 5 (pin_id 5): " in refused(tmp_path) and what in refused(tmp_path)


@pytest.mark.parametrize("value", [0.0, LEAST_NORM / 15, MOST_NORM / 17, 6e-8])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_zeros_and_all_that_a_tower_can_work_with_are_read(tmp_path, value, kind):
    rows = vectors().astype(kind)
    rows[5] = min(value, 60_000.0)
    write(tmp_path, rows=rows)
    np.testing.assert_array_equal(read_all(tmp_path)[1][1][1], rows[5])


def test_norms():
    rows = vectors().astype(np.float16)
    np.testing.assert_allclose(norms_of(rows), np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-12)
    np.testing.assert_allclose(norms_of(np.full((1, 256), 3e38, np.float32)), 16 * 3e38, rtol=1e-6)


def test_a_null_inside_a_vector_is_named_by_its_row(tmp_path):
    flat = vectors().ravel()
    hole = np.zeros(len(flat), bool)
    hole[5 * 256 + 7] = True
    path = write(tmp_path, rows=pa.FixedSizeListArray.from_arrays(pa.array(flat, mask=hole), 256))
    assert f"{path}: row 5 (pin_id 5): a null inside the vector" in refused(tmp_path)


def test_a_flipped_bit_is_named_by_column_and_rows(tmp_path):
    path = write(tmp_path, compression="none", use_dictionary=False, write_page_checksum=True)
    with open(path, "r+b") as file:
        data = file.read()
        at = data.find(vectors()[5].tobytes()[:64])
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))
    assert f"{path}: row group 1 unreadable (column 'vector', rows 4 to 5: " in refused(tmp_path)


@pytest.mark.parametrize(("found", "version"), [("v1", "v1"), (7, "7"), ("7", "7")])
def test_a_version_may_be_a_number(tmp_path, found, version):
    write(tmp_path, version=found)
    assert read_version(str(tmp_path)) == version == describe_vectors(str(tmp_path), version).version


@pytest.mark.parametrize("content", ["[]", "{", '{"pinsage_version": true}', '{"pinsage_version": 7.0}', "[" * 99_999])
def test_no_version(tmp_path, content):
    write(tmp_path)
    (tmp_path / "version.json").write_text(content)
    with pytest.raises(InputError, match=r"version\.json: .*expected"):
        read_version(str(tmp_path))
