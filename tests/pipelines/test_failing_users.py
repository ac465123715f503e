"""Users whose inference fails: everybody else's night is untouched, theirs is tried again."""

import io
import json

import numpy as np
import pytest

from pinnerformer_model.inference import UserEncoder
from pipelines.cli import main
from pipelines.operations.summary import print_summary
from pipelines.planning import job_request
from stores.files import Root
from stores.releases import current_release, read_current
from tests.pinnerformer_model.samples import windows_with
from tests.pipelines.nights import (
    World,
    cosines,
    histories_of,
    make_world,
    read_table,
    run_night,
    vectors_of,
)
from tests.worlds import day, write_file, write_model
from transforms.gates import Thresholds

PIN = 11


def allow_half(monkeypatch) -> None:
    monkeypatch.setattr(
        job_request, "read_thresholds", lambda path: Thresholds(max_failed_share=0.5, max_lost_share=0.5)
    )


def poison(monkeypatch, world: World, how: str) -> None:
    """Makes the tower fail on whoever's sequence holds a pin."""
    healthy = UserEncoder.encode_batch
    mark = world.vectors[PIN].astype(np.float32)

    def encode_batch(self, batch):
        ill = windows_with(batch, (batch.pin_vectors.numpy() == mark).all(axis=1))
        if how == "raises" and ill.any():
            raise ValueError("unheard of")
        out = healthy(self, batch)
        out[ill] = np.nan
        return out

    monkeypatch.setattr(UserEncoder, "encode_batch", encode_batch)


@pytest.mark.parametrize("how", ["raises", "gives NaN"])
def test_those_that_fail_keep_yesterdays_vector_and_are_tried_again(kept_nights, one_night, tmp_path, monkeypatch, how):
    allow_half(monkeypatch)
    world, poisoned_root = one_night
    _, healthy_root = kept_nights.copy(2, str(tmp_path / "healthy"))
    roots = {"healthy": healthy_root, "poisoned": poisoned_root}
    yesterday = vectors_of(poisoned_root, read_current(Root(poisoned_root)))
    healthy = read_current(Root(healthy_root))
    with monkeypatch.context() as patched:
        poison(patched, world, how)
        poisoned = run_night(world, roots["poisoned"], 1, "--publish=none")
    wanted = vectors_of(roots["healthy"], healthy)
    found = read_table(roots["poisoned"], poisoned, "user_embeddings").to_pylist()
    failed = poisoned.retry_users
    assert 1 < len(failed) < len(wanted) / 2 and healthy.retry_users == []
    assert failed == sorted(failed) and poisoned.counters["embed_users"]["users_failed"] == len(failed)
    for row in found:
        user = row["user_id"]
        assert row["stale"] == (user in failed)
        assert row["embedding"] == (yesterday if user in failed else wanted)[user]
    assert {row["user_id"] for row in found} == wanted.keys() - (set(failed) - yesterday.keys())
    name = poisoned.settings["run"]
    with open(f"{roots['poisoned']}/staging/{name}/failed_users") as file:
        assert [int(line) for line in file] == failed
    summary = io.StringIO()
    outcome = {"release": str(day(1)), "publish": None}
    print_summary(Root(roots["poisoned"]), outcome, seconds=0, file=summary)
    command = f"pinnerformer repair --root {roots['poisoned']} --users {roots['poisoned']}/staging/{name}/failed_users"
    assert command in summary.getvalue()
    with open(f"{roots['poisoned']}/staging/{name}/staged.json") as file:
        reasons = json.load(file)["reports"]["embed_users"]["failures"]
    expected = "ValueError: unheard of" if how == "raises" else "the embedding has NaN or infinity in it"
    assert {why for _, why in reasons} == {expected}

    # The next night: no new row is needed for them to be embedded.
    for name in ("a.parquet", "b.parquet"):
        write_file(f"{world.folder}/logs", 2, [], name)
    mended = run_night(world, roots["poisoned"], 2, "--publish=none")
    assert mended.counters["update_histories"]["users_active"] == len(failed) and mended.retry_users == []
    assert not any(read_table(roots["poisoned"], mended, "user_embeddings")["stale"].to_pylist())
    users = vectors_of(roots["poisoned"], mended)
    assert users.keys() == wanted.keys()
    assert {user: vector for user, vector in users.items() if user not in failed} == {
        user: vector for user, vector in wanted.items() if user not in failed
    }
    now, then = (
        np.stack([np.frombuffer(table[user], np.float16) for user in failed]).astype(float) for table in (users, wanted)
    )
    assert cosines(now, then).min() >= 0.9999  # among other batch mates: the last bit may differ


def test_too_many_of_them_are_refused_and_the_way_back_is_printed(one_night, monkeypatch, capsys):
    world, root = one_night
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(1)}", "--publish=none", "--quiet"]
    with monkeypatch.context() as patched:
        poison(patched, world, "raises")
        assert main(arguments) == 3
    error = capsys.readouterr().err
    assert "was refused by 1 gate: users_failed_share" in error.splitlines()[0] and "<= 0.01" in error
    assert "start the same command again" in error
    assert current_release(Root(root)) == str(day(0))
    embedded: list[int] = []
    healthy = UserEncoder.encode_batch
    monkeypatch.setattr(UserEncoder, "encode_batch", lambda *a: embedded.append(len(a[1].lengths)) or healthy(*a))
    assert main(arguments) == 0
    assert read_current(Root(root)).retry_users == [] and sum(embedded) > 0


def test_a_model_that_embeds_nobody_fails_the_job(tmp_path, monkeypatch, capsys):
    def broken(self, batch):
        raise AttributeError("no such layer")

    world = make_world(str(tmp_path))
    root = str(tmp_path / "root")
    monkeypatch.setattr(UserEncoder, "encode_batch", broken)
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(0)}", f"--bootstrap-from={day(0)}"]
    assert main([*arguments, "--publish=none", "--user-buckets=1", "--quiet"]) == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert "--model: none of the" in error and "could be embedded (AttributeError: no such layer)" in error


def test_a_new_model_leaves_those_that_fail_without_a_row(one_night, tmp_path, monkeypatch):
    """A vector of the old model may not stand in for one of the new."""
    allow_half(monkeypatch)
    world, root = one_night
    write_model(f"{tmp_path}/other", seed=2)
    arguments = ["daily", f"--root={root}", *world.inputs[:2], f"--model={tmp_path}/other", f"--date={day(1)}"]
    with monkeypatch.context() as patched:
        poison(patched, world, "raises")
        assert main([*arguments, "--publish=none", "--quiet"]) == 0
    manifest = read_current(Root(root))
    users = vectors_of(root, manifest)
    assert manifest.retry_users and not set(manifest.retry_users) & users.keys()
    assert set(manifest.retry_users) <= histories_of(root, manifest).keys()
