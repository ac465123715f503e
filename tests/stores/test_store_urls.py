"""What a store's URL may hold, what is shown of it, and what a server says that it is."""

import os
import subprocess
import sys

import numpy as np
import pytest
import redis

from stores.errors import StoreError, UsageError
from stores.kv import Current, open_store, without_password
from tests.redis_cluster import running_cluster
from tests.redis_server import running_redis

CURRENT = Current("g", "2026-11-01", "ab" * 32, 1)


def put(url: str, value: bytes) -> None:
    with open_store(url) as store:
        store.upload("g", [(np.arange(1), [value])], deletes=[], fresh=True, current=CURRENT)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a#b?c=d", "a%20b", "a b", "a?map_size=lots"])
def test_a_folder_is_the_one_that_was_written(tmp_path, name):
    put(f"lmdb://{tmp_path}/a/kv", b"another")
    put(f"lmdb://{tmp_path}/{name}/kv", b"mine")
    assert os.path.exists(tmp_path / name / "kv" / "data.mdb")
    with open_store(f"lmdb://{tmp_path}/a/kv") as store:
        assert store.get_many("g", np.arange(1)) == [b"another"]


def test_the_size_of_the_map(tmp_path):
    url = f"lmdb://{tmp_path}/kv?map_size=1MiB"
    with open_store(url) as store, pytest.raises(StoreError, match=r"map of 1 MiB is full.*\?map_size=64GiB"):
        values = [bytes(1000)] * 3000
        store.upload("g", [(np.arange(3000), values)], deletes=[], fresh=True, current=CURRENT)
    put(f"lmdb://{tmp_path}/kv?map_size=64MiB", b"x")
    with open_store(f"lmdb://{tmp_path}/kv") as store:  # a reader needs not know
        assert store.get_many("g", np.arange(1)) == [b"x"]
    assert os.listdir(tmp_path) == ["kv"]
    with pytest.raises(UsageError, match="1MiB or more"):
        open_store(f"lmdb://{tmp_path}/kv?map_size=0GiB")


def test_a_limit_on_address_space_is_named(tmp_path):
    code = "import sys; from stores.kv import open_store; open_store(sys.argv[1]).check()"
    limited = f"ulimit -v 60000000; exec {sys.executable} -c '{code}' "
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", limited + f"lmdb://{tmp_path}/kv"], capture_output=True, text=True, env=env)
    assert done.returncode and "map of 1,048,576 MiB" in done.stderr and "?map_size=64GiB" in done.stderr
    done = subprocess.run(
        ["bash", "-c", limited + f"'lmdb://{tmp_path}/kv?map_size=1GiB'"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/0?password=sesame",
        "redis://host/0?db=1&password=sesame&socket_timeout=3",
        "rediss://host/0?ssl_password=sesame",
        "redis://:sesame@host/0?password=sesame",
        "redis+cluster://host?PASSWORD=sesame",
        "redis://user:sesame@host/0",
    ],
)
def test_a_password_is_shown_nowhere(url):
    assert "sesame" not in without_password(url) and "***" in without_password(url)
    assert "host" in without_password(url)


def test_a_password_in_the_query_works_and_is_masked_in_errors(tmp_path):
    with running_redis(str(tmp_path), password="sesame") as port:
        put(f"redis://127.0.0.1:{port}/0?password=sesame", b"x")
        with open_store(f"redis://127.0.0.1:{port}/0?password=s3same") as store, pytest.raises(StoreError) as info:
            store.check()
        assert "s3same" not in str(info.value) and "password=***" in str(info.value)


def test_redis_and_cluster_are_told_apart(tmp_path):
    with running_cluster(str(tmp_path)) as cluster:
        for port in cluster.ports:
            with open_store(f"redis://127.0.0.1:{port}/0") as store:
                with pytest.raises(StoreError, match=r"write redis\+cluster:// in place of redis://"):
                    store.check()
                with pytest.raises(StoreError, match=r"write redis\+cluster:// in place of redis://"):
                    store.get_many("g", np.arange(50))
        with open_store(cluster.url) as store:
            store.check()
            assert store.warnings() == []
    os.makedirs(tmp_path / "single")
    with running_redis(str(tmp_path / "single")) as port:
        with pytest.raises(StoreError, match=r"write redis:// in place of redis\+cluster://"):
            open_store(f"redis+cluster://127.0.0.1:{port}").check()


def test_a_server_that_drops_keys_says_so(tmp_path):
    with running_redis(str(tmp_path), "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru") as port:
        with open_store(f"redis://127.0.0.1:{port}/0") as store, redis.Redis(port=port) as client:
            (line,) = store.warnings()
            assert "maxmemory-policy is allkeys-lru" in line and "noeviction" in line
            for number in range(4000):
                client.set(f"of another:{number}", bytes(1000))
            policy, evicted = store.warnings()
            assert policy == line and "keys were evicted" in evicted and "--rewrite" in evicted
            client.config_set("maxmemory-policy", "noeviction")
            (again,) = store.warnings()  # the server may go on evicting: the count may be another
            assert "keys were evicted" in again and "maxmemory-policy" not in again
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_resetstat()
            assert store.warnings() == []
