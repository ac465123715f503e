"""Vector sets of every writer: read right, or refused by file and row."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.errors import InputError
from stores.pin_topics import read_topics
from stores.pin_vectors import LEAST_NORM, MOST_NORM, describe_vectors, norms_of, read_vectors, read_version

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
