"""A training's state on disk: whole or not at all, and of the same settings."""

import os

import pytest

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
