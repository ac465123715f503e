"""Key-value stores: users a second written (a fresh generation, counted) and read, each beside a plain way to do it.

    .venv/bin/python -m benchmarks.kv [--users 1000000] [--runs 5]

LMDB; one redis-server beside MSET and MGET of the same chunks; a Redis Cluster of three nodes beside redis-py's
`mset_nonatomic` and `mget_nonatomic`. Values are of 16 + 512 bytes (d 256). All servers run on this machine and keep
nothing on disk but LMDB. Ours and the plain way alternate; the median of the runs and of the ratios is printed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import redis
from redis.cluster import RedisCluster

from stores.kv import Current, open_store
from stores.kv.base import Batch
from stores.kv.codec import encode_values
from tests.redis_cluster import running_cluster
from tests.redis_server import running_redis

DIM, BATCH, CHUNK, DIGEST = 256, 20_000, 5000, "ab" * 32


def batches(ids: np.ndarray) -> Iterator[Batch]:
    """Users in batches; every value another."""
    random = np.random.default_rng(1)
    for start in range(0, len(ids), BATCH):
        mine = ids[start : start + BATCH]
        vectors = random.integers(0, 2**15, (len(mine), DIM), np.uint16).view(np.float16)
        yield mine, encode_values(vectors, np.full(len(mine), 20_000, np.int32), DIGEST)


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write_ours(url: str, generation: str, prepared: list[Batch], users: int) -> None:
    """A fresh generation through the store, as `daily` publishes one."""
    with open_store(url) as store:
        current = Current(generation, "2026-11-01", DIGEST, users)
        store.upload(generation, prepared, deletes=[], fresh=True, current=current)


def read_ours(url: str, generation: str, ids: np.ndarray) -> None:
    """Every user once, in random order, `CHUNK` at a time, as a ranker asks."""
    with open_store(url) as store:
        for start in range(0, len(ids), CHUNK):
            assert None not in store.get_many(generation, ids[start : start + CHUNK])


def write_plainly(put: Callable[[dict], Any], prepared: list[Batch]) -> None:
    """The same values through one call of the client a chunk; nothing is counted."""
    for ids, values in prepared:
        for start in range(0, len(ids), CHUNK):
            keys = [f"plain:u:{user}" for user in ids[start : start + CHUNK].tolist()]
            put(dict(zip(keys, values[start : start + CHUNK], strict=True)))


def read_plainly(get: Callable[[list], Any], ids: np.ndarray) -> None:
    """The same reads through one call of the client a chunk."""
    for start in range(0, len(ids), CHUNK):
        get([f"plain:u:{user}" for user in ids[start : start + CHUNK].tolist()])


def measure(name: str, url: str, plain: Any, prepared: list[Batch], ids: np.ndarray, runs: int) -> None:
    """Prints one store's figures.

    Args:
        plain: (put, get, empty) of the client itself; None: nothing to compare with.
    """
    asked = np.random.default_rng(2).permutation(ids)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for run in range(runs):
        generation = f"g{run}"
        write = timed(lambda generation=generation: write_ours(url, generation, prepared, len(ids)))
        ours.append((write, timed(lambda generation=generation: read_ours(url, generation, asked))))
        if plain:
            plain[2]()
            write = timed(lambda: write_plainly(plain[0], prepared))
            theirs.append((write, timed(lambda: read_plainly(plain[1], asked))))
            plain[2]()
    for index, word in enumerate(("write", "read")):
        rate = len(ids) / np.median([seconds[index] for seconds in ours])
        line = f"{name:15} {word:5} {rate:10,.0f} users/s"
        if plain:
            other = len(ids) / np.median([seconds[index] for seconds in theirs])
            ratio = np.median([t[index] / o[index] for o, t in zip(ours, theirs, strict=True)])
            line += f"   the client alone {other:10,.0f} users/s   ours / client {ratio:.2f}"
        print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    ids = np.random.default_rng(0).choice(1 << 40, arguments.users, replace=False).astype(np.int64)
    prepared = list(batches(ids))
    with tempfile.TemporaryDirectory() as folder:
        measure("lmdb", f"lmdb://{folder}/kv", None, prepared, ids, arguments.runs)
    with tempfile.TemporaryDirectory() as folder, running_redis(folder) as port, redis.Redis(port=port) as client:
        plain = (client.mset, client.mget, client.flushall)
        measure("redis", f"redis://127.0.0.1:{port}/0", plain, prepared, ids, arguments.runs)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_cluster(folder, "--appendonly", "no") as nodes,
        RedisCluster(host="127.0.0.1", port=nodes.ports[0]) as cluster,
    ):
        plain = (cluster.mset_nonatomic, cluster.mget_nonatomic, nodes.empty)
        measure("redis cluster", nodes.url, plain, prepared, ids, arguments.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
