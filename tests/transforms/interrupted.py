"""Publishes that are cut off, stopped or overtaken: small chains of releases, three kinds of store, a child to stop."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from stores.files import Root
from stores.kv import open_store
from stores.kv.codec import decode_values
from stores.kv.lmdb_store import LmdbStore
from stores.kv.redis_cluster import RedisClusterStore
from stores.kv.redis_store import RedisStore
from stores.manifests import Manifest, read_manifest, write_manifest
from stores.releases import move_current
from tests.redis_cluster import running_cluster
from tests.redis_server import running_redis
from tests.transforms.test_publish import release
from transforms.gates import Thresholds
from transforms.publish import PublishTarget, publish
from transforms.release import write_staged
from transforms.verification import check_store, draw_rows

Snapshot = dict[int, int]
MODEL, OTHER_MODEL = "ab" * 32, "cd" * 32
OLD: Snapshot = {user: 1 for user in range(6)}
NEW: Snapshot = {**{user: 2 for user in range(2, 6)}, 0: 1, 7: 2, 8: 2}  # user 1 is gone, 7 and 8 have come
NEWEST: Snapshot = {**NEW, 3: 3, 1: 3}


class Cut(BaseException):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(running_redis(str(tmp_path_factory.mktemp("redis"))))
        cluster = stack.enter_context(running_cluster(str(tmp_path_factory.mktemp("cluster"))))
        yield {"redis": f"redis://127.0.0.1:{port}/0", "cluster": cluster.url, "nodes": cluster, "port": port}


def url_of(kind: str, servers: dict, folder: str) -> str:
    """The URL of an empty store of a kind."""
    if kind == "lmdb":
        return f"lmdb://{folder}/kv"
    if kind == "cluster":
        servers["nodes"].empty()
    else:
        with open_store(servers["redis"]) as store:
            store._client.flushall()
    return servers[kind]


def commit(root: Root, name: str, snapshot: Snapshot, model: str = MODEL, previous: str | None = None) -> Manifest:
    """A release with a run that `pinnerformer release` takes, and CURRENT on it."""
    manifest = release(root, name, snapshot, model)
    settings = {
        **manifest.settings,
        "run": f"daily-{name}",
        "thresholds": dataclasses.asdict(Thresholds()),
        "index": {},
    }
    manifest = dataclasses.replace(manifest, previous=previous, settings=settings, date=name)
    write_manifest(root, manifest)
    move_current(root, previous, name)
    write_staged(root, f"daily-{name}", manifest, {})
    return manifest


def two_releases(path: str, first: str, second: str) -> Root:
    """A root with two releases of one model, with the snapshots `OLD` and `NEW`."""
    root = Root(path)
    commit(root, first, OLD)
    commit(root, second, NEW, previous=first)
    return root


# What is called once for every chunk of users that is written, with (the handle, generation, ids, values).
CHUNK_OF = {RedisStore: "_pack_put", RedisClusterStore: "_put"}


def small_chunks(patch: pytest.MonkeyPatch) -> None:
    for store in (RedisStore, RedisClusterStore):
        patch.setattr(store, "chunk", 2)


@contextlib.contextmanager
def cut_before_write(number: int) -> Iterator[list[int]]:
    """Raises `Cut` in place of the write of this number, from 0, of a store; yields a list with the count so far."""
    count = [0]

    def counted(function):
        def write(*arguments, **named):
            if count[0] == number:
                raise Cut
            count[0] += 1
            return function(*arguments, **named)

        return write

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisStore, "_guarded", counted(RedisStore._guarded))
        for name in ("_write", "_put", "_delete"):
            patch.setattr(RedisClusterStore, name, counted(getattr(RedisClusterStore, name)))
        for name in ("_show_life", "_write_generations"):
            patch.setattr(LmdbStore, name, counted(getattr(LmdbStore, name)))
        yield count


def target(kv: str) -> PublishTarget:
    return PublishTarget(kv, "pinnerformer")


def held(kv: str) -> Snapshot:
    """What the store answers with; what it holds beside that is a failure: another user, an unfinished generation."""
    ids = np.arange(-5, 20)
    with open_store(kv) as store:
        current = store.current()
        values = store.get_many(current.generation, ids)
        found = {int(u): v for u, v in zip(ids, values, strict=True) if v is not None}
        assert store.count(current.generation) == len(found)
        assert all(entry.release is not None for entry in store.generations().values())
        assert store.note() is None
    return {u: int(decode_values([v], current.model_digest)[0][0, 0]) for u, v in found.items()}


def problems(root: Root, kv: str, name: str) -> list[str]:
    """What `verify --kv --release NAME --users 1000` says of the store."""
    manifest = read_manifest(root, name)
    with open_store(kv) as store:
        return check_store(store, manifest, draw_rows(root, manifest, 1000, 1))


STOPPED = """
import os, signal, sys
from stores.files import Root
from stores.kv.lmdb_store import LmdbStore
from stores.kv.redis_cluster import RedisClusterStore
from stores.kv.redis_store import RedisStore
from transforms import publish as module
root, kv, release, where = sys.argv[1:]
def stopping(function, at):
    calls = [0]
    def call(*arguments, **named):
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGSTOP)
        return function(*arguments, **named)
    return call
for store in (RedisStore, RedisClusterStore):
    store.chunk = 2
if where == "chunks":
    RedisStore._pack_put = stopping(RedisStore._pack_put, 2)
    RedisClusterStore._put = stopping(RedisClusterStore._put, 2)
    LmdbStore._keys = stopping(LmdbStore._keys, 1)
else:
    module.publish = stopping(module.publish, 1)
try:
    module.publish(Root(root), release, module.PublishTarget(kv, "pinnerformer"), unless_overtaken=True)
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""


@contextlib.contextmanager
def stopped_publisher(root: Root, kv: str, name: str, where: str) -> Iterator[subprocess.Popen]:
    """A process that publishes a release and has stopped itself by SIGSTOP, at its second chunk or on entering."""
    command = [sys.executable, "-c", STOPPED, root.url, kv, name, where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), process.stdout.read()
        yield process
    finally:
        process.kill()
        process.wait()


def wake(process: subprocess.Popen) -> tuple[int, str]:
    """Lets a stopped process go on; returns its exit code and what it said."""
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def publish_and_hold(root: Root, name: str, kv: str) -> Snapshot:
    publish(root, name, target(kv))
    return held(kv)
