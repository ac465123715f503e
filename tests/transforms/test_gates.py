"""Gates: each passes where it should and closes where it should; what a release does when one closes."""

import dataclasses
import os

import numpy as np
import pytest

from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.manifests import Manifest
from stores.releases import current_release, read_current
from stores.retriever import Retriever
from tests.pipelines.test_daily import first_night, make_world, run_night
from tests.redis_server import free_port, running_redis
from tests.worlds import day, write_model, write_vectors
from transforms.gates import Thresholds, check_counts, check_recall, check_vectors
from transforms.release import Publication, changed_rows, finish, publish
from transforms.run import StageReport

SOUND = {
    "read_logs": {"rows_read": 100, "rows_dropped": 2},
    "update_histories": {"rows_new": 98, "users_active": 10},
    "join_vectors": {"users_without_token": 1},
    "embed_users": {"users_embedded": 9},
    "merge_snapshot": {"users_carried_over": 11},
    "shard_pins": {"vectors_read": 31, "vectors_zero": 1},
    "build_indexes": {"pins_unfindable": 0},
}


def manifest_of(users: int, pins: int, indexed: int) -> Manifest:
    rows = {"histories": 0, "user_embeddings": users, "pin_embeddings": pins, "indexes": indexed}
    tables = {name: [FileEntry(f"{name}/x", 0, count, 0, "")] for name, count in rows.items()}
    return Manifest("2026-11-02", "2026-11-02", None, "", tables, [], {}, {}, [], {}, [])


def closed(counters: dict, staged: Manifest | None = None, previous: Manifest | None = None) -> list[str]:
    reports = {stage: StageReport(counters=found) for stage, found in counters.items()}
    gates = check_vectors(reports, Thresholds())
    gates += check_counts(reports, staged or manifest_of(20, 30, 30), previous, Thresholds())
    return [gate.name for gate in gates if not gate.passed]


def test_a_sound_run_passes():
    assert closed(SOUND) == []
    assert closed(SOUND, previous=manifest_of(20, 30, 30)) == []


@pytest.mark.parametrize(
    ("stage", "counter", "value", "gate"),
    [
        ("update_histories", "rows_new", 97, "rows_unaccounted"),
        ("update_histories", "rows_new", 99, "rows_unaccounted"),
        ("embed_users", "users_embedded", 8, "users_unaccounted"),
        ("join_vectors", "users_without_token", 0, "users_unaccounted"),
        ("merge_snapshot", "users_carried_over", 12, "snapshot_rows_unaccounted"),
        ("shard_pins", "vectors_read", 32, "pins_unaccounted"),
        ("build_indexes", "pins_unfindable", 1, "pins_unfindable"),
        ("embed_users", "users_not_finite", 1, "users_not_finite"),
        ("embed_pins", "pins_not_finite", 1, "pins_not_finite"),
        ("read_logs", "rows_dropped", 6, "rows_dropped_share"),
    ],
)
def test_one_wrong_number_closes_its_gate(stage, counter, value, gate):
    counters = {name: dict(found) for name, found in SOUND.items()}
    counters.setdefault(stage, {})[counter] = value
    assert gate in closed(counters)


def test_pins_that_are_in_no_index():
    assert closed(SOUND, manifest_of(20, 30, 29)) == ["pins_not_indexed"]


def test_users_and_pins_that_vanished():
    assert closed(SOUND, previous=manifest_of(21, 31, 31)) == []  # under 5 %
    assert closed(SOUND, previous=manifest_of(22, 30, 30)) == ["users_lost_share"]
    assert closed(SOUND, previous=manifest_of(20, 32, 32)) == ["pins_lost_share"]


def test_nobody_at_all():
    nobody = {stage: dict.fromkeys(found, 0) for stage, found in SOUND.items()}
    assert closed(nobody, manifest_of(0, 0, 0)) == ["users_present", "pins_present"]


@pytest.mark.parametrize("norm", [0.99, 1.01])
def test_norms(norm):
    reports = {"embed_users": StageReport(lowest={"norm": norm}, highest={"norm": 1.0})}
    assert [gate.name for gate in check_vectors(reports, Thresholds()) if not gate.passed] == ["users_norm"]


@pytest.fixture
def world(tmp_path):
    return make_world(str(tmp_path))


def run_of(root: str, date) -> str:
    (run,) = [name for name in os.listdir(f"{root}/staging") if name.startswith(f"daily-{date}")]
    return run


def test_an_index_of_other_pins_does_not_pass(world, tmp_path):
    """A gate that measures the index against itself would."""
    root = str(tmp_path / "root")
    manifest = first_night(world, root, "--pin-shards=2")
    gates, kept = check_recall(Root(root), manifest, Thresholds(), 64)
    assert gates[0].passed and kept["recall_users"] == manifest.rows("user_embeddings")
    one = dataclasses.replace(manifest, tables={**manifest.tables, "indexes": manifest.tables["indexes"][:1]})
    assert not check_recall(Root(root), one, Thresholds(), 64)[0][0].passed


def test_a_refused_night_keeps_what_was_served(world, tmp_path, capsys):
    """Half of the pins are gone from the vectors: somebody's export was cut off."""
    root, kv = str(tmp_path / "root"), f"lmdb://{tmp_path}/kv"
    first_night(world, root)
    run_night(world, root, 1, f"--kv={kv}")
    vectors = {pin: np.full(256, 1 / 16) for pin in range(30)}
    write_vectors(f"{world.folder}/pins", vectors)
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(2)}", f"--kv={kv}", "--quiet"]
    assert main(arguments) == 3
    line = capsys.readouterr().err.splitlines()[0]
    assert "refused: pins_lost_share is" in line and "checked.json" in line
    assert current_release(Root(root)) == str(day(1)) and not os.path.exists(f"{root}/releases/{day(2)}")
    with EmbeddingClient(kv) as client:
        assert client.current.release == str(day(1))


def test_a_store_that_fails_after_the_commit_is_published_later(world, tmp_path, capsys):
    root = str(tmp_path / "root")
    first_night(world, root)
    run = run_of(root, day(0))
    outcome = finish(Root(root), run, Thresholds(), Publication(f"redis://127.0.0.1:{free_port()}/0", "pinnerformer"))
    assert outcome["outcome"] == "failed"
    assert "is committed but not published" in outcome["error"] and f"--run {run}" in outcome["error"]
    with running_redis(str(tmp_path)) as port:
        kv = f"redis://127.0.0.1:{port}/0"
        assert main(["release", f"--root={root}", f"--run={run}", f"--kv={kv}"]) == 0
        assert main(["release", f"--root={root}", f"--run={run}", f"--kv={kv}"]) == 0  # harmless
        with EmbeddingClient(kv) as client, Retriever(root, kv) as retriever:
            assert client.current.release == str(day(0))
            users = read_current(Root(root)).rows("user_embeddings")
            assert client.get_many(np.arange(-10, 100))[2].sum() == users
            assert len(retriever.retrieve(0, 5).pin_ids) == 5


def test_only_what_changed_is_sent(world, tmp_path):
    root, kv = Root(str(tmp_path / "root")), f"lmdb://{tmp_path}/kv"
    first = first_night(world, root.url)
    everybody = publish(root, first.release, Publication(kv, "pinnerformer"))
    assert everybody["users_sent"] == everybody["users_stored"] == first.rows("user_embeddings")
    second = run_night(world, root.url, 1, "--publish=none")
    sent = publish(root, second.release, Publication(kv, "pinnerformer"))
    assert sent["users_sent"] == second.counters["embed_users"]["users_embedded"] < second.rows("user_embeddings")
    assert sent["users_deleted"] == 0
    assert publish(root, second.release, Publication(kv, "pinnerformer"))["users_sent"] == 0


def test_users_of_a_bucket_that_is_gone_are_deleted(world, tmp_path):
    root = Root(str(tmp_path / "root"))
    manifest = first_night(world, root.url, "--user-buckets=4")
    entries = manifest.tables["user_embeddings"]
    without = dataclasses.replace(manifest, tables={**manifest.tables, "user_embeddings": entries[1:]})
    gone = np.concatenate([ids for ids, _ in changed_rows(root, manifest, without)])
    assert len(gone) == entries[0].rows
    assert sum(rows.num_rows for _, rows in changed_rows(root, manifest, without)) == 0


def test_a_root_and_a_store_that_do_not_belong_together(world, tmp_path):
    root, other, kv = str(tmp_path / "root"), str(tmp_path / "other"), f"lmdb://{tmp_path}/kv"
    first_night(world, root)
    assert main(["release", f"--root={root}", f"--run={run_of(root, day(0))}", f"--kv={kv}"]) == 0
    os.rename(f"{world.folder}/model", f"{world.folder}/old_model")
    write_model(f"{world.folder}/model", seed=2)
    first_night(world, other)
    with Retriever(other, kv) as retriever, pytest.raises(StoreError, match="is of model .* are of model"):
        retriever.retrieve(0, 5)


def test_pins_already_engaged_with_are_left_out(world, tmp_path):
    root, kv = str(tmp_path / "root"), f"lmdb://{tmp_path}/kv"
    first_night(world, root)
    assert main(["release", f"--root={root}", f"--run={run_of(root, day(0))}", f"--kv={kv}"]) == 0
    engaged = {row["pin_id"] for row in world.rows[0] if row["user_id"] == 0 and row["pin_id"] >= 0}
    with Retriever(root, kv) as retriever:
        everything = retriever.retrieve(0, 1000).pin_ids
        fresh = retriever.retrieve(0, 1000, exclude_engaged=True).pin_ids
        assert set(everything) - set(fresh) == engaged & set(everything) and len(fresh) < len(everything)
        assert len(retriever.retrieve(0, 10, exclude_engaged=True).pin_ids) == 10
        with pytest.raises(StoreError, match="user 123456: no vector"):
            retriever.retrieve(123456, 5)
