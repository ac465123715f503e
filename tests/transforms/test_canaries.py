"""Canaries: frozen at the first release under a model, and the same every night."""

import dataclasses

import numpy as np
import pytest

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder
from pipelines.cli import main
from stores.files import Root
from stores.ids import splitmix64
from stores.manifests import read_manifest
from stores.releases import read_current
from stores.tables import read_files
from tests.pipelines.nights import run_night
from tests.worlds import day, make_vectors, write_model, write_vectors
from transforms.canaries import canary_cosines, draw_canaries, frozen_look_up
from transforms.gates import StagedRelease, Thresholds, check_gates
from transforms.gates.canaries import canaries_cosine, pin_vectors_cosine
from transforms.step_reports import StepReport

CANARY_GATES = (canaries_cosine, pin_vectors_cosine)


@pytest.fixture(scope="module")
def nights(kept_nights, tmp_path_factory):
    """Two nights; the second under the same model."""
    world, root = kept_nights.copy(2, str(tmp_path_factory.mktemp("canaries")))
    return world, [read_manifest(Root(root), str(day(number))) for number in range(2)]


def gates_of(manifest, *names):
    return [gate for gate in manifest.gates if gate["name"] in names]


def test_they_are_drawn_once_and_stay(nights):
    world, (first, second) = nights
    assert first.tables["canaries"] == second.tables["canaries"] != []
    frozen = read_files(Root(f"{world.folder}/root"), first.tables["canaries"])
    users = np.unique(frozen["user_id"].to_numpy())
    assert len(users) == min(64, first.rows("user_embeddings"))
    history = {row["user_id"] for row in world.rows[0]}
    assert set(users.tolist()) <= history and frozen["vector"].null_count > 0
    for manifest in (first, second):
        gates = gates_of(manifest, "canaries_cosine", "pin_vectors_cosine")
        assert [gate["passed"] for gate in gates] == [True, True]
        assert all(gate["measured"] > 0.9999 for gate in gates)


def test_the_lowest_hashes_are_drawn(nights):
    world, (first, _) = nights
    root = Root(f"{world.folder}/root")
    drawn = draw_canaries(
        root,
        first.tables["histories"],
        first.tables["user_embeddings"],
        np.datetime64(day(0)),
        lambda pins: (np.zeros(len(pins), bool), np.empty((0, 256), np.float16)),
        count=5,
    )
    bucket = read_files(root, first.parts("user_embeddings")[0])["user_id"].to_numpy()
    assert np.unique(drawn["user_id"].to_numpy()).tolist() == sorted(
        bucket[np.argsort(splitmix64(bucket))[:5]].tolist()
    )
    arguments = (root, first.tables["histories"], first.tables["user_embeddings"], np.datetime64(day(3)))
    assert draw_canaries(*arguments, lambda pins: (np.zeros(len(pins), bool), np.empty((0, 256), np.float16))) is None


def test_a_weight_that_changed_shows(nights):
    world, (first, _) = nights
    frozen = read_files(Root(f"{world.folder}/root"), first.tables["canaries"])
    model = load_model(f"{world.folder}/model")
    sound = canary_cosines(frozen, frozen_look_up(frozen, 256), model.config, UserEncoder(model.user_tower))
    assert sound.min() > 0.9999
    model.user_tower.head_out.weight[0] *= 1.5
    damaged = canary_cosines(frozen, frozen_look_up(frozen, 256), model.config, UserEncoder(model.user_tower))
    report = StepReport(counters={"canaries": len(damaged)}, lowest={"cosine": damaged.min()})
    manifest = dataclasses.replace(first, counters={"check_canaries": report.counters})
    staged = StagedRelease(Root(f"{world.folder}/root"), manifest, {"check_canaries": report}, [], Thresholds())
    closed = [gate.name for gate in check_gates(CANARY_GATES, staged) if not gate.passed]
    assert closed == ["canaries_cosine"]


def test_vectors_of_another_space_under_the_same_name_are_refused(one_night, tmp_path, capsys):
    """The export says `v1`, and its vectors are of another PinSage: nothing else would notice."""
    world, root = one_night
    moved = {pin: vector + np.random.default_rng(pin).normal(0, 0.01, 256) for pin, vector in make_vectors(90).items()}
    write_vectors(f"{tmp_path}/pins", {**moved, 3: np.zeros(256)})
    run_night(world, root, 1, "--publish=none")  # a new export of the same space
    write_vectors(f"{tmp_path}/pins", make_vectors(90, seed=77))
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(2)}", "--publish=none", "--quiet"]
    assert main(arguments) == 3
    assert "pin_vectors_cosine" in capsys.readouterr().err.splitlines()[0]
    assert read_current(Root(root)).release == str(day(1))


def test_a_new_model_gets_canaries_of_its_own(one_night, tmp_path):
    world, root = one_night
    first = read_current(Root(root))
    write_model(f"{tmp_path}/other", seed=2)
    second = run_night(dataclasses.replace(world), root, 1, "--publish=none", f"--model={tmp_path}/other")
    assert first.tables["canaries"] != second.tables["canaries"]
    assert all(gate["passed"] for gate in gates_of(second, "canaries_cosine"))
