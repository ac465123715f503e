"""A store is what the newest decision says, whatever was cut off, stopped, restored or made again before it."""

import shutil

import pytest

from pipelines.cli import main
from stores.errors import OvertakenError, StoreError
from stores.files import Root
from stores.kv import lmdb_store, open_store
from stores.kv.redis_cluster import RedisClusterStore
from stores.kv.redis_store import RedisStore
from stores.layout import read_root_id
from stores.releases import move_current
from tests.transforms.interrupted import (
    CHUNK_OF,
    MODEL,
    NEW,
    NEWEST,
    OLD,
    OTHER_MODEL,
    Cut,
    commit,
    cut_before_write,
    held,
    problems,
    publish_and_hold,
    servers,
    small_chunks,
    stopped_publisher,
    target,
    two_releases,
    url_of,
    wake,
)
from transforms import publish as publishing
from transforms.publish import publish

__all__ = ["servers"]
KINDS = ["lmdb", "redis", "cluster"]
FIRST, SECOND, THIRD = "2026-11-01", "2026-11-02", "2026-11-03"


@pytest.fixture(params=KINDS)
def kv(request, tmp_path, servers, monkeypatch):
    small_chunks(monkeypatch)
    return url_of(request.param, servers, str(tmp_path))


@pytest.fixture
def root(tmp_path) -> Root:
    return two_releases(f"{tmp_path}/root", FIRST, SECOND)


def only_by_name(store, served, mine) -> bool:
    """The shortcut of the version before: a release is known by its name."""
    return served.release == mine.release


def trusting(root, ends):
    """What a generation holds, by the names of the releases: no ids, no digests."""
    return tuple(publishing.read_manifest(root, end.release) for end in ends[:1]) or None


# A1: a publish that was cut off


@pytest.mark.parametrize("after", [FIRST, SECOND, THIRD])
def test_cut_off_anywhere_then_whatever_is_decided_next_is_there_to_the_key(root, kv, tmp_path, after):
    """After every number of writes; the next command is the rollback, the same again, or the next night."""
    commit(root, THIRD, NEWEST, previous=SECOND)
    wanted = {FIRST: OLD, SECOND: NEW, THIRD: NEWEST}[after]
    step = 6 if "cluster" in kv else 1  # each publish raises 16,384 fences there
    for number in range(0, 40, step):
        assert publish_and_hold(root, FIRST, kv) == OLD
        with cut_before_write(number) as count:
            try:
                publish(root, SECOND, target(kv))
            except Cut:
                pass
            else:
                break
        assert publish_and_hold(root, after, kv) == wanted, f"cut off before write {number}"
        assert problems(root, kv, after) == []
        assert publish(root, after, target(kv))["users_sent"] == 0  # and it is known that it is there
    assert count[0] >= (2 if kv.startswith("lmdb") else 8), "nothing was cut off"


def test_cut_off_twice_towards_two_releases_then_the_first(root, kv):
    commit(root, THIRD, NEWEST, previous=SECOND)
    publish(root, FIRST, target(kv))
    for name, number in ((SECOND, 3), (THIRD, 2), (SECOND, 4)):
        with cut_before_write(number), pytest.raises(Cut):
            publish(root, name, target(kv))
        if not kv.startswith("lmdb"):
            with open_store(kv) as store:
                assert store.note().target.release == name
    assert publish_and_hold(root, FIRST, kv) == OLD


def test_a_new_model_cut_off_anywhere_then_back_or_on(root, kv):
    """The whole generation that was not finished is removed by whatever is published next."""
    commit(root, THIRD, NEWEST, OTHER_MODEL, previous=SECOND)
    for number in range(0, 40, 8 if "cluster" in kv else 2):
        for after, wanted in ((SECOND, NEW), (THIRD, NEWEST)):
            publish(root, SECOND, target(kv))
            drop_retired(kv)
            with cut_before_write(number):
                try:
                    publish(root, THIRD, target(kv))
                except Cut:
                    pass
                else:
                    return
            assert publish_and_hold(root, after, kv) == wanted, f"cut off before write {number}"
            drop_retired(kv)


def drop_retired(kv: str) -> None:
    """Leaves the generation that is served; none is left that is not known to be retired."""
    with open_store(kv) as store:
        for name in set(store.generations()) - {store.current().generation}:
            assert store.generations()[name].retired_at is not None
            store.delete_generation(name)


def test_without_the_note_verify_finds_what_is_left(root, kv, monkeypatch):
    if kv.startswith("lmdb"):
        pytest.skip("one transaction: nothing is left")
    publish(root, FIRST, target(kv))
    monkeypatch.setattr(publishing, "is_served", only_by_name)
    with cut_before_write(3), pytest.raises(Cut):
        publish(root, SECOND, target(kv))
    assert publish(root, FIRST, target(kv))["users_sent"] == 0
    assert any("not the vector of" in line for line in problems(root, kv, FIRST))


# A2: releases of the same name


def test_another_root_with_releases_of_the_same_names(root, kv, tmp_path):
    other = Root(f"{tmp_path}/other")
    commit(other, FIRST, NEWEST)
    commit(other, SECOND, OLD, previous=FIRST)
    assert read_root_id(root) != read_root_id(other)
    for where, name, wanted in ((root, SECOND, NEW), (other, SECOND, OLD), (other, FIRST, NEWEST), (root, SECOND, NEW)):
        assert publish_and_hold(where, name, kv) == wanted
        assert problems(where, kv, name) == []


def test_a_root_that_was_restored_and_caught_up(root, kv, tmp_path):
    """The backup is of the first night; the second was done again, on logs that had come late."""
    shutil.copytree(root.url, f"{tmp_path}/backup")
    assert publish_and_hold(root, SECOND, kv) == NEW
    restored = Root(f"{tmp_path}/backup")
    move_current(restored, SECOND, FIRST)
    commit(restored, SECOND, NEWEST, previous=FIRST)
    assert read_root_id(root) == read_root_id(restored)
    assert publish_and_hold(restored, SECOND, kv) == NEWEST


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_by_name_alone_verify_finds_the_other_root(kind, root, tmp_path, servers, monkeypatch):
    kv = url_of(kind, servers, str(tmp_path))
    other = Root(f"{tmp_path}/other")
    commit(other, FIRST, NEWEST)
    publish(root, FIRST, target(kv))
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "is_served", only_by_name)
        assert publish(other, FIRST, target(kv))["users_sent"] == 0
        assert problems(other, kv, FIRST)
    commit(other, SECOND, {**NEWEST, 5: 9}, previous=FIRST)
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_releases_of", trusting)
        publish(other, SECOND, target(kv))  # a difference, to what the store does not hold
        assert problems(other, kv, SECOND)
    assert publish_and_hold(root, FIRST, kv) == OLD


def test_a_store_of_the_version_before_is_taken_over_without_a_rewrite_if_it_can_be_told_to_be_right(root, kv):
    publish(root, FIRST, target(kv))
    with open_store(kv) as store:
        generation = store.current().generation
        store.set_contents({generation: None})
    assert publish(root, SECOND, target(kv))["users_sent"] < len(NEW)
    assert held(kv) == NEW
    with open_store(kv) as store:
        assert store.current().generation == generation
        store.set_contents({generation: None})
        store.delete_users(generation, [7])  # as a publish that was cut off, or an eviction, leaves it
    assert publish_and_hold(root, FIRST, kv) == OLD
    with open_store(kv) as store:
        assert store.current().generation != generation


def test_a_root_of_the_version_before_gets_an_id(root):
    layout = root.read_json("layout.json")
    root.write_json("layout.json", {key: value for key, value in layout.items() if key != "root_id"})
    assert read_root_id(root) == read_root_id(root) != layout["root_id"]


def test_two_namespaces_know_nothing_of_each_other(root, kv):
    publish(root, FIRST, target(kv))
    publish(root, SECOND, publishing.PublishTarget(kv, "other"))
    with open_store(kv, "other") as other, other.hold_writes("x"):
        assert publish(root, SECOND, target(kv))["users_sent"] > 0 if not kv.startswith("lmdb") else True
    assert publish_and_hold(root, FIRST, kv) == OLD
    with open_store(kv, "other") as other:
        assert other.count(other.current().generation) == len(NEW)


# A3: what is behind, and who is overtaken


def run_release(root: Root, kv: str, name: str, *more: str) -> int:
    return main(["release", f"--root={root.url}", f"--run=daily-{name}", f"--kv={kv}", *more])


def test_release_of_a_run_behind_current_says_what_it_would_undo(root, kv, capsys):
    publish(root, SECOND, target(kv))
    assert run_release(root, kv, FIRST) == 1
    said = capsys.readouterr().err
    assert f"CURRENT is {SECOND}" in said and f"would undo {SECOND}" in said
    assert f"rollback --root {root.url} --kv URL --to {FIRST} --reason" in said
    assert held(kv) == NEW


def test_release_on_a_held_root(root, kv, capsys):
    publish(root, SECOND, target(kv))
    assert main(["rollback", f"--root={root.url}", f"--kv={kv}", "--reason=half a log"]) == 0
    assert held(kv) == OLD
    assert run_release(root, kv, SECOND) == 1
    assert "half a log" in capsys.readouterr().err
    assert run_release(root, kv, SECOND, "--publish=none") == 1
    assert held(kv) == OLD and root.read_bytes("CURRENT").decode().strip() == FIRST
    assert run_release(root, kv, FIRST) == 0  # what it is held at
    assert main(["rollback", f"--root={root.url}", "--lift-hold"]) == 0
    capsys.readouterr()
    assert run_release(root, kv, SECOND) == 1  # the way back to it is another
    said = capsys.readouterr().err
    assert "half a log" in said and f"rollback --root {root.url} --kv URL --to {SECOND} --reason TEXT" in said
    assert held(kv) == OLD and root.read_bytes("CURRENT").decode().strip() == FIRST
    assert main(["rollback", f"--root={root.url}", f"--kv={kv}", f"--to={SECOND}", "--reason=it was good"]) == 0
    assert held(kv) == NEW and run_release(root, kv, SECOND) == 0


@pytest.mark.parametrize("where", ["chunks", "entering"])
@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_a_run_that_was_stopped_and_overtaken_changes_nothing(kind, where, root, tmp_path, servers):
    kv = url_of(kind, servers, str(tmp_path))
    publish(root, FIRST, target(kv))
    with stopped_publisher(root, kv, SECOND, where) as stopped:
        commit(root, THIRD, NEWEST, previous=SECOND)
        publish(root, THIRD, target(kv), unless_overtaken=True)
        code, said = wake(stopped)
    assert code == 1 and said.startswith("OvertakenError") and "nothing" in said
    assert held(kv) == NEWEST and problems(root, kv, THIRD) == []


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_without_the_fence_verify_finds_what_it_wrote(kind, root, tmp_path, servers, monkeypatch):
    """The same, in one process: a store whose handle does not compare."""
    kv = url_of(kind, servers, str(tmp_path))
    small_chunks(monkeypatch)
    publish(root, FIRST, target(kv))
    commit(root, THIRD, NEWEST, previous=SECOND)
    store_class = RedisClusterStore if kind == "cluster" else RedisStore
    name, calls = CHUNK_OF[store_class], [0]
    put = getattr(store_class, name)

    def overtaken_on_the_way(self, *arguments):
        calls[0] += 1
        if calls[0] == 2:
            publish(root, THIRD, target(kv))
        return put(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(store_class, name, overtaken_on_the_way)
        with pytest.raises(OvertakenError):
            publish(root, SECOND, target(kv))
    assert held(kv) == NEWEST
    publish(root, FIRST, target(kv))
    calls[0] = 0
    with monkeypatch.context() as patched:
        patched.setattr(store_class, name, overtaken_on_the_way)
        patched.setattr(store_class, "_raise_fence", lambda self: None)
        patched.setattr(store_class, "_server", lambda self: None)
        publish(root, SECOND, target(kv))
    assert problems(root, kv, THIRD)


def test_a_writer_that_is_stopped_in_its_transaction_is_waited_for_and_named(root, tmp_path, monkeypatch):
    kv = f"lmdb://{tmp_path}/kv"
    publish(root, FIRST, target(kv))
    monkeypatch.setattr(lmdb_store, "WAIT_S", 0.3)
    with stopped_publisher(root, kv, SECOND, "chunks") as stopped:
        commit(root, THIRD, NEWEST, previous=SECOND)
        with pytest.raises(StoreError, match=f"for 0.3 s, by process {stopped.pid} on .*publishing {SECOND}"):
            publish(root, THIRD, target(kv), unless_overtaken=True)
        assert held(kv) == OLD  # readers wait for nobody
        code, said = wake(stopped)
    assert code == 1 and said.startswith("OvertakenError") and f"CURRENT is {THIRD}" in said
    assert held(kv) == OLD
    publish(root, THIRD, target(kv), unless_overtaken=True)
    assert held(kv) == NEWEST


def test_a_writer_that_is_killed_in_its_transaction_keeps_nobody_waiting(root, tmp_path, monkeypatch):
    kv = f"lmdb://{tmp_path}/kv"
    publish(root, FIRST, target(kv))
    monkeypatch.setattr(lmdb_store, "WAIT_S", 5.0)
    with stopped_publisher(root, kv, SECOND, "chunks"):
        pass
    assert publish_and_hold(root, SECOND, kv) == NEW


def test_a_redis_that_lost_its_memory_gives_no_number_twice(root, tmp_path, servers):
    kv = url_of("redis", servers, str(tmp_path))
    with open_store(kv) as stopped, open_store(kv) as newer, stopped.hold_writes("x"):
        url_of("redis", servers, str(tmp_path))
        with pytest.raises(StoreError, match="restarted meanwhile"):
            stopped.set_contents({"g": None})
        with newer.hold_writes("y"), pytest.raises(OvertakenError):
            stopped.set_contents({"g": None})


def test_a_model_that_is_gone_again_is_written_as_a_whole(root, kv):
    """Whatever the store says that it holds: `--rewrite` mends a damaged value."""
    publish(root, SECOND, target(kv))
    with open_store(kv) as store:
        store.delete_users(store.current().generation, [7])
    assert publish(root, SECOND, target(kv))["users_sent"] == 0 and problems(root, kv, SECOND)
    assert run_release(root, kv, SECOND, "--rewrite") == 0
    assert held(kv) == NEW and problems(root, kv, SECOND) == []
    assert MODEL[:12] in str(open_store(kv).current().generation)
