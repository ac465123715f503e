"""Key-value stores: users a second written (a fresh generation, counted) and read, each beside plain ways to do it.

    .venv/bin/python -m benchmarks.kv [--users 1000000] [--runs 5] [--stores lmdb redis cluster]

| store | beside |
|---|---|
| LMDB | all keys sorted at once, appended to an empty store in one transaction, synchronised |
| one redis-server | MSET in RESP, written to a bare socket; redis-py's `mset` and `mget` |
| a Redis Cluster of three nodes | redis-py's `mset_nonatomic` and `mget_nonatomic` |

Ours holds the writes and does what a first night does: leftovers are looked for, every chunk is counted and, on Redis,
asked for once more at the end. The plain ways count nothing. Values are of 16 + 512 bytes (d 256), in batches as
buckets give them: each of users from all over the ids. All servers run on this machine and keep nothing on disk but
LMDB. The ways alternate, each into an empty store; medians of the runs and of the ratios are printed. CPU is the
client's: of the process and what the system does for it.
"""

import argparse
import dataclasses
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import lmdb
import numpy as np
import redis
from redis.cluster import RedisCluster

from benchmarks.records import record
from stores.ids import bucket_of
from stores.kv import Current, open_store
from stores.kv.base import Batch
from stores.kv.codec import encode_values
from tests.redis_cluster import running_cluster
from tests.redis_server import running_redis

DIM, BATCH, CHUNK, DIGEST = 256, 20_000, 5000, "ab" * 32
GOALS = {("lmdb", "sorted append"): 0.9, ("redis", "raw RESP MSET"): 0.6}
PREFIX = b"pinnerformer:abababababab-2026-11-01:u:"  # as long as ours


def batches(ids: np.ndarray) -> list[Batch]:
    """A batch a bucket; every value another."""
    random = np.random.default_rng(1)
    buckets = max(len(ids) // BATCH, 1)
    drawn = bucket_of(ids, buckets)
    found = []
    for bucket in range(buckets):
        mine = np.sort(ids[drawn == bucket])
        vectors = random.integers(0, 2**15, (len(mine), DIM), np.uint16).view(np.float16)
        found.append((mine, encode_values(vectors, np.full(len(mine), 20_000, np.int32), DIGEST)))
    return found


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to write all users and to read them; `read` is None where the other ways are no measure of it."""

    name: str
    write: Callable[[list[Batch]], Any]
    read: Callable[[np.ndarray], Any] | None
    empty: Callable[[], Any]


def ours(url: str, empty: Callable[[], Any]) -> Way:
    """As `daily` publishes a first night, and as a ranker asks: `CHUNK` users at a time, in random order."""
    generation = f"{DIGEST[:12]}-2026-11-01"

    def write(prepared: list[Batch]) -> None:
        users = sum(len(ids) for ids, _ in prepared)
        with open_store(url) as store, store.hold_writes("a benchmark"):
            current = Current(generation, "2026-11-01", DIGEST, users)
            store.upload(generation, prepared, deletes=[], fresh=True, current=current)

    def read(asked: np.ndarray) -> None:
        with open_store(url) as store:
            for start in range(0, len(asked), CHUNK):
                assert None not in store.get_many(generation, asked[start : start + CHUNK])

    return Way("ours", write, read, empty)


def client(name: str, put: Callable[[dict], Any], get: Callable[[list], Any], empty: Callable[[], Any]) -> Way:
    """One call of redis-py a chunk."""

    def write(prepared: list[Batch]) -> None:
        for ids, values in prepared:
            for start in range(0, len(ids), CHUNK):
                keys = [PREFIX + b"%d" % user for user in ids[start : start + CHUNK].tolist()]
                put(dict(zip(keys, values[start : start + CHUNK], strict=True)))

    def read(asked: np.ndarray) -> None:
        for start in range(0, len(asked), CHUNK):
            get([PREFIX + b"%d" % user for user in asked[start : start + CHUNK].tolist()])

    return Way(name, write, read, empty)


def raw_resp(port: int, empty: Callable[[], Any]) -> Way:
    """MSET of `CHUNK` users as bytes on a socket; the next is made while the server works on the last."""

    def packed(ids: np.ndarray, values: list[bytes]) -> bytes:
        keys = [PREFIX + b"%d" % user for user in ids.tolist()]
        pairs = [b"$%d\r\n%b\r\n$%d\r\n%b" % (len(k), k, len(v), v) for k, v in zip(keys, values, strict=True)]
        return b"*%d\r\n$4\r\nMSET\r\n" % (1 + 2 * len(keys)) + b"\r\n".join(pairs) + b"\r\n"

    def write(prepared: list[Batch]) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            answers = 0
            for ids, values in prepared:
                for start in range(0, len(ids), CHUNK):
                    command = packed(ids[start : start + CHUNK], values[start : start + CHUNK])
                    if answers:
                        assert server.recv(100) == b"+OK\r\n"
                    server.sendall(command)
                    answers = 1
            assert server.recv(100) == b"+OK\r\n"

    return Way("raw RESP MSET", write, None, empty)


def sorted_append(folder: str, empty: Callable[[], Any]) -> Way:
    """Every key in order into an empty environment; closing the transaction synchronises."""

    def write(prepared: list[Batch]) -> None:
        ids = np.concatenate([ids for ids, _ in prepared])
        values = [value for _, values in prepared for value in values]
        order = np.argsort(ids)
        data = ids[order].astype(">i8").tobytes()
        keys = [PREFIX + data[start : start + 8] for start in range(0, len(data), 8)]
        with lmdb.open(folder, map_size=1 << 40) as environment, environment.begin(write=True) as transaction:
            with transaction.cursor() as cursor:
                cursor.putmulti(list(zip(keys, (values[row] for row in order.tolist()), strict=True)), append=True)

    return Way("sorted append", write, None, empty)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock, and of CPU in this process."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu


def measure(store: str, ways: list[Way], prepared: list[Batch], asked: np.ndarray, runs: int) -> None:
    """Prints one store's figures.

    Args:
        ways: The first is ours.
    """
    took: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(runs):
        for way in ways:
            way.empty()
            took.setdefault((way.name, "write"), []).append(timed(lambda way=way: way.write(prepared)))
            if way.read:
                took.setdefault((way.name, "read"), []).append(timed(lambda way=way: way.read(asked)))
            way.empty()
    for (name, what), seconds in took.items():
        wall, cpu = (len(asked) / np.median([s[clock] for s in seconds]) for clock in (0, 1))
        line = f"{store:8} {what:5} {name:15} {wall:10,.0f} users/s {cpu:10,.0f} users/s of CPU"
        if name != "ours":
            both = list(zip(seconds, took["ours", what], strict=True))
            ratios = [np.median([other[clock] / mine[clock] for other, mine in both]) for clock in (0, 1)]
            line += f"   ours / it {ratios[0]:.2f}, of CPU {ratios[1]:.2f}"
        print(line, flush=True)
        if name != "ours":
            what = f"{store}: users/s {'written' if what == 'write' else 'read'}, ours / {name}"
            record("kv", what, ratios[0], at_least=GOALS.get((store, name)), note=f"of CPU {ratios[1]:.2f}")


def measure_lmdb(prepared: list[Batch], asked: np.ndarray, runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kv")

        def empty() -> None:
            shutil.rmtree(path, ignore_errors=True)

        measure("lmdb", [ours(f"lmdb://{path}", empty), sorted_append(path, empty)], prepared, asked, runs)


def measure_redis(prepared: list[Batch], asked: np.ndarray, runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder, running_redis(folder) as port, redis.Redis(port=port) as plain:
        ways = [ours(f"redis://127.0.0.1:{port}/0", plain.flushall), raw_resp(port, plain.flushall)]
        ways.append(client("redis-py MSET", plain.mset, plain.mget, plain.flushall))
        measure("redis", ways, prepared, asked, runs)


def measure_cluster(prepared: list[Batch], asked: np.ndarray, runs: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_cluster(folder, "--appendonly", "no") as nodes,
        RedisCluster(host="127.0.0.1", port=nodes.ports[0]) as plain,
    ):
        ways = [ours(nodes.url, nodes.empty)]
        ways.append(client("redis-py", plain.mset_nonatomic, plain.mget_nonatomic, nodes.empty))
        measure("cluster", ways, prepared, asked, runs)


MEASURES = {"lmdb": measure_lmdb, "redis": measure_redis, "cluster": measure_cluster}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--stores", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    arguments = parser.parse_args()
    ids = np.random.default_rng(0).choice(1 << 40, arguments.users, replace=False).astype(np.int64)
    prepared = batches(ids)
    asked = np.random.default_rng(2).permutation(ids)
    for store in arguments.stores:
        MEASURES[store](prepared, asked, arguments.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
