"""Weights from elsewhere: what cannot be a model is refused, with the way out, before anything is computed."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pinnerformer_model.checkpoint import check_model, load_model, model_digest
from pinnerformer_model.config import ModelError
from pinnerformer_model.plain import PlainModel
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS
from tests.worlds import write_model


@pytest.fixture
def model(tmp_path) -> str:
    return write_model(str(tmp_path / "model"))


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
