"""Few rows of a table: those that reading all of it and keeping them gives, and neither its memory nor its pages."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.schemas import ENGAGEMENTS, from_binary_column, to_binary_column
from stores.tables import read_dim, read_drawn, read_files, read_rows_of, write_rows

FOLDER = "pin_embeddings/2026-11-05"


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(str(tmp_path))


def pins(count: int, dim: int = 64) -> pa.Table:
    """Pins of even ids from 0 on, each with a vector of its own."""
    vectors = np.repeat(np.arange(count, dtype=np.uint16).view(np.float16)[:, None], dim, axis=1)
    return pa.table({"pin_id": 2 * np.arange(count, dtype=np.int64), "embedding": to_binary_column(vectors)})


def histories(users: int, rows: int) -> pa.Table:
    """Rows of the histories: a user has several, in order; actions from a vocabulary that grows on the way."""
    dice = np.random.default_rng(3)
    user = np.sort(dice.integers(-users, users, rows))
    columns = {
        "user_id": user,
        "pin_id": dice.integers(0, 99, rows),
        "timestamp_ms": np.arange(rows),
        "action": pa.array([f"action {n // 100}" for n in range(rows)]).dictionary_encode(),
        "surface": pa.array(["feed"] * rows).dictionary_encode(),
        "duration_s": pa.array(dice.random(rows).astype(np.float32), mask=dice.random(rows) < 0.5),
    }
    return pa.table(columns, schema=ENGAGEMENTS)


def write_in_groups(root: Root, rows: pa.Table, group: int) -> FileEntry:
    """As `write_rows`, in row groups of so many rows."""

    def write(path: str) -> None:
        pq.write_table(rows, path, compression="none", use_dictionary=["action", "surface"], row_group_size=group)

    return root.write_named_by_content(FOLDER, "part-00000", ".parquet", 0, rows.num_rows, write)


@pytest.mark.parametrize("group", [pytest.param(7, marks=pytest.mark.slow), 1_000, 30_000])
def test_rows_of_ids_are_those_that_a_filter_gives(root, group):
    rows = histories(500, 20_000)
    entry, dice = write_in_groups(root, rows, group), np.random.default_rng(4)
    for asked in ([], [-(1 << 62)], [1 << 62], [rows["user_id"][0].as_py()], [rows["user_id"][-1].as_py()], None):
        ids = np.array(asked, np.int64) if asked is not None else np.unique(dice.integers(-600, 600, 80))
        found = read_rows_of(root, [entry], "user_id", ids)
        assert found.to_pylist() == rows.filter(pa.array(np.isin(rows["user_id"].to_numpy(), ids))).to_pylist()
        assert found.schema.equals(read_files(root, [entry]).schema)
    some = read_rows_of(root, [entry, entry], "user_id", ids, ["timestamp_ms"])
    assert some.column_names == ["timestamp_ms"] and some.num_rows == 2 * found.num_rows > 100


def test_row_groups_without_an_id_that_is_asked_for_are_not_read(root, monkeypatch):
    entry, read, plain = write_in_groups(root, pins(1_000), 100), [], pq.ParquetFile.iter_batches

    def noted(self, *given, row_groups, **named):
        read.append(row_groups)
        return plain(self, *given, row_groups=row_groups, **named)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    # 199 lies between two row groups, 401 within one that has no row of it.
    assert read_rows_of(root, [entry], "pin_id", np.array([0, 199, 401, 1_998]))["pin_id"].to_pylist() == [0, 1_998]
    assert read_rows_of(root, [entry], "pin_id", np.array([-1, 199, 2_000])).num_rows == 0
    assert read == [[0, 2, 9]]


def held_at_most(work) -> int:
    """The most bytes that Arrow held at once during some work."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        work()
    finally:
        pa.set_memory_pool(before)
    return pool.max_memory()


@pytest.mark.parametrize("mapped", [True, False])
def test_memory_follows_the_rows_asked_for_and_not_the_file(root, monkeypatch, mapped):
    if not mapped:  # as from an object store: what is read is copied
        monkeypatch.setattr(Root, "open_input", lambda self, relative: pa.OSFile(self.path(relative)))
    entry = write_rows(root, FOLDER, 0, pins(200_000, dim=128))
    assert entry.bytes > 52_000_000 and pq.read_metadata(root.path(entry.path)).num_row_groups == 1
    asked = np.arange(0, 400_000, 400)
    whole = held_at_most(lambda: read_files(root, [entry]))
    rows = held_at_most(lambda: read_rows_of(root, [entry], "pin_id", asked))
    drawn = held_at_most(lambda: list(read_drawn(root, [entry], 1_000, seed=1)))
    assert whole > 0.9 * entry.bytes > 4 * max(rows, drawn)
    found = read_rows_of(root, [entry], "pin_id", asked)
    assert found["pin_id"].to_numpy().tolist() == asked.tolist()
    assert (from_binary_column(found["embedding"]).view(np.uint16)[:, 0] == (asked // 2).astype(np.uint16)).all()


@pytest.mark.parametrize(("group", "count"), [(7, 3), (1_000, 500), (30_000, 500), (30_000, 40_000)])
def test_rows_drawn_are_those_of_the_numbers_drawn(root, group, count):
    rows = histories(500, 20_000)
    entry = write_in_groups(root, rows, group)
    other = dataclasses.replace(entry, part=1)
    chosen = np.sort(np.random.default_rng(9).choice(40_000, size=count, replace=False))
    expected = pa.concat_tables([rows, rows]).take(pa.array(chosen)).to_pylist()
    assert pa.concat_tables(read_drawn(root, [other, entry], count, seed=9)).to_pylist() == expected
    times = pa.concat_tables(read_drawn(root, [other, entry], count, 9, ["timestamp_ms"]))
    assert times.to_pylist() == [{"timestamp_ms": row["timestamp_ms"]} for row in expected]


def test_the_width_of_vectors_is_read_off_the_footer(root):
    entry = write_rows(root, FOLDER, 0, pins(100, dim=48))
    with open(root.path(entry.path), "r+b") as file:
        file.seek(4)
        file.write(bytes(pq.read_metadata(root.path(entry.path)).row_group(0).total_byte_size))  # the pages
    assert read_dim(root, entry) == 48
    with pytest.raises(StoreError, match=r"part-00000.* cannot be read"):
        read_files(root, [entry])
    with pytest.raises(StoreError, match="'embedding' is int64"):
        read_dim(root, write_rows(root, FOLDER, 0, pa.table({"pin_id": [1], "embedding": [1]})))


@pytest.mark.parametrize("changed", [{"bytes": 7}, {"rows": 3}])
def test_a_file_that_is_not_the_manifests_is_refused_by_every_look_up(root, changed):
    entry = dataclasses.replace(write_rows(root, FOLDER, 0, pins(10)), **changed)
    for look_up in (
        lambda: read_rows_of(root, [entry], "pin_id", np.array([2])),
        lambda: list(read_drawn(root, [entry], 2, seed=1)),
        lambda: read_dim(root, entry),
    ):
        with pytest.raises(StoreError, match=r"part-00000.*; restore the file"):
            look_up()
