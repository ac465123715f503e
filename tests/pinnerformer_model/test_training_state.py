"""A training's state on disk: whole or not at all, and of the same settings."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from pinnerformer_model.config import ModelError
from pinnerformer_model.training_state import TrainingState, changed_settings, load_state, save_state
from tests.pinnerformer_model.test_training import make


def test_killed_while_it_writes_the_old_state_stays(timelines, tmp_path, monkeypatch):
    trainer, _ = make(timelines)
    folder = str(tmp_path)
    save_state(folder, TrainingState(trainer.tensors(), 3, {"a": 1}, {"step": 2, "recall": 0.5}))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save_state(folder, TrainingState(trainer.tensors(), 4, {"a": 1}, None))
    state = load_state(folder)
    assert state.step == 3 and state.best == {"step": 2, "recall": 0.5}
    assert os.listdir(folder) == ["state.safetensors"]
    with open(f"{folder}/state.safetensors", "r+b") as file:
        file.truncate(os.path.getsize(f"{folder}/state.safetensors") // 2)
    with pytest.raises(ModelError, match="no readable training state"):
        load_state(folder)
    assert load_state(str(tmp_path / "none")) is None


def test_changed_settings_are_named():
    before, now = {"a": {"b": 1, "c": [2]}, "d": 3}, {"a": {"b": 5, "c": [2]}, "e": 3}
    assert changed_settings(before, now) == ["a.b: 1 before, 5 now", "d: 3 before, None now", "e: None before, 3 now"]


@pytest.mark.parametrize(
    "header",
    [
        {"state": json.dumps({"step": 3, "settings": {}, "best": None})},  # as it was before there were versions
        {"state": json.dumps({"version": 1, "step": 3})},
        {"state": json.dumps({"version": 2, "step": 3})},  # a key is missing
        {"state": "[]"},
        {"state": "{"},
        {},
        None,
    ],
)
def test_a_state_of_another_version_or_none_at_all_is_refused_by_name(tmp_path, header):
    save_file({"weight": torch.zeros(2)}, f"{tmp_path}/state.safetensors", header)
    with pytest.raises(ModelError, match=r"state\.safetensors: (a training state of another version|no readable)"):
        load_state(str(tmp_path))
