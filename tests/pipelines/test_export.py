"""`pinnerformer export`: every format read back by the library that it is for, and equal to the release."""

import dataclasses
import datetime
import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from stores.exports import PINS, USERS, Export
from stores.files import Root
from stores.manifests import Manifest, write_manifest
from stores.releases import read_current
from stores.schemas import from_binary_column
from stores.string_ids import hash_strings
from stores.tables import read_files, write_rows
from tests.worlds import write_model

DAY_MS = 86_400_000


def run(*words: str) -> int:
    return main(["export", *words])


def release_of(root: str) -> Manifest:
    manifest = read_current(Root(root))
    assert manifest is not None
    return manifest


def inside(root: str, table: str) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """(ids, float32 vectors, rows) of a release, read plainly."""
    parts = sorted(release_of(root).parts(table).items())
    rows = pa.concat_tables([read_files(Root(root), entries) for _, entries in parts])
    vectors = np.concatenate([from_binary_column(chunk) for chunk in rows["embedding"].chunks])
    return rows[0].to_numpy(), vectors.astype(np.float32), rows


def as_matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), np.float32)


@pytest.fixture
def root(one_night) -> str:
    return one_night[1]


@pytest.fixture
def named_root(root) -> str:
    """The same release, its users and pins as strings: a root of string ids, as far as an export looks at it."""
    manifest = release_of(root)
    tables = dict(manifest.tables)
    for kind in (USERS, PINS):
        entries = []
        for part, files in manifest.parts(kind.table).items():
            ids = read_files(Root(root), files)[kind.column]
            names = pa.array([f"{kind.name} {number} ü" for number in ids.to_pylist()])
            rows = pa.table({kind.column: ids, "name": names})
            entries.append(write_rows(Root(root), f"{kind.ids.table}/2026-11-01", part, rows))
        tables[kind.ids.table] = entries
    layout = {**manifest.settings["layout"], "user_ids": "string", "pin_ids": "string"}
    settings = {**manifest.settings, "layout": layout}
    write_manifest(Root(root), dataclasses.replace(manifest, tables=tables, settings=settings))
    return root


def test_parquet_has_lists_of_floats_and_when_a_vector_may_be_used(root, tmp_path):
    out = f"{tmp_path}/out"
    assert run(f"--root={root}", f"--out={out}") == 0
    users, pins = (pq.read_table(f"{out}/{name}.parquet") for name in ("users", "pins"))
    for found, table in ((users, "user_embeddings"), (pins, "pin_embeddings")):
        ids, vectors, rows = inside(root, table)
        assert found[0].to_numpy().tolist() == ids.tolist() and len(ids) > 10
        assert found.schema.field("embedding").type == pa.list_(pa.float32())
        assert (as_matrix(found["embedding"]) == vectors).all()
    _, _, rows = inside(root, "user_embeddings")
    assert users["stale"].to_pylist() == rows["stale"].to_pylist()
    assert users["embedding_date"].to_pylist() == rows["embedding_date"].to_pylist()
    assert users["last_action"].cast(pa.int64()).to_pylist() == rows["last_action_ms"].to_pylist()
    next_day = datetime.datetime(2026, 11, 2, tzinfo=datetime.UTC)
    assert set(users["valid_from"].to_pylist()) == set(pins["valid_from"].to_pylist()) == {next_day}
    with open(f"{out}/export.json") as file:
        facts = json.load(file)
    assert (facts["release"], facts["users"]) == ("2026-11-01", {"rows": len(users), "ids": "int64"})


def test_string_ids_are_the_users_own(named_root, tmp_path):
    assert run(f"--root={named_root}", f"--out={tmp_path}/out") == 0
    for name, table, column in (("users", "user_embeddings", "user_id"), ("pins", "pin_embeddings", "pin_id")):
        found = pq.read_table(f"{tmp_path}/out/{name}.parquet")
        ids, vectors, _ = inside(named_root, table)
        assert found[column].to_pylist() == [f"{name} {number} ü" for number in ids.tolist()]
        assert (as_matrix(found["embedding"]) == vectors).all()


def test_numpy_arrays_can_be_mapped_and_need_no_pickle(root, named_root, tmp_path):
    assert run(f"--root={named_root}", f"--out={tmp_path}/named", "--format=npy") == 0
    ids, vectors, _ = inside(root, "user_embeddings")
    found = np.load(f"{tmp_path}/named/users.npy", mmap_mode="r")
    names = np.load(f"{tmp_path}/named/user_ids.npy", allow_pickle=False)
    assert found.dtype == np.float32 and (found == vectors).all()
    assert names.tolist() == [f"users {number} ü" for number in ids.tolist()]
    plain = Export(Root(root), dataclasses.replace(release_of(root), settings={}), PINS)
    from stores.exports import write_npy

    write_npy(plain, f"{tmp_path}/pins.npy", f"{tmp_path}/pin_ids.npy")
    assert np.load(f"{tmp_path}/pin_ids.npy").tolist() == inside(root, "pin_embeddings")[0].tolist()


def test_a_duckdb_file_searches_by_sql(root, tmp_path):
    import duckdb

    assert run(f"--root={root}", f"--out={tmp_path}/out", "--format=duckdb") == 0
    ids, vectors, _ = inside(root, "user_embeddings")
    pin_ids, pins, _ = inside(root, "pin_embeddings")
    sql = """SELECT pin_id, array_inner_product(u.embedding, p.embedding) AS score
             FROM users u, pins p WHERE user_id = ? ORDER BY score DESC LIMIT 5"""
    with duckdb.connect(f"{tmp_path}/out/embeddings.duckdb", read_only=True) as connection:
        found = connection.execute(sql, [int(ids[3])]).fetchall()
    scores = pins @ vectors[3]
    assert [score for _, score in found] == pytest.approx(np.sort(scores)[::-1][:5].tolist(), abs=1e-5)
    assert {pin for pin, _ in found} <= set(pin_ids.tolist())


@pytest.mark.parametrize("library", ["usearch", "faiss"])
def test_an_index_of_another_library_finds_what_an_exact_search_finds(library, root, named_root, tmp_path):
    out = f"{tmp_path}/out"
    assert run(f"--root={root}", f"--out={out}", f"--format={library}") == 0
    _, users, _ = inside(root, "user_embeddings")
    ids, pins, _ = inside(root, "pin_embeddings")
    exact = np.sort(users @ pins.T, axis=1)[:, ::-1][:, :5]
    if library == "usearch":
        from usearch.index import Index

        found = Index.restore(f"{out}/pins.usearch").search(users, 5)
        keys, scores = found.keys.astype(np.int64), 1 - found.distances
    else:
        import faiss

        scores, keys = faiss.read_index(f"{out}/pins.faiss").search(users, 5)
    assert np.abs(scores - exact).max() < 2e-2 and np.isin(keys, ids).all()
    table = pq.read_table(f"{out}/pins.keys.parquet")
    assert table.to_pylist()[0] == {"key": int(ids[0]), "pin_id": f"pins {ids[0]} ü"}
    with open(f"{out}/pins.{library}", "rb") as file:
        first = file.read()
    assert run(f"--root={root}", f"--out={out}", f"--format={library}", "--replace") == 0
    with open(f"{out}/pins.{library}", "rb") as file:
        assert file.read() == first


def test_what_is_there_stays_unless_it_may_be_replaced(root, tmp_path, capsys):
    out = f"{tmp_path}/out"
    assert run(f"--root={root}", f"--out={out}", "--only=pins") == 0
    assert sorted(os.listdir(out)) == ["export.json", "pins.parquet"]
    assert run(f"--root={root}", f"--out={out}") == 2
    assert "an export is there; --replace puts this one in its place" in capsys.readouterr().err
    assert run(f"--root={root}", f"--out={out}", "--format=npy", "--only=users", "--replace") == 0
    assert sorted(os.listdir(out)) == ["export.json", "user_ids.npy", "users.npy"]
    open(f"{out}/mine", "w").close()
    assert run(f"--root={root}", f"--out={out}", "--replace") == 2
    assert "mine in it is not an export's" in capsys.readouterr().err


def test_an_export_that_fails_leaves_what_was_there(root, tmp_path, capsys):
    out = f"{tmp_path}/out"
    assert run(f"--root={root}", f"--out={out}") == 0
    before = {name: os.stat(f"{out}/{name}").st_mtime_ns for name in os.listdir(out)}
    (entry, *_) = release_of(root).tables["pin_embeddings"]
    with open(f"{root}/{entry.path}", "r+b") as file:
        file.seek(entry.bytes // 2)
        flipped = bytes([file.read(1)[0] ^ 1])
        file.seek(entry.bytes // 2)
        file.write(flipped)
    assert run(f"--root={root}", f"--out={out}", "--replace") == 1
    assert entry.path in capsys.readouterr().err
    assert {name: os.stat(f"{out}/{name}").st_mtime_ns for name in os.listdir(out)} == before


def test_a_missing_extra_is_named_with_the_command_that_installs_it(root, tmp_path, capsys, monkeypatch):
    for module, flags, extra in (
        ("duckdb", ["--format=duckdb"], "import"),
        ("usearch", ["--format=usearch"], "usearch"),
        ("faiss", ["--format=faiss"], "faiss"),
    ):
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [_Without(module), *sys.meta_path])
        assert run(f"--root={root}", f"--out={tmp_path}/{module}", *flags) == 2
        said = capsys.readouterr().err
        assert f"needs {module}: pip install 'pinnerformer[{extra}]'" in said
        assert not os.path.exists(f"{tmp_path}/{module}/export.json")


class _Without:
    """An importer that knows of no module of a name."""

    def __init__(self, name: str):
        self._name = name

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self._name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_flags_that_do_not_go_together(root, capsys):
    for words, said in (
        ([], "say where to: one of --out DIR, --qdrant WHERE, --milvus WHERE"),
        (["--out=a", "--qdrant=b"], "say where to"),
        (["--out=a", "--format=faiss", "--only=users"], "an index of pins"),
        (["--qdrant=a", "--api-key=secret"], "say env:NAME"),
        (["--out=s3://a/b"], "copy it there afterwards"),
    ):
        assert run(f"--root={root}", *words) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("database", ["qdrant", "milvus"])
def test_a_vector_database_answers_by_the_users_own_ids(database, named_root, tmp_path):
    where = f"{tmp_path}/{database}{'.db' if database == 'milvus' else ''}"
    words = (f"--root={named_root}", f"--{database}={where}", "--collection=shop")
    for _ in range(2):  # again is as once
        assert run(*words) == 0
    ids, pins, _ = inside(named_root, "pin_embeddings")
    _, users, _ = inside(named_root, "user_embeddings")
    best = float((pins @ users[3]).max())
    if database == "qdrant":
        from qdrant_client import QdrantClient

        client = QdrantClient(path=where)
        (hit,) = client.query_points("shop", query=users[3].tolist(), using="dense", limit=1).points
        name, score = hit.payload["pin_id"], hit.score
        client.close()
    else:
        from pymilvus import MilvusClient

        client = MilvusClient(uri=where)
        (hit,) = client.search("shop", [users[3].tolist()], limit=1, output_fields=["pin_id"])[0]
        name, score = hit["entity"]["pin_id"], hit["distance"]
        client.close()
    assert score == pytest.approx(best, abs=1e-3)
    assert name in {f"pins {number} ü" for number in ids.tolist()}


@pytest.mark.slow
def test_from_a_csv_of_strings_to_an_export_by_name(tmp_path):
    random = np.random.default_rng(4)
    users, pins = [f"üser {n}" for n in range(12)], [f"SKU-{n:03d}" for n in range(30)]
    rows = ["who,what,at,did"]
    for day in (1, 2):
        for _ in range(150):
            at = f"2026-11-0{day}T{random.integers(0, 24):02d}:00:00+00:00"
            rows.append(f"{random.choice(users)},{random.choice(pins)},{at},{random.choice(['like', 'repin'])}")
    (tmp_path / "events.csv").write_text("\n".join(rows) + "\n")
    vectors = random.standard_normal((30, 256)).astype(np.float32)
    pq.write_table(pa.table({"sku": pins, "embedding": vectors.tolist()}), f"{tmp_path}/items.parquet")
    logs, vector_set, root = (f"{tmp_path}/{name}" for name in ("logs", "pins", "root"))
    words = ["--user-id=who", "--pin-id=what", "--time=at", "--action=did", "--value=action:like=click"]
    words += ["--absent=surface=home", "--absent=duration_s", "--id=sku", "--vector=embedding", "--vectors-version=v1"]
    given = [f"--events={tmp_path}/events.csv", f"--vectors={tmp_path}/items.parquet"]
    assert main(["import", *given, *words, f"--logs={logs}", f"--pins={vector_set}", "--quiet"]) == 0
    model = write_model(f"{tmp_path}/model")
    night = [f"--root={root}", f"--logs={logs}", f"--pins={vector_set}", f"--model={model}", "--user-buckets=2"]
    night += ["--pin-shards=1", "--date=2026-11-02", "--bootstrap-from=2026-11-01", "--publish=none", "--quiet"]
    assert main(["daily", *night]) == 0
    assert run(f"--root={root}", f"--out={tmp_path}/out") == 0
    found = {name: pq.read_table(f"{tmp_path}/out/{name}.parquet") for name in ("users", "pins")}
    assert sorted(found["users"]["user_id"].to_pylist()) == sorted(users)
    assert sorted(found["pins"]["pin_id"].to_pylist()) == pins
    ids, vectors, _ = inside(root, "user_embeddings")
    by_name = dict(zip(found["users"]["user_id"].to_pylist(), as_matrix(found["users"]["embedding"]), strict=True))
    hashed = hash_strings(pa.array(list(by_name)))
    assert (np.array(list(by_name.values()))[np.argsort(hashed)] == vectors[np.argsort(ids)]).all()
