"""Check, commit, publish: a refused release, a forced one, a store that was down, and what is sent."""

import dataclasses
import os

import numpy as np
import pytest

from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError
from stores.files import Root
from stores.names import Step
from stores.releases import current_release, read_current
from stores.retriever import Retriever
from stores.string_ids import STRING, hash_text
from stores.user_lists import read_listed
from tests.pipelines.nights import first_night, run_night
from tests.redis_server import free_port, running_redis
from tests.stores.snapshots import named_release
from tests.worlds import day, write_model, write_vectors
from transforms.gates import StagedRelease, Thresholds, check_gates
from transforms.gates.recall import index_settings
from transforms.publish import PublishTarget, publish
from transforms.publish_buckets import Compared
from transforms.release import check_commit_publish, read_staged, write_staged
from transforms.step_reports import StepReport
from transforms.verification import INDEX_GATES


def run_of(root: str, date) -> str:
    (run,) = [name for name in os.listdir(f"{root}/staging") if name.startswith(f"daily-{date}")]
    return run


def test_an_index_of_other_pins_does_not_pass(one_night):
    """A gate that measures the index against itself would."""
    _, root = one_night
    manifest = read_current(Root(root))
    sound = StagedRelease(Root(root), manifest, {}, [], Thresholds())
    gates, kept = check_gates(INDEX_GATES, sound), index_settings(sound)
    assert len(gates) == len(INDEX_GATES)
    assert all(gate.passed for gate in gates) and kept["recall_users"] == manifest.rows("user_embeddings")
    one = dataclasses.replace(manifest, tables={**manifest.tables, "indexes": manifest.tables["indexes"][:1]})
    halved = StagedRelease(Root(root), one, {}, [], Thresholds())
    closed = [gate.name for gate in check_gates(INDEX_GATES, halved) if not gate.passed]
    assert "index_recall_at_10" in closed


def test_a_refused_night_keeps_what_was_served(one_night, tmp_path, capsys):
    """Half of the pins are gone from the vectors: somebody's export was cut off."""
    (world, root), kv = one_night, f"lmdb://{tmp_path}/kv"
    run_night(world, root, 1, f"--kv={kv}")
    vectors = {pin: np.full(256, 1 / 16) for pin in range(30)}
    write_vectors(f"{world.folder}/pins", vectors)
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(2)}", f"--kv={kv}", "--quiet"]
    assert main(arguments) == 3
    screen = capsys.readouterr().err.splitlines()
    assert "was refused by" in screen[0] and "pins_lost_share" in screen[0]
    (row,) = [line for line in screen if line.split()[:1] == ["pins_lost_share"]]
    assert "<= 0.05" in row and "is the export whole?" in row  # measured, allowed, what it is, where to look
    assert (
        "checked.json" in screen[-4]
        and "report.html" in screen[-3]
        and "pinnerformer release --root" in screen[-1]
        and len(screen) < 40
    )
    assert current_release(Root(root)) == str(day(1)) and not os.path.exists(f"{root}/releases/{day(2)}")
    with EmbeddingClient(kv) as client:
        assert client.current.release == str(day(1))


def test_a_refused_night_is_forced_by_name_and_with_a_reason(one_night, tmp_path, capsys):
    (world, root), kv = one_night, f"lmdb://{tmp_path}/kv"
    (tmp_path / "gates.yaml").write_text("min_coverage_pins: 10000\nmin_recall_at_10: 1.1\n")
    gates = f"--gates={tmp_path}/gates.yaml"
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(1)}", f"--kv={kv}", "--quiet", gates]
    assert main(arguments) == 3
    run = run_of(root, day(1))
    staged = {path: os.stat(path).st_mtime_ns for path in files_under(root) if "/staging/" not in path}
    release = ["release", f"--root={root}", f"--run={run}", f"--kv={kv}"]
    capsys.readouterr()
    assert main([*release, "--force-gate=coverage_pins"]) == 2  # no reason
    assert main([*release, "--force-gate=users_norm", "--reason=x"]) == 2  # is not closed
    assert "closed are: index_recall_at_10, coverage_pins" in capsys.readouterr().err
    assert main([*release, "--force-gate=coverage_pins", "--reason=small shop"]) == 3  # the other one is still closed
    assert "refused by 1 gate: index_recall_at_10" in capsys.readouterr().err.splitlines()[0]
    assert current_release(Root(root)) == str(day(0))
    forced = ["--force-gate=coverage_pins", "--force-gate=index_recall_at_10", "--reason=small shop"]
    assert main([*release, *forced]) == 0
    manifest = read_current(Root(root))
    assert manifest.release == str(day(1))
    assert {g["name"]: g["forced"] for g in manifest.gates if not g["passed"]} == {
        "coverage_pins": "small shop",
        "index_recall_at_10": "small shop",
    }
    after = {path: os.stat(path).st_mtime_ns for path in files_under(root) if "/staging/" not in path}
    new = {os.path.basename(path) for path in after if after[path] != staged.get(path)}
    assert new <= {"manifest.json", "CURRENT", "lease.json", "report.html"} | {
        n for n in new if n.startswith(str(day(1)))
    }, new
    with EmbeddingClient(kv) as client:
        assert client.current.release == str(day(1))


def test_thresholds_are_no_part_of_the_run_and_release_takes_others(one_night, tmp_path):
    world, root = one_night
    (tmp_path / "strict.yaml").write_text("min_recall_at_10: 1.1\n")
    (tmp_path / "lax.yaml").write_text("min_recall_at_10: 0.5\n")
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(1)}", "--publish=none", "--quiet"]
    assert main([*arguments, f"--gates={tmp_path}/strict.yaml"]) == 3
    run = run_of(root, day(1))
    assert main(["release", f"--root={root}", f"--run={run}", "--publish=none", f"--gates={tmp_path}/lax.yaml"]) == 0
    assert read_current(Root(root)).release == str(day(1))


def files_under(folder: str) -> list[str]:
    return [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]


def test_a_store_that_fails_after_the_commit_is_published_later(one_night, tmp_path, capsys):
    _, root = one_night
    run = run_of(root, day(0))
    outcome = check_commit_publish(
        Root(root), run, Thresholds(), PublishTarget(f"redis://127.0.0.1:{free_port()}/0", "pinnerformer")
    )
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


def test_only_what_changed_is_sent(one_night, tmp_path):
    world, root, kv = one_night[0], Root(one_night[1]), f"lmdb://{tmp_path}/kv"
    first = read_current(root)
    everybody = publish(root, first.release, PublishTarget(kv, "pinnerformer"))
    assert everybody["users_sent"] == everybody["users_stored"] == first.rows("user_embeddings")
    second = run_night(world, root.url, 1, "--publish=none")
    sent = publish(root, second.release, PublishTarget(kv, "pinnerformer"))
    assert sent["users_sent"] == second.counters["embed_users"]["users_embedded"] < second.rows("user_embeddings")
    assert sent["users_deleted"] == 0 and sent["users_stored"] == second.rows("user_embeddings")
    assert publish(root, second.release, PublishTarget(kv, "pinnerformer"))["users_sent"] == 0


def test_users_of_a_bucket_that_is_gone_are_deleted(one_night):
    root = Root(one_night[1])
    manifest = read_current(root)
    entries = manifest.tables["user_embeddings"]
    without = dataclasses.replace(manifest, tables={**manifest.tables, "user_embeddings": entries[1:]})
    compared = Compared.of([manifest], without)
    changed = [compared.changed_rows(root, bucket) for bucket in compared.buckets()]
    gone = np.concatenate([ids for ids, _ in changed])
    assert len(gone) == entries[0].rows
    assert sum(rows.num_rows for _, rows in changed) == 0


def test_a_root_and_a_store_that_do_not_belong_together(one_night, tmp_path):
    (world, root), other, kv = one_night, str(tmp_path / "other"), f"lmdb://{tmp_path}/kv"
    assert main(["release", f"--root={root}", f"--run={run_of(root, day(0))}", f"--kv={kv}"]) == 0
    os.rename(f"{world.folder}/model", f"{world.folder}/old_model")
    write_model(f"{world.folder}/model", seed=2)
    first_night(world, other)
    with Retriever(other, kv) as retriever, pytest.raises(StoreError, match="is of model .* are of model"):
        retriever.retrieve(0, 5)


def test_pins_already_engaged_with_are_left_out(one_night, tmp_path):
    (world, root), kv = one_night, f"lmdb://{tmp_path}/kv"
    assert main(["release", f"--root={root}", f"--run={run_of(root, day(0))}", f"--kv={kv}"]) == 0
    engaged = {row["pin_id"] for row in world.rows[0] if row["user_id"] == 0 and row["pin_id"] >= 0}
    with Retriever(root, kv) as retriever:
        everything = retriever.retrieve(0, 1000).pin_ids
        fresh = retriever.retrieve(0, 1000, exclude_engaged=True).pin_ids
        assert set(everything) - set(fresh) == engaged & set(everything) and len(fresh) < len(everything)
        assert len(retriever.retrieve(0, 10, exclude_engaged=True).pin_ids) == 10
        with pytest.raises(StoreError, match="user 123456: no vector"):
            retriever.retrieve(123456, 5)


def test_users_who_failed_are_listed_as_the_logs_have_them(tmp_path):
    root, names = Root(str(tmp_path)), ["u-1", "two\nlines", "u-3"]
    manifest = named_release(root, names, [])
    manifest = dataclasses.replace(manifest, retry_users=[hash_text(name) for name in names[:2]])
    failures = [(hash_text(name), f"why {name}") for name in names[:2]]
    write_staged(root, "a-run", manifest, {Step.EMBED_USERS: StepReport(failures=failures)})
    listed = read_listed(f"{tmp_path}/staging/a-run/failed_users", STRING)  # as `repair --users` reads it
    assert list(listed.values()) == names[:2]
    assert root.read_json("staging/a-run/staged.json")["failures_by_name"] == {n: f"why {n}" for n in names[:2]}
    again, reports = read_staged(root, "a-run")
    assert again == manifest and reports[Step.EMBED_USERS].failures == failures
