"""The kinds of key-value store that the shared tests run on, and a way past the interface to what each holds.

A new kind is a class here and a line in `KINDS`; `tests/stores/test_kv.py` then asks of it what it asks of the others.
"""

import contextlib
import json
from typing import Any, Protocol

import lmdb
import pytest
import redis

CURRENT, GENERATIONS = "pinnerformer:current", "pinnerformer:generations"


class Stored(Protocol):
    """An empty store of its own for one test.

    Attributes:
        url: As `--kv`.
        all_or_nothing: Whether an upload is one transaction: of one that fails, nothing stays. Such a store is asked
            to notice a user who is sent twice, too.
    """

    url: str
    all_or_nothing: bool

    def put_current(self, data: bytes) -> None:
        """Writes the record of what is served."""

    def put_generations(self, generations: dict[str, Any]) -> None:
        """Writes the records of generations; those not named may stay."""

    def records(self) -> dict[str, Any]:
        """`current` and the generations as they lie in the store."""


class StoredLmdb:
    all_or_nothing = True

    def __init__(self, request: pytest.FixtureRequest):
        folder = request.getfixturevalue("tmp_path")
        self.url = f"lmdb://{folder}/kv"

    @contextlib.contextmanager
    def _transaction(self, write: bool = False):
        with lmdb.open(self.url.removeprefix("lmdb://"), map_size=1 << 20) as environment:
            with environment.begin(write=write) as transaction:
                yield transaction

    def put_current(self, data: bytes) -> None:
        with self._transaction(write=True) as transaction:
            transaction.put(CURRENT.encode(), data)

    def put_generations(self, generations: dict[str, Any]) -> None:
        with self._transaction(write=True) as transaction:
            transaction.put(GENERATIONS.encode(), json.dumps(generations).encode())

    def records(self) -> dict[str, Any]:
        with self._transaction() as transaction:
            held = json.loads(transaction.get(GENERATIONS.encode()))
            return {"current": json.loads(transaction.get(CURRENT.encode())), **held}


class StoredRedis:
    all_or_nothing = False

    def __init__(self, request: pytest.FixtureRequest):
        port = request.getfixturevalue("port")
        self.url = f"redis://127.0.0.1:{port}/0"
        with self._client() as client:
            client.flushall()

    def _client(self) -> Any:
        return redis.Redis.from_url(self.url)

    def put_current(self, data: bytes) -> None:
        with self._client() as client:
            client.set(CURRENT, data)

    def put_generations(self, generations: dict[str, Any]) -> None:
        with self._client() as client:
            for name, entry in generations.items():
                client.hset(GENERATIONS, name, json.dumps(entry))

    def records(self) -> dict[str, Any]:
        with self._client() as client:
            held = {name.decode(): json.loads(data) for name, data in client.hgetall(GENERATIONS).items()}
            return {"current": json.loads(client.get(CURRENT)), **held}


class StoredCluster(StoredRedis):
    def __init__(self, request: pytest.FixtureRequest):
        cluster = request.getfixturevalue("nodes")
        cluster.wait_until_whole()
        cluster.empty()
        self.url = cluster.url

    def _client(self) -> Any:
        return redis.RedisCluster.from_url(self.url.replace("redis+cluster", "redis"))


KINDS: dict[str, type] = {"lmdb": StoredLmdb, "redis": StoredRedis, "redis+cluster": StoredCluster}
