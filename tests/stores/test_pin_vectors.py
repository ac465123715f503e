"""Vectors looked up in sorted tables: found, missing, repeated, in the order asked."""

import numpy as np
import pytest

from stores.errors import InputError
from stores.files import Root
from stores.ids import bucket_of
from stores.pin_vectors import (
    WIDTH,
    VectorTable,
    describe_vectors,
    find_sorted,
    map_vector_table,
    read_vector_table,
    read_vectors,
    write_vector_table,
)
from tests.worlds import write_vectors


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
