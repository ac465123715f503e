"""What a server says while something is wrong, and that it goes on by itself once that is mended."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.serving.app import Settings
from pipelines.serving.guard import LOCAL_NAMES
from stores.files import Root
from stores.kv import Current, open_store
from stores.releases import read_current
from stores.retriever import Retriever
from tests.pipelines.serving.running import serving
from tests.redis_server import RedisServer


def publish_into(url: str, kept) -> None:
    """Puts what a root's LMDB serves into another store."""
    with open_store(kept.kv) as have, open_store(url) as other:
        current = have.current()
        ids = users_of(kept)
        batch = (ids, have.get_many(current.generation, ids))
        copy = Current(current.generation, current.release, current.model_digest, current.users, current.extra)
        with other.hold_writes("a test"):
            other.upload(current.generation, [batch], deletes=[], fresh=True, current=copy)


def users_of(kept) -> np.ndarray:
    with Retriever(kept.root, kept.kv) as retriever:
        return np.sort(np.array(retriever.known_users(1000).some, np.int64))


def test_a_store_that_is_down_is_503_and_comes_back(kept, tmp_path):
    server = RedisServer(str(tmp_path))
    try:
        url = f"redis://127.0.0.1:{server.port}/0"
        with serving(kept.root, url) as client:
            found = client.get("/readyz")  # nothing was published
            assert found.status == 503 and "nothing published yet" in found.detail and found.headers["retry-after"]
            assert client.get("/healthz").status == 200
            publish_into(url, kept)
            assert client.get("/readyz").body["release"] == "2026-11-04"
            user = users_of(kept)[0]
            want = client.get(f"/v1/users/{user}/pins?k=3").body
            assert len(want["pins"]) == 3
            server.stop()
            for path in ("/readyz", f"/v1/users/{user}/pins", f"/v1/pins/{want['pins'][0]['pin_id']}/neighbours"):
                assert client.get(path).status == 503
            assert client.get("/healthz").status == 200
            server.start()
            publish_into(url, kept)  # it keeps nothing on disk
            assert client.get(f"/v1/users/{user}/pins?k=3").body == want
    finally:
        server.stop()


def test_erase_and_gc_while_a_release_is_served(kept, tmp_path):
    user, other = users_of(kept)[:2].tolist()
    (tmp_path / "users").write_text(f"{user}\n")
    with serving(kept.root, kept.kv) as client:
        path = "/v1/users/{}/pins?exclude_engaged=true"
        want = client.get(path.format(other)).body
        assert client.get(path.format(user)).status == 200
        assert kept.of_root("erase", f"--users={tmp_path}/users") == 0
        assert client.get(path.format(user)).status == 404
        assert client.get(path.format(other)).body == want
        kept.of_root("gc", "--keep=1")
        assert client.get(path.format(other)).body == want
        assert client.get("/v1/releases").status == 200
        # A release whose files are gone: what lies in memory answers, the rest says so.
        shutil.rmtree(f"{kept.root}/histories")
        found = client.get(path.format(other))
        assert found.status == 503 and "histories" in found.detail
        assert client.get(f"/v1/users/{other}/pins").status == 200


def test_a_catalogue_that_changes_is_read_again(kept, tmp_path):
    path = str(tmp_path / "items.parquet")
    (entry, *_) = read_current(Root(kept.root)).tables["pin_embeddings"]
    pins = pq.read_table(f"{kept.root}/{entry.path}")["pin_id"].to_numpy()
    pq.write_table(pa.table({"pin_id": pins[:1], "topic": ["a"]}), path)
    user = users_of(kept)[0]
    with serving(kept.root, kept.kv, path) as client:
        reader = client.reader
        assert [row["pin_id"] for row in client.get(f"/v1/users/{user}/pins?where=topic=a").body["pins"]] == [pins[0]]
        pq.write_table(pa.table({"pin_id": pins[1:3], "topic": ["a", "a"]}), path + ".new")
        os.replace(path + ".new", path)
        reader.follow()
        found = client.get(f"/v1/users/{user}/pins?where=topic=a").body["pins"]
        assert {row["pin_id"] for row in found} == set(pins[1:3].tolist())


def test_pages_of_other_sites_cannot_ask_a_server_on_loopback(kept):
    with serving(kept.root, kept.kv, settings=Settings(hosts=LOCAL_NAMES)) as client:
        assert client.get("/readyz").status == 200
        found = client.get("/readyz", Host="rebound.example:8000")
        assert found.status == 421 and json.dumps(found.detail)
