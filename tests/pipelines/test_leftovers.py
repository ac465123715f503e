"""What killed commands leave: gc finishes it, erase and verify look into it; what verify holds beside the release."""

import dataclasses
import json
import os

import numpy as np
import pytest
import redis

from pipelines.cli import main
from pipelines.operations import erase
from stores import lease, retention
from stores.errors import StoreError
from stores.files import Root
from stores.kv import open_store
from stores.lease import hold_lease
from stores.manifests import read_manifest
from stores.releases import move_current
from tests.redis_server import running_redis
from tests.transforms.interrupted import NEW, NEWEST, OLD, commit, held, target
from transforms.gates import Thresholds
from transforms.publish import publish
from transforms.release import check_commit_publish, read_staged
from transforms.release import commit as commit_run

FIRST, SECOND, THIRD = "2026-11-01", "2026-11-02", "2026-11-03"


@pytest.fixture
def root(tmp_path) -> Root:
    root = Root(f"{tmp_path}/root")
    commit(root, FIRST, OLD)
    commit(root, SECOND, NEW, previous=FIRST)
    commit(root, THIRD, NEWEST, previous=SECOND)
    return root


def files_of(root: Root, table: str) -> set[str]:
    return {os.path.join(where, name) for where, _, names in os.walk(f"{root.url}/{table}") for name in names}


def test_gc_that_was_killed_before_it_deleted_is_finished_by_the_next(root, monkeypatch):
    collecting = ["gc", f"--root={root.url}", "--keep=1", "--keep-snapshots=1"]
    before = files_of(root, "user_embeddings")
    root.remove("staging")
    with monkeypatch.context() as patched:
        remove = Root.remove
        patched.setattr(Root, "remove", lambda self, path: 1 / 0 if path.endswith(".parquet") else remove(self, path))
        with pytest.raises(ZeroDivisionError):
            main(collecting)
    assert files_of(root, "user_embeddings") == before and root.exists(retention.COLLECTING)
    young = f"user_embeddings/{FIRST}/part-00000-young.parquet"
    root.write_bytes(young, b"being written")
    assert main(collecting) == 0  # within the grace
    named = {root.path(e.path) for e in read_manifest(root, THIRD).tables["user_embeddings"]}
    assert files_of(root, "user_embeddings") == named | {root.path(young)}
    assert not root.exists(retention.COLLECTING)


def test_gc_is_not_stopped_by_what_a_power_cut_damaged(root):
    run = f"staging/daily-{THIRD}-dead"
    for path in ("outcome.json", "done/read_logs/0.json"):
        root.write_bytes(f"{run}/{path}", b"")
    root.write_bytes(retention.COLLECTING, b"\0\0")
    assert main(["gc", f"--root={root.url}", "--keep-staging=1d"]) == 0
    assert root.exists(run)  # it is not known to have committed, and is young
    assert main(["gc", f"--root={root.url}", "--keep-staging=0s"]) == 0
    assert not root.exists(run)


def test_an_unfinished_generation_that_nobody_writes_goes_and_one_that_is_noted_stays(root, tmp_path):
    with running_redis(str(tmp_path)) as port:
        kv = f"redis://127.0.0.1:{port}/0"
        publish(root, SECOND, target(kv))
        with open_store(kv) as store, redis.Redis(port=port) as client:
            model = store.current().model_digest
            entry = json.dumps({"release": None, "model_digest": model, "users": 0, "retired_at": None})
            client.hset("pinnerformer:generations", "left", entry)
            client.set("pinnerformer:left:u:1", b"x")
            note = {"generation": "left", "ends": [{"root": "r", "release": THIRD, "snapshot": "s"}], "since": "now"}
            client.set("pinnerformer:publishing", json.dumps(note))
            assert main(["gc", f"--root={root.url}", f"--kv={kv}"]) == 0
            assert client.get("pinnerformer:left:u:1") == b"x"  # it may be in writing, by a run that holds no lease
            client.delete("pinnerformer:publishing")
            assert main(["gc", f"--root={root.url}", f"--kv={kv}"]) == 0
            assert client.get("pinnerformer:left:u:1") is None and set(store.generations()) == {
                store.current().generation
            }


def test_a_detached_run_that_ends_on_a_held_root_commits_nothing(root):
    """It was built on what the root is held at, so that CURRENT alone would let it through."""
    staged, _ = read_staged(root, f"daily-{THIRD}")
    move_current(root, THIRD, SECOND)
    assert main(["rollback", f"--root={root.url}", "--publish=none", f"--to={SECOND}", "--reason=wait"]) == 0
    with pytest.raises(StoreError, match="wait.*--lift-hold"):
        commit_run(root, f"daily-{THIRD}", staged)
    outcome = check_commit_publish(root, f"daily-{SECOND}", Thresholds(), None)
    assert outcome["outcome"] == "committed" and root.read_bytes("CURRENT").decode().strip() == SECOND


def test_raw_rows_that_a_killed_writer_left(root, tmp_path, capsys):
    (tmp_path / "leavers").write_text("3\n")
    kv = f"lmdb://{tmp_path}/kv"
    publish(root, THIRD, target(kv))
    erasing = ["erase", f"--root={root.url}", f"--users={tmp_path}/leavers", f"--kv={kv}"]
    verify = ["verify", f"--root={root.url}", f"--kv={kv}", f"--erased={tmp_path}/leavers"]
    assert main(erasing) == 0
    rows = read_manifest(root, THIRD).tables["user_embeddings"][0].path
    left = [f"releases/{THIRD}/dead_letters/.tmp-a", f"user_embeddings/{FIRST}/.tmp-b", ".tmp-c", "erasures/.tmp-d"]
    for path in left:
        data = root.read_bytes(rows)
        root.write_bytes(f"{path}x", data[:-9])
        os.rename(root.path(f"{path}x"), root.path(path))
        capsys.readouterr()
        assert main(verify) == 1
        assert root.path(path) in capsys.readouterr().err
    assert main(erasing) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["temporary_files"] >= 3 and not any(os.path.exists(root.path(path)) for path in left)
    assert main(verify) == 0
    with open_store(kv) as store:  # and what the store says of itself is so
        assert store.current().users == len(NEWEST) - 1


def test_an_erasure_that_was_cut_off_brings_nobody_back(root, tmp_path, monkeypatch):
    """After the store, before the files: what is published in between lacks them too."""
    kv = f"lmdb://{tmp_path}/kv"
    publish(root, SECOND, target(kv))
    (tmp_path / "leavers").write_text("3\n")
    command = ["erase", f"--root={root.url}", f"--users={tmp_path}/leavers", f"--kv={kv}"]
    with monkeypatch.context() as patched:
        patched.setattr(erase, "erase_from_files", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(command)
    for name, wanted in ((THIRD, NEWEST), (FIRST, OLD)):
        publish(root, name, target(kv))
        assert held(kv) == {user: value for user, value in wanted.items() if user != 3}
    assert main(command) == 0
    assert publish(root, THIRD, target(kv))["users_sent"] < len(NEWEST)
    assert held(kv) == {user: value for user, value in NEWEST.items() if user != 3}


def test_a_list_of_the_erased_that_is_gone_or_shorter(root, tmp_path, capsys):
    verify = ["verify", f"--root={root.url}", "--this-only"]
    for user in (3, 4):
        (tmp_path / "leavers").write_text(f"{user}\n")
        assert main(["erase", f"--root={root.url}", f"--users={tmp_path}/leavers"]) == 0
    assert main(verify) == 0
    whole = root.read_bytes("erased")
    for broken in (b"3\n", None):
        if broken is None:
            root.remove("erased")
        else:
            root.write_bytes("erased", broken)
        capsys.readouterr()
        assert main(verify) == 1 and root.path("erased") in capsys.readouterr().err
    root.write_bytes("erased", whole)
    assert main(verify) == 0


def test_a_damaged_table_of_a_release_that_a_rollback_may_go_to(root, capsys):
    own = {e.path for e in read_manifest(root, THIRD).tables["user_embeddings"]}
    path = next(e.path for e in read_manifest(root, FIRST).tables["user_embeddings"] if e.path not in own)
    data = root.read_bytes(path)
    root.write_bytes(path, data[:50] + bytes([data[50] ^ 1]) + data[51:])
    capsys.readouterr()
    assert main(["verify", f"--root={root.url}"]) == 1
    assert root.path(path) in capsys.readouterr().err
    assert main(["verify", f"--root={root.url}", "--this-only"]) == 0


def test_other_users_each_time_and_the_same_by_seed(root, tmp_path, capsys):
    kv = f"lmdb://{tmp_path}/kv"
    publish(root, THIRD, target(kv))
    with open_store(kv) as store:
        current = store.current()
        ids = [3, 4]
        swapped = store.get_many(current.generation, ids)[::-1]
        store.upload(current.generation, [(np.array(ids), swapped)], deletes=[], fresh=False, current=current)
    verify = ["verify", f"--root={root.url}", f"--kv={kv}", "--users=1"]
    codes, seeds = {}, set()
    for _ in range(60):
        capsys.readouterr()
        code = main(verify)
        seed = capsys.readouterr().out.partition("--seed ")[2].split()[0]
        codes.setdefault(code, seed)
        seeds.add(seed)
    assert set(codes) == {0, 1} and len(seeds) > 50
    for code, seed in codes.items():
        assert main([*verify, f"--seed={seed}"]) == code


@pytest.mark.parametrize("what", ["model_digest", "users", "day"])
def test_a_flipped_bit_in_what_the_store_says(root, tmp_path, what, capsys):
    kv = f"lmdb://{tmp_path}/kv"
    publish(root, THIRD, target(kv))
    with open_store(kv) as store:
        current, batches = store.current(), []
        if what == "model_digest":
            changed = dataclasses.replace(current, model_digest="ab" * 31 + "aa")
        elif what == "users":
            changed = dataclasses.replace(current, users=current.users + 2)
        else:
            (value,) = store.get_many(current.generation, np.array([3]))
            changed, batches = current, [(np.array([3]), [value[:4] + bytes([value[4] ^ 4]) + value[5:]])]
        store.upload(current.generation, batches, deletes=[], fresh=False, current=changed)
    assert main(["verify", f"--root={root.url}", f"--kv={kv}"]) == 1
    assert {"model_digest": "it serves model", "users": "users", "day": "not its day"}[what] in capsys.readouterr().err


def test_a_lease_of_a_live_run_in_another_namespace_of_processes(root, monkeypatch):
    """Two containers of one hostname: the process id of the first is not to be found by the second."""
    with hold_lease(root, "the first"):
        found = root.read_json("lease.json")
        root.write_json("lease.json", {**found, "pid": 2**22 - 3, "processes": "boot 4026531836"})
        with pytest.raises(StoreError, match="run the first holds this root"), hold_lease(root, "the second"):
            pass
        root.write_json("lease.json", {**found, "pid": 2**22 - 3})
        with hold_lease(root, "the second"):  # of this namespace, and gone
            pass
    old = {key: value for key, value in found.items() if key != "processes"}
    root.write_json("lease.json", {**old, "pid": 2**22 - 3})
    with hold_lease(root, "a lease of the version before is treated as before"):
        pass
    assert lease.live_run(root) is None
