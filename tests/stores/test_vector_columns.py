"""Vectors of every type that writers have, of any width: read alike, or refused by file, row and pin."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stores.pin_vectors
from stores.column_names import ColumnNames
from stores.errors import InputError
from stores.pin_vectors import describe_vectors, read_vectors
from stores.vector_sets import read_any_vectors, vector_width

PINS, WIDTH = 11, 5
VECTORS = np.random.default_rng(2).standard_normal((PINS, WIDTH))


def fixed(number: str, rows: np.ndarray = VECTORS) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(number).ravel()), rows.shape[1])


def lists(number: str, rows=VECTORS, kind=pa.list_) -> pa.Array:
    value = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64()}[number]
    return pa.array([None if row is None else np.asarray(row, number) for row in rows], kind(value))


def binary(number: str, rows: np.ndarray = VECTORS) -> pa.Array:
    little = rows.astype(np.dtype(number).newbyteorder("<"))
    return pa.array([row.tobytes() for row in little], pa.binary(little.dtype.itemsize * rows.shape[1]))


def write(folder, column: pa.Array, name: str = "a.parquet", ids=None, names=("pin_id", "vector"), **facts) -> str:
    ids = pa.array(range(len(column)), pa.int64()) if ids is None else ids
    pq.write_table(pa.table([ids, column], names=list(names)), folder / name, row_group_size=4)
    (folder / "version.json").write_text(json.dumps({"pinsage_version": "v1", **facts}))
    return str(folder / name)


def read_all(folder, width: int | None = None, columns: ColumnNames = ColumnNames()) -> tuple[np.ndarray, np.ndarray]:  # noqa: B008
    files = describe_vectors(str(folder), "v1", width, columns).files
    parts = [read_vectors(file, group) for file in files for group in range(file.row_groups)]
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([rows for _, rows in parts])


def refused(folder, *arguments) -> str:
    with pytest.raises(InputError) as error:
        read_all(folder, *arguments)
    return str(error.value)


KINDS = {
    "fixed": fixed,
    "list": lists,
    "large list": lambda number: lists(number, kind=pa.large_list),
    "binary": binary,
}


@pytest.mark.parametrize("at_once", [3, 1 << 20])
@pytest.mark.parametrize("number", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_gives_the_same_numbers(tmp_path, monkeypatch, kind, number, at_once):
    monkeypatch.setattr(stores.pin_vectors, "NUMBERS_AT_ONCE", at_once * WIDTH)
    write(tmp_path, KINDS[kind](number), vector_dtype=number)
    found = describe_vectors(str(tmp_path), "v1")
    used = "float16" if number == "float16" else "float32"
    assert (found.width, found.dtype, found.rows) == (WIDTH, used, PINS)
    assert found.nbytes == PINS * WIDTH * np.dtype(used).itemsize
    ids, rows = read_all(tmp_path, WIDTH)
    assert ids.tolist() == list(range(PINS)) and rows.dtype == used
    np.testing.assert_array_equal(rows, VECTORS.astype(number).astype(used))
    of_any = read_any_vectors(str(tmp_path), "--content")
    np.testing.assert_array_equal(of_any.vectors, VECTORS.astype(number).astype(used))
    assert vector_width(str(tmp_path), "--content") == WIDTH


def test_types_may_mix_as_far_as_they_are_used_alike(tmp_path):
    write(tmp_path, fixed("float32"), "a.parquet")
    write(tmp_path, lists("float64"), "b.parquet", pa.array(range(PINS, 2 * PINS)))
    assert read_all(tmp_path)[1].shape == (2 * PINS, WIDTH)
    write(tmp_path, lists("float16"), "b.parquet", pa.array(range(PINS, 2 * PINS)))
    assert "files of float16 and float32 mixed" in refused(tmp_path)


@pytest.mark.parametrize("at_once", [1, 1 << 20])
@pytest.mark.parametrize(
    ("row", "what"),
    [
        (np.ones(WIDTH - 1), f"its vector has {WIDTH - 1} numbers, the others have {WIDTH}"),
        (np.ones(WIDTH + 1), f"its vector has {WIDTH + 1} numbers, the others have {WIDTH}"),
        ([], f"its vector has 0 numbers, the others have {WIDTH}"),
        (None, "vector is null"),
        ([1, None, 1, 1, 1], "a null inside the vector"),
        ([1, np.nan, 1, 1, 1], "vector has NaN or infinity"),
        ([1e300] * WIDTH, "the vector's L2 norm is more than 1e+08"),  # infinite as float32
        ([1e-300] * WIDTH, "the vector's L2 norm is less than 1e-08"),  # zeros as float32, which are no vector
    ],
)
def test_a_row_that_is_no_vector_is_named(tmp_path, monkeypatch, row, what, at_once):
    monkeypatch.setattr(stores.pin_vectors, "NUMBERS_AT_ONCE", at_once * WIDTH)
    rows = [list(one) for one in VECTORS]
    rows[6] = row if row is None else list(row)
    path = write(tmp_path, pa.array(rows, pa.list_(pa.float64())), ids=pa.array(range(100, 100 + PINS)))
    said = refused(tmp_path)
    assert f"{path}: row 6 (pin_id 106): {what}" in said
    if "norm" not in what:  # content is looked at less
        with pytest.raises(InputError, match=r"row 6: "):
            read_any_vectors(str(tmp_path), "--content")


def test_zeros_are_a_vector_like_any_other(tmp_path):
    rows = VECTORS.copy()
    rows[3] = 0
    write(tmp_path, lists("float64", rows))
    assert not read_all(tmp_path)[1][3].any()


def test_a_width_that_is_not_the_models_is_named_by_both(tmp_path):
    for column in (fixed("float32"), lists("float64"), binary("float32")):
        path = write(tmp_path, column, vector_dtype="float32")
        with pytest.raises(InputError, match=rf"{path}: column 'vector' is {WIDTH} wide.*pin_vector_dim is 384"):
            describe_vectors(str(tmp_path), "v1", 384)


def test_files_of_two_widths(tmp_path):
    first = write(tmp_path, lists("float32"), "a.parquet")
    second = write(tmp_path, fixed("float32", np.ones((3, 7))), "b.parquet")
    for reader in (lambda: describe_vectors(str(tmp_path), "v1"), lambda: read_any_vectors(str(tmp_path), "--content")):
        with pytest.raises(InputError) as error:
            reader()
        assert second in str(error.value) and "7 wide" in str(error.value) and str(WIDTH) in str(error.value)
    assert first in refused(tmp_path)


def test_what_an_empty_file_is_wide_is_said_by_the_others(tmp_path):
    write(tmp_path, lists("float32", []), "a.parquet")
    assert "no vector in it" in refused(tmp_path)
    assert describe_vectors(str(tmp_path), "v1", 9).width == 9
    write(tmp_path, lists("float32"), "b.parquet")
    assert read_all(tmp_path)[1].shape == (PINS, WIDTH)


def test_nulls_in_front_do_not_hide_the_width(tmp_path):
    path = write(tmp_path, lists("float32", [None, None, *VECTORS]))
    assert describe_vectors(str(tmp_path), "v1").width == WIDTH
    assert f"{path}: row 0 (pin_id 0): vector is null" in refused(tmp_path)


def test_bytes_want_to_be_told_of_what_numbers(tmp_path):
    path = write(tmp_path, binary("float32"))
    said = refused(tmp_path)
    assert f"{path}: column 'vector' is fixed_size_binary[20], and nothing says of what numbers" in said
    assert "'vector_dtype' to version.json" in said and '"float32" (5 of them)' in said
    write(tmp_path, binary("float32"), vector_dtype="float64")
    assert "no whole number of float64" in refused(tmp_path)
    write(tmp_path, binary("float32"), vector_dtype="int8")
    assert "version.json: vector_dtype is 'int8'; expected one of float16, float32, float64" in refused(tmp_path)


@pytest.mark.parametrize("kind", [pa.list_(pa.int8()), pa.list_(pa.float32(), 0), pa.string(), pa.binary()])
def test_types_that_are_no_vectors(tmp_path, kind):
    path = write(tmp_path, pa.nulls(2, kind))
    assert f"{path}: column 'vector' is {kind}" in refused(tmp_path).replace("element", "item")


def test_columns_of_other_names(tmp_path):
    columns = ColumnNames.parse(["pin_id=sku", "vector=embedding"])
    path = write(tmp_path, lists("float64"), names=("sku", "embedding"))
    assert read_all(tmp_path, None, columns)[1].shape == (PINS, WIDTH)
    assert read_any_vectors(str(tmp_path), "--content", columns).vectors.shape == (PINS, WIDTH)
    assert f"{path}: no column 'pin_id' (it has sku, embedding)" in refused(tmp_path)
    assert "--column pins.pin_id=NAME" in refused(tmp_path)
    half = refused(tmp_path, None, ColumnNames.parse(["pin_id=sku"]))
    assert "no column 'vector'" in half and "--column vector=NAME" in half
