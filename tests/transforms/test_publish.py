"""Snapshots, their differences, publishing and erasing, against a dict; and readers while a model changes."""

import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.embedding_client import EmbeddingClient
from stores.erasure import erase_from_files, new_erasure_report
from stores.files import FileEntry, Root
from stores.ids import bucket_of
from stores.kv import open_store
from stores.kv.codec import decode_values
from stores.layout import open_layout
from stores.manifests import Manifest, read_manifest, write_manifest
from stores.schemas import from_binary_column, to_binary_column, user_embeddings_schema
from stores.tables import TABLES, read_files, write_part
from tests.redis_server import running_redis
from tests.worlds import FIRST
from transforms.publish import PublishTarget, publish
from transforms.snapshots import merge_snapshot

DIM, BUCKETS = 4, 3
IDS = st.integers(-5, 12)
SNAPSHOT = st.dictionaries(IDS, st.integers(0, 3), max_size=12)


def rows_of(snapshot: dict[int, int]) -> pa.Table:
    """A user's vector is one number repeated: two snapshots agree on a user if they agree on the number."""
    ids = sorted(snapshot)
    vectors = np.repeat(np.array([[snapshot[u]] for u in ids], np.float16).reshape(-1, 1), DIM, axis=1)
    columns = [pa.array(ids, pa.int64()), to_binary_column(vectors), pa.array([FIRST] * len(ids), pa.date32())]
    columns += [pa.array([0] * len(ids), pa.int64()), pa.array([False] * len(ids))]
    return pa.table(columns, schema=user_embeddings_schema(DIM))


def release(root: Root, name: str, snapshot: dict[int, int], model: str = "ab" * 32) -> Manifest:
    open_layout(root, {"user_buckets": BUCKETS, "pin_shards": 1})
    tables: dict[str, list[FileEntry]] = {table: [] for table in TABLES}
    for bucket in range(BUCKETS):
        mine = {u: v for u, v in snapshot.items() if bucket_of(np.array([u]), BUCKETS)[0] == bucket}
        if mine or bucket == 0:
            tables["user_embeddings"].append(write_part(root, "user_embeddings", FIRST, bucket, rows_of(mine)))
    layout = {"layout": {"user_buckets": BUCKETS, "pin_shards": 1}}
    manifest = Manifest(name, str(FIRST), None, model, tables, [], layout, {}, [], {}, [])
    write_manifest(root, manifest)
    return manifest


def stored(kv: str, model: str) -> dict[int, float]:
    ids = np.arange(-10, 20)
    with open_store(kv) as store:
        values = store.get_many(store.current().generation, ids)
    return {
        int(u): float(decode_values([v], model)[0][0, 0]) for u, v in zip(ids, values, strict=True) if v is not None
    }


def of_release(root: Root, manifest: Manifest) -> dict[int, float]:
    found: dict[int, float] = {}
    for entry in manifest.tables["user_embeddings"]:
        rows = read_files(root, [entry])
        numbers = from_binary_column(rows["embedding"])[:, 0].tolist()
        found |= dict(zip(rows["user_id"].to_pylist(), numbers, strict=True))
    return found


@given(SNAPSHOT, SNAPSHOT)
@settings(max_examples=60, deadline=None)
def test_a_merge_is_a_dict_update(old, new):
    merged = merge_snapshot(rows_of(old), rows_of(new).take(np.arange(len(new))[::-1]))
    assert merged.equals(rows_of(old | new))


@given(st.lists(st.tuples(SNAPSHOT, st.booleans()), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_store_is_the_snapshot_published_last(tmp_path_factory, history):
    """Whatever came before: other snapshots, another model, back and forth, twice."""
    folder = tmp_path_factory.mktemp("published")
    root, kv = Root(f"{folder}/root"), f"lmdb://{folder}/kv"
    made = []
    for number, (snapshot, other_model) in enumerate(history):
        made.append((release(root, f"r{number}", snapshot, ("cd" if other_model else "ab") * 32), snapshot))
    for manifest, snapshot in [*made, *made[::-1], made[0]]:
        publish(root, manifest.release, PublishTarget(kv, "pinnerformer"))
        assert stored(kv, manifest.model_digest) == snapshot
        assert publish(root, manifest.release, PublishTarget(kv, "pinnerformer"))["users_sent"] == 0


@given(st.lists(SNAPSHOT, min_size=1, max_size=3), st.sets(IDS, min_size=1, max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_erasure_is_a_dict_without_keys(tmp_path_factory, snapshots, gone):
    root = Root(str(tmp_path_factory.mktemp("erased")))
    for number, snapshot in enumerate(snapshots):
        release(root, f"r{number}", snapshot)
    users = np.array(sorted(gone), np.int64)
    for _ in range(2):
        erase_from_files(root, users, new_erasure_report(users))
        for number, snapshot in enumerate(snapshots):
            left = {user: value for user, value in snapshot.items() if user not in gone}
            assert of_release(root, read_manifest(root, f"r{number}")) == left


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_readers_see_one_model_and_always_an_answer(tmp_path, kind):
    """A reader asks all the time while the store goes from model to model."""
    snapshots = {"ab" * 32: dict.fromkeys(range(50), 1), "cd" * 32: dict.fromkeys(range(50), 2)}
    root = Root(f"{tmp_path}/root")
    names = [release(root, f"r{i}", snapshot, model).release for i, (model, snapshot) in enumerate(snapshots.items())]
    wrong: list[str] = []
    answers, stop = [0], threading.Event()

    def read(kv: str) -> None:
        with EmbeddingClient(kv) as client:
            while not stop.is_set():
                vectors, _, found, current = client.get_many_of(client.current, np.arange(50))
                expected = 1 if current.model_digest == "ab" * 32 else 2
                if not found.all() or (vectors != expected).any():
                    wrong.append(f"{found.sum()} found of {current}")
                answers[0] += 1

    def go(kv: str) -> None:
        publish(root, names[0], PublishTarget(kv, "pinnerformer"))
        reader = threading.Thread(target=read, args=(kv,))
        reader.start()
        for turn in range(12):
            publish(root, names[(turn + 1) % 2], PublishTarget(kv, "pinnerformer"))
            before = answers[0]
            while answers[0] < before + 2:  # and what the next turn sweeps away is of no reader
                assert reader.is_alive()
                time.sleep(0.001)
            with open_store(kv) as store:
                for generation in set(store.generations()) - {store.current().generation}:
                    store.delete_generation(generation)
        stop.set()
        reader.join()
        assert not wrong and answers[0] >= 24

    if kind == "lmdb":
        go(f"lmdb://{tmp_path}/kv")
    else:
        with running_redis(str(tmp_path)) as port:
            go(f"redis://127.0.0.1:{port}/0")
