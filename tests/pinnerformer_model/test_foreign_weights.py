"""Weights from elsewhere: what cannot be a model is refused, with the way out, before anything is computed."""

import datetime
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pinnerformer_model.checkpoint import check_model, load_model, model_digest, save_model
from pinnerformer_model.config import ModelError
from pinnerformer_model.plain import PlainModel
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS
from tests.worlds import write_model


@pytest.fixture
def model(tmp_path) -> str:
    return write_model(str(tmp_path / "model"))


@pytest.fixture
def trained(tmp_path) -> str:
    return write_model(str(tmp_path / "trained"), until=datetime.date(2026, 11, 1))


def change(model: str, how) -> str:
    """Writes the weights again, changed; returns their path."""
    path = f"{model}/model.safetensors"
    found = how(load_file(path))
    save_file({name: value.contiguous() for name, value in found.items()}, path)
    return path


def refusal(model: str) -> str:
    """What both, the look before the work and the loading, say."""
    said = []
    for look in (check_model, load_model):
        with pytest.raises(ModelError) as refused:
            look(model)
        said.append(str(refused.value))
    assert said[0] == said[1]
    return said[0]


def test_a_sound_model_is_named_by_its_digest(model):
    config, digest = check_model(model)
    assert digest == model_digest(model) == load_model(model).digest and config == load_model(model).config


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_widths_are_taken(model, kind):
    before = load_model(model).pin_tower.inner.weight
    change(model, lambda found: {name: value.to(kind) for name, value in found.items()})
    torch.testing.assert_close(load_model(model).pin_tower.inner.weight, before, rtol=1e-2, atol=1e-2)
    plain = PlainModel(model, ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS)  # what `verify` makes users again with
    np.testing.assert_array_equal(plain.w["pin_tower.inner.weight"], load_model(model).pin_tower.inner.weight)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn])
def test_quantized_weights_are_refused(model, kind):
    """int8 codes without their scales are numbers from -127 to 127, and every shape fits."""
    path = change(model, lambda found: {n: v.to(kind) if v.ndim > 1 else v for n, v in found.items()})
    assert path in refusal(model) and "before quantization" in refusal(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_weights_that_are_not_finite_are_refused(model, value):
    def spoil(found):
        found = {name: value.to(torch.float64) for name, value in found.items()}
        found["user_tower.head_out.bias"][3] = value
        return found

    path = change(model, spoil)
    assert f"{path}: user_tower.head_out.bias holds NaN" in refusal(model)


@pytest.mark.parametrize(
    "decorate",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("user_tower.", "user_tower.module."),
        lambda name: name.replace("blocks.", "blocks._orig_mod.") if "blocks" in name else name,
        lambda name: f"state_dict.model.{name}",
    ],
)
def test_names_that_a_framework_decorated_are_named(model, decorate):
    path = change(model, lambda found: {decorate(name): value for name, value in found.items()})
    said = refusal(model)
    assert said.startswith(f"{path}: parameter ") and "training framework" in said and "model.module" in said


def test_names_that_are_merely_others(model):
    change(model, lambda found: {name.replace("head_out", "out"): value for name, value in found.items()})
    assert "no parameter user_tower.head_out.bias; it does not belong to config.json" in refusal(model)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        (b"PK\x03\x04archive/data.pkl", "safetensors.torch.save_file"),
        (b"\x80\x02}q\x00.", "safetensors.torch.save_file"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"<!DOCTYPE html><html>", "not readable as safetensors"),
        (b"\xff" * 64, "not readable as safetensors"),
    ],
)
def test_files_that_are_not_what_their_name_says(model, content, words):
    with open(f"{model}/model.safetensors", "wb") as file:
        file.write(content)
    assert f"{model}/model.safetensors" in refusal(model) and words in refusal(model)


def test_truncated_and_missing_weights(model):
    path = f"{model}/model.safetensors"
    os.truncate(path, os.path.getsize(path) - 100)
    assert path in refusal(model) and "not readable as safetensors" in refusal(model)
    os.unlink(path)
    assert path in refusal(model) and "init-model" in refusal(model)
    os.mkdir(path)
    assert path in refusal(model)
    with open(f"{model}/config.json", "w") as file:
        file.write("[" * 99_999)
    assert f"{model}/config.json: not valid JSON" in refusal(model)


@pytest.mark.parametrize("towers", [("user_tower",), ("pin_tower",), ("user_tower", "pin_tower")])
def test_towers_of_another_training_are_refused_by_name(trained, tmp_path, towers):
    """Both begin alike, and the other is one step on: every shape fits, and half of the ranking is still right."""
    step = {"user_tower": "user_tower.head_out.bias", "pin_tower": "pin_tower.outer.bias"}

    def one_step(found):
        for tower in towers:
            found[step[tower]][0] -= 2e-4 * (1 if found[step[tower]][0] >= 0 else -1)
        return found

    path = change(trained, one_step)
    verb = "is" if len(towers) == 1 else "are"
    assert f"{path}: {' and '.join(towers)} {verb} not what config.json was written with" in refusal(trained)
    # The way out, for weights that somebody has changed on purpose.
    with open(f"{trained}/config.json") as file:
        config = json.load(file)
    del config["tower_marks"]
    with open(f"{trained}/config.json", "w") as file:
        json.dump(config, file)
    assert load_model(trained).config.tower_marks == {}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_trained_model_may_be_stored_in_another_width(trained, kind):
    assert set(load_model(trained).config.tower_marks) == {"user_tower", "pin_tower"}
    change(trained, lambda found: {name: (value * 1e-30).to(kind) for name, value in found.items()})  # underflow too
    assert load_model(trained).digest == model_digest(trained)


def test_towers_are_marked_as_they_are_written_and_initial_weights_are_not(model, trained, tmp_path):
    assert "tower_marks" not in json.loads((tmp_path / "model" / "config.json").read_text())  # digests stay
    loaded = load_model(trained)
    assert save_model(str(tmp_path / "again"), loaded.config, loaded.user_tower, loaded.pin_tower) == loaded.digest
    pin_tower = load_model(write_model(str(tmp_path / "other"), seed=2)).pin_tower
    save_model(str(tmp_path / "both"), loaded.config, loaded.user_tower, pin_tower)  # whoever saves both answers for it
    marks = load_model(str(tmp_path / "both")).config.tower_marks
    assert marks["user_tower"] == loaded.config.tower_marks["user_tower"] and marks != loaded.config.tower_marks


@pytest.mark.parametrize("marks", [None, [], "x", {"user_tower": "0" * 16}, {"user_tower": "", "other": ""}])
def test_marks_of_another_form_are_refused(trained, marks):
    with open(f"{trained}/config.json") as file:
        config = json.load(file)
    with open(f"{trained}/config.json", "w") as file:
        json.dump({**config, "tower_marks": marks}, file)
    with pytest.raises(ModelError, match="config.json: tower_marks must be"):
        check_model(trained)
