"""Publishing against a dict; and readers while a model changes."""

import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.kv import open_store
from stores.kv.codec import decode_values
from tests.redis_server import running_redis
from tests.stores.snapshots import SNAPSHOT, release
from transforms.release import PublishTarget, publish


def stored(kv: str, model: str) -> dict[int, float]:
    ids = np.arange(-10, 20)
    with open_store(kv) as store:
        values = store.get_many(store.current().generation, ids)
    return {
        int(u): float(decode_values([v], model)[0][0, 0]) for u, v in zip(ids, values, strict=True) if v is not None
    }


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
