"""`pinnerformer import --vectors`: vectors of any type and width as a vector set, whole or not at all."""

import json
import os
import sqlite3
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.importing import vectors as import_vector_set
from tests.pipelines.test_import import FLAGS as EVENT_FLAGS
from tests.pipelines.test_import import HEADER, Killed, write_csv, write_duckdb

WIDTH = 384
FLAGS = ["--id=sku", "--vector=embedding", "--quiet"]


def vectors_of(count: int = 5, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, width)).astype(np.float32)


def names_of(count: int = 5) -> list[str]:
    return [f"SKU {number:03d}" for number in range(count)]


def run(*words: str) -> int:
    return main(["import", *words])


def read(pins: str) -> tuple[list[Any], np.ndarray, dict[str, Any]]:
    """Ids, vectors and version.json of a vector set."""
    tables = [pq.read_table(f"{pins}/{name}") for name in sorted(os.listdir(pins)) if name.endswith(".parquet")]
    rows = pa.concat_tables(tables)
    with open(f"{pins}/version.json") as file:
        found = json.load(file)
    width = rows.schema.field("vector").type.list_size
    assert rows.schema.field("vector").type.value_type == pa.float32()
    return rows["pin_id"].to_pylist(), rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width), found


def as_column(vectors: np.ndarray, kind: pa.DataType) -> pa.Array:
    rows = [row.astype(np.float16) if kind.value_type == pa.float16() else row.tolist() for row in vectors]
    return pa.array(rows, kind)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float16()),
        pa.list_(pa.float32(), WIDTH),
        pa.list_(pa.float64(), WIDTH),
    ],
    ids=str,
)
def test_lists_of_every_type(kind, tmp_path):
    table = pa.table({"title": names_of(), "embedding": as_column(vectors_of(), kind), "sku": names_of()})
    pq.write_table(table, f"{tmp_path}/items.parquet", row_group_size=2)
    assert run(f"--vectors={tmp_path}/items.parquet", f"--pins={tmp_path}/pins", *FLAGS) == 0
    ids, vectors, version = read(f"{tmp_path}/pins")
    wanted = vectors_of().astype(np.float16) if kind.value_type == pa.float16() else vectors_of()
    assert ids == names_of() and (vectors == wanted).all()
    assert version["pinsage_version"].startswith("import-") and version["width"] == WIDTH
    assert sorted(os.listdir(f"{tmp_path}/pins")) == sorted(["version.json", *version["files"]])


def test_vectors_of_csv_json_lines_duckdb_and_bytes(tmp_path):
    texts = [[name, str(row.tolist())] for name, row in zip(names_of(), vectors_of(), strict=True)]
    write_csv(f"{tmp_path}/a.csv", texts, ["sku", "embedding"])
    with open(f"{tmp_path}/b.jsonl", "w") as file:
        for name, row in zip(names_of(), vectors_of(), strict=True):
            file.write(json.dumps({"sku": name, "out": {"embedding": row.tolist()}}) + "\n")
    table = pa.table({"sku": names_of(), "embedding": as_column(vectors_of(), pa.list_(pa.float32(), WIDTH))})
    write_duckdb(f"{tmp_path}/c.duckdb", {"items": table})
    with sqlite3.connect(f"{tmp_path}/d.sqlite") as connection:
        connection.execute("CREATE TABLE items (sku TEXT, embedding BLOB)")
        rows = [(name, row.astype("<f8").tobytes()) for name, row in zip(names_of(), vectors_of(), strict=True)]
        connection.executemany("INSERT INTO items VALUES (?, ?)", rows)
    for name, more in (
        ("a.csv", []),
        ("b.jsonl", ["--vector=out.embedding"]),
        ("c.duckdb", ["--vectors-table=items"]),
        ("d.sqlite", ["--bytes-of=float64"]),
    ):
        pins = f"{tmp_path}/{name}.pins"
        assert run(f"--vectors={tmp_path}/{name}", f"--pins={pins}", *FLAGS, *more) == 0
        ids, vectors, _ = read(pins)
        assert ids == names_of() and (vectors == vectors_of()).all(), name


def test_every_dropped_row_has_a_reason(tmp_path, capsys):
    good = vectors_of(8, 4).tolist()
    rows: list[tuple[Any, Any]] = [
        *zip(names_of(8), good, strict=True),
        (None, good[0]),
        ("", good[0]),
        ("short", good[0][:3]),
        ("none", None),
        ("nan", [1.0, float("nan"), 0.0, 0.0]),
        ("null", [1.0, None, 0.0, 0.0]),
        ("SKU 003", [9.0, 9.0, 9.0, 9.0]),
    ]
    table = pa.table(
        {"sku": [row[0] for row in rows], "embedding": pa.array([r[1] for r in rows], pa.list_(pa.float64()))}
    )
    pq.write_table(table, f"{tmp_path}/a.parquet")
    words = (f"--vectors={tmp_path}/a.parquet", f"--pins={tmp_path}/pins", *FLAGS[:2])
    assert run(*words) == 1
    said = capsys.readouterr().err
    assert "7 of 15 rows would be dropped" in said and "row 11: sku=short: 3 numbers, not 4" in said
    assert run(*words, "--max-dropped=0.5", "--json") == 0
    report = json.loads(capsys.readouterr().out)["vectors"]
    reasons = ("not_finite", "empty_pin_id", "null_pin_id", "null_vector", "other_width", "repeated_pin_id")
    assert report["dropped"] == {"not_finite": 2, **dict.fromkeys(reasons[1:], 1)}
    ids, vectors, _ = read(f"{tmp_path}/pins")
    assert ids == names_of(8) and (vectors == np.array(good, np.float32)).all()


def test_integer_ids_and_what_does_not_fit_them(tmp_path, capsys):
    table = pa.table({"sku": pa.array([4, 5, -6], pa.int32()), "embedding": vectors_of(3, 4).tolist()})
    pq.write_table(table, f"{tmp_path}/a.parquet")
    words = (f"--vectors={tmp_path}/a.parquet", *FLAGS, "--max-dropped=0.5")
    assert run(f"--pins={tmp_path}/a", *words, "--vectors-version=v7") == 0
    ids, _, version = read(f"{tmp_path}/a")
    assert ids == [4, 5] and (version["pinsage_version"], version["rows_dropped"]) == ("v7", 1)
    assert run(f"--pins={tmp_path}/b", *words, "--pin-ids=string") == 0
    assert read(f"{tmp_path}/b")[0] == ["4", "5", "-6"]
    assert run(f"--pins={tmp_path}/c", *words[:1], "--id=embedding", "--vector=sku") == 1
    assert "ids are whole numbers or strings: name another with --id" in capsys.readouterr().err


def test_a_set_that_is_there_is_replaced_only_when_asked(tmp_path, capsys):
    def source(name: str, count: int) -> str:
        table = pa.table({"sku": names_of(count), "embedding": vectors_of(count, 4).tolist()})
        pq.write_table(table, f"{tmp_path}/{name}.parquet")
        return f"--vectors={tmp_path}/{name}.parquet"

    words = (f"--pins={tmp_path}/pins", *FLAGS)
    assert run(source("a", 5), *words) == 0
    first = read(f"{tmp_path}/pins")[2]
    assert run(f"--vectors={tmp_path}/a.parquet", *words) == 0  # the same: nothing to do
    assert run(source("b", 6), *words) == 2
    said = capsys.readouterr().err
    assert "a vector set is there; --replace puts the imported one in its place" in said
    assert f"--vectors-version {first['pinsage_version']}" in said
    assert run(source("b", 6), *words, "--replace") == 0
    ids, _, second = read(f"{tmp_path}/pins")
    assert len(ids) == 6 and second["pinsage_version"] != first["pinsage_version"]
    open(f"{tmp_path}/pins/mine.txt", "w").close()
    assert run(source("c", 7), *words, "--replace") == 2
    assert "mine.txt in it is not an import's" in capsys.readouterr().err


def test_a_killed_import_of_both_leaves_neither_and_is_finished_by_the_same_command(tmp_path, monkeypatch):
    table = pa.table({"sku": names_of(), "embedding": vectors_of(5, 4).tolist()})
    pq.write_table(table, f"{tmp_path}/items.parquet")
    events = write_csv(f"{tmp_path}/events.csv")
    words = [f"--events={events}", f"--logs={tmp_path}/logs", *EVENT_FLAGS]
    words += [f"--vectors={tmp_path}/items.parquet", f"--pins={tmp_path}/pins", *FLAGS]

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(import_vector_set.VectorReader, "read", killed)
    with pytest.raises(Killed):
        run(*words)
    monkeypatch.undo()
    assert not os.path.exists(f"{tmp_path}/logs/ds=2026-11-01") and not os.path.exists(f"{tmp_path}/pins/version.json")
    monkeypatch.setattr(import_vector_set.VectorsImport, "commit", killed)
    with pytest.raises(Killed):
        run(*words)
    monkeypatch.undo()
    assert os.path.exists(f"{tmp_path}/logs/ds=2026-11-01") and not os.path.exists(f"{tmp_path}/pins/version.json")
    assert run(*words) == 0
    assert read(f"{tmp_path}/pins")[0] == names_of()


def test_pins_that_are_of_two_kinds_are_refused_before_anything_is_read(tmp_path, capsys):
    table = pa.table({"sku": [1, 2], "embedding": vectors_of(2, 4).tolist()})
    pq.write_table(table, f"{tmp_path}/items.parquet")
    events = write_csv(f"{tmp_path}/events.csv", [["u", 1, "2026-11-01T00:00Z", "a", "b", 1, ""]], HEADER)
    words = [f"--events={events}", f"--logs={tmp_path}/logs", *EVENT_FLAGS]
    words += [f"--vectors={tmp_path}/items.parquet", f"--pins={tmp_path}/pins", *FLAGS]
    assert run(*words) == 1
    said = capsys.readouterr().err
    assert "pins are string in" in said and "say --pin-ids int64 or --pin-ids string" in said
    assert run(*words, "--pin-ids=int64") == 0
    assert read(f"{tmp_path}/pins")[0] == [1, 2]
