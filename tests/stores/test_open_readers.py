"""Readers that stay open: over another model, an erasure, a fork, a killed neighbour, a damaged value."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import lmdb
import numpy as np
import pytest

from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError
from stores.files import Root
from stores.kv import Current, lmdb_store, open_store
from stores.kv.codec import encode_values
from stores.kv.lmdb_store import LmdbStore
from stores.layout import _new_root_id
from stores.releases import read_current
from stores.retriever import Retriever
from tests.pipelines.test_daily import first_night, make_world, vectors_of
from tests.redis_server import running_redis
from tests.worlds import write_model
from transforms.publish import PublishTarget, publish
from transforms.verification import check_store, draw_rows

DIGEST = "ab" * 32
USERS = np.arange(40)


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Two roots of the same world and dates, `one` and `other`, the second by another model."""
    folder = str(tmp_path_factory.mktemp("roots"))
    world = make_world(folder)
    first_night(world, f"{folder}/one", "--user-buckets=1", "--pin-shards=1")
    os.rename(f"{folder}/model", f"{folder}/old_model")
    write_model(f"{folder}/model", seed=2)
    first_night(world, f"{folder}/other", "--user-buckets=1", "--pin-shards=1")
    return folder


@pytest.fixture
def folder(nights, tmp_path) -> str:
    for name in ("one", "other"):
        shutil.copytree(f"{nights}/{name}", f"{tmp_path}/{name}")
    return str(tmp_path)


def put(root: str, kv: str) -> None:
    publish(Root(root), read_current(Root(root)).release, PublishTarget(kv, "pinnerformer"))


def answer(retriever: Retriever) -> tuple[list, list]:
    found = retriever.retrieve(0, 5)
    return found.pin_ids.tolist(), found.scores.tolist()


def test_a_root_that_was_replaced_by_one_of_another_model_under_the_same_release(folder):
    """A vector of the new model is never searched for in the old index, though the release is called alike."""
    kv = f"lmdb://{folder}/kv"
    put(f"{folder}/one", kv)
    with Retriever(f"{folder}/one", kv) as open_before:
        old = answer(open_before)
        put(f"{folder}/other", kv)
        with pytest.raises(StoreError, match="is of model .* are of model"):
            open_before.retrieve(0, 5)
        os.rename(f"{folder}/one", f"{folder}/gone")
        os.rename(f"{folder}/other", f"{folder}/one")
        with Retriever(f"{folder}/one", kv) as fresh:
            assert answer(open_before) == answer(fresh) != old


def test_a_store_that_another_root_of_the_same_model_was_published_to(folder):
    kv = f"lmdb://{folder}/kv"
    shutil.copytree(f"{folder}/one", f"{folder}/twin")
    layout = Root(f"{folder}/twin").read_json("layout.json")
    Root(f"{folder}/twin").write_json("layout.json", {**layout, "root_id": (twin := _new_root_id())})
    put(f"{folder}/one", kv)
    with Retriever(f"{folder}/one", kv) as retriever:
        answer(retriever)
        put(f"{folder}/twin", kv)
        with open_store(kv) as store:  # the same bytes: what changes is whose they are
            assert store.contents()[store.current().generation].root == twin
        with Retriever(f"{folder}/one", kv) as fresh, pytest.raises(StoreError, match="of another root"):
            fresh.retrieve(0, 5)


def test_engaged_pins_after_an_erasure(folder):
    """`erase` writes the bucket of this user again, without a neighbour of theirs."""
    root, kv = f"{folder}/one", f"lmdb://{folder}/kv"
    put(root, kv)
    with open(f"{folder}/leavers", "w") as file:
        file.write("1\n")
    with Retriever(root, kv) as retriever:
        before = retriever.retrieve(0, 1000, exclude_engaged=True).pin_ids.tolist()
        assert main(["erase", f"--root={root}", f"--users={folder}/leavers", f"--kv={kv}"]) == 0
        assert retriever.retrieve(0, 1000, exclude_engaged=True).pin_ids.tolist() == before
        with pytest.raises(StoreError, match="user 1: no vector"):
            retriever.retrieve(1, 5)
    assert (
        publish(Root(root), "2026-11-01", PublishTarget(kv, "pinnerformer"))["users_sent"] == 0
    )  # it is known to be there


def upload(kv: str, number: int, fresh: bool = False, pause=lambda: None) -> None:
    """Every user with the vector of one number."""

    def batches():
        yield (
            USERS,
            encode_values(np.full((len(USERS), 32), number, np.float16), np.full(len(USERS), 1, np.int32), DIGEST),
        )
        pause()

    with open_store(kv) as store:
        current = Current("g", f"r{number}", DIGEST, len(USERS))
        store.upload("g", batches(), deletes=[], fresh=fresh, current=current)


def in_child(body) -> int:
    """Runs `body` in a fork; 0 if it came back, else what it raised is shown."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            body()
            code = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def readers(kv: str) -> str:
    with open_store(kv) as store:
        return store._open(write=False).readers()


@pytest.fixture
def kv(tmp_path) -> str:
    kv = f"lmdb://{tmp_path}/kv"
    upload(kv, 1, fresh=True)
    return kv


def test_clients_that_were_opened_before_a_fork(kv, monkeypatch):
    """Each child reads more often than there are places for readers, and leaves none behind."""
    monkeypatch.setattr(lmdb_store, "MAX_READERS", 20)
    os.unlink(kv.removeprefix("lmdb://") + "/lock.mdb")  # the table is as long as its first user made it

    with EmbeddingClient(kv) as client:
        read = lambda: [client.get_many(USERS)[2].all() or 1 / 0 for _ in range(40)]  # noqa: E731
        read()
        for _ in range(3):
            assert in_child(read) == 0
        assert "no active readers" in readers(kv)
        upload(kv, 2)
        assert (client.get_many(USERS)[0] == 2).all()


def test_a_fork_waits_for_the_reads_of_other_threads_and_ends_none(kv):
    reading, forked, seen = threading.Event(), threading.Event(), []

    def read():
        with open_store(kv) as store, store._reading() as transaction:
            reading.set()
            forked.wait(0.3)
            seen.append("(no active readers)" not in readers(kv) and transaction.get(b"pinnerformer:current"))

    thread = threading.Thread(target=read)
    thread.start()
    reading.wait()
    with EmbeddingClient(kv) as client:
        assert in_child(lambda: client.get_many(USERS)) == 0
        forked.set()
        thread.join()
        assert seen[0] and client.get_many(USERS)[2].all()


def test_a_fork_while_another_thread_writes(kv, monkeypatch):
    """The write goes on; the child is told why it cannot use that store, and others can."""
    monkeypatch.setattr(lmdb_store, "FORK_WAIT_S", 0.1)
    writing, forked = threading.Event(), threading.Event()

    def pause():
        writing.set()
        forked.wait(60)

    thread = threading.Thread(target=upload, args=(kv, 2), kwargs={"pause": pause})
    thread.start()
    writing.wait()

    def body():
        with EmbeddingClient(kv) as client, pytest.raises(StoreError, match="forked while another thread was writing"):
            client.get_many(USERS)

    assert in_child(body) == 0
    forked.set()
    thread.join()
    with EmbeddingClient(kv) as client:
        assert (client.get_many(USERS)[0] == 2).all()


def test_a_lock_that_a_fork_has_open_too_is_given_back(kv, monkeypatch):
    monkeypatch.setattr(lmdb_store, "WAIT_S", 0.3)
    with open_store(kv) as store:
        with store.hold_writes("x"):
            pid = os.fork()
            if not pid:
                signal.pause()
                os._exit(0)
        try:
            upload(kv, 2)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


READ = """
import sys, time
from stores.kv import open_store
environment = open_store(sys.argv[1])._open(False)
if sys.argv[2] == "inside":
    transaction = environment.begin()
    transaction.get(b"x")
print("ready", flush=True)
time.sleep(600)
"""


def test_readers_that_were_killed_keep_no_pages(kv, monkeypatch):
    started = []
    for where in ("idle", "inside"):
        command = [sys.executable, "-c", READ, kv, where]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "ready\n"
    idle, inside = started
    try:
        inside.kill()
        inside.wait()
        sizes = []
        for number in range(30):
            upload(kv, number)
            sizes.append(os.path.getsize(kv.removeprefix("lmdb://") + "/data.mdb"))
        assert sizes[-1] == sizes[4] and "no active readers" in readers(kv)
    finally:
        idle.kill()
        idle.wait()


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "another model's"])
@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_one_damaged_value_costs_one_user(kind, damage, folder, request):
    root = Root(f"{folder}/one")
    manifest = read_current(root)
    wanted = vectors_of(root.url, manifest)
    users = np.array(sorted(wanted))

    def check(kv: str) -> None:
        put(root.url, kv)
        with open_store(kv) as store, EmbeddingClient(kv) as client:
            generation = store.current().generation
            (value,) = store.get_many(generation, users[3:4])
            bad = {
                "cut": value[:-3],
                "empty": b"",
                "header": value[:1] + b"\xff" + value[2:],
                "another model's": encode_values(np.ones((1, 32), np.float16), np.ones(1, np.int32), "cd" * 32)[0],
            }[damage]
            store.upload(generation, [(users[3:4], [bad])], deletes=[], fresh=False, current=store.current())
            vectors, days, found = client.get_many(users)
            assert users[~found].tolist() == [users[3]] and client.damaged == 1
            assert {int(u): v.tobytes() for u, v, f in zip(users, vectors, found, strict=True) if f} == {
                user: vector for user, vector in wanted.items() if user != users[3]
            }
            assert np.isnat(days[3]) and not np.isnat(days[found]).any() and not vectors[3].any()
            if damage in ("cut", "empty"):
                assert client.get_many(users[3:4])[2].tolist() == [False]
            assert any(
                f"user {users[3]}:" in line for line in check_store(store, manifest, draw_rows(root, manifest, 999, 1))
            )

    if kind == "lmdb":
        check(f"lmdb://{folder}/kv")
    else:
        with running_redis(folder) as port:
            check(f"redis://127.0.0.1:{port}/0")


def test_a_store_all_of_another_format_is_refused_as_before(tmp_path):
    kv = f"lmdb://{tmp_path}/kv"
    with open_store(kv) as store:
        values = encode_values(np.ones((3, 4), np.float16), np.ones(3, np.int32), "cd" * 32)
        store.upload("g", [(np.arange(3), values)], deletes=[], fresh=True, current=Current("g", "r", DIGEST, 3))
    with EmbeddingClient(kv) as client:
        for users in (np.arange(3), np.arange(1)):
            with pytest.raises(StoreError, match="another model"):
                client.get_many(users)
    assert isinstance(store, LmdbStore) and lmdb.version() > (0, 9)
