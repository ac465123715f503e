"""Models on disk: named by their digest; refused, with the way out, where they are damaged or no model.

And what loading a model costs besides the model.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pinnerformer_model.checkpoint import check_model, load_model, model_digest, new_model, save_model
from pinnerformer_model.config import ModelError
from pinnerformer_model.plain import PlainModel
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS
from tests.pinnerformer_model.samples import tiny
from tests.worlds import write_model

LOAD = """
import sys
from pinnerformer_model.checkpoint import load_model
load_model(sys.argv[1])
print([name for name in ("torch._dynamo", "sympy", "triton") if name in sys.modules])
"""


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


def test_a_loaded_model_brings_no_compiler(tmp_path):
    """Torch loads it to draw or divide numbers on `meta`, where shapes are checked: a second in every process."""
    folder = write_model(str(tmp_path / "model"))
    done = subprocess.run([sys.executable, "-c", LOAD, folder], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_the_digest_names_both_files(tmp_path):
    model, folder = str(tmp_path / "first"), str(tmp_path / "m")
    save_model(model, tiny(), *new_model(tiny(), seed=3))
    save_model(folder, tiny(), *new_model(tiny(), seed=3))
    assert model_digest(folder) == model_digest(model)  # the same seed, the same bytes
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump({**config, "pinsage_version": "v2"}, file)
    assert model_digest(folder) != model_digest(model)
    other = str(tmp_path / "n")
    save_model(other, tiny(), *new_model(tiny(), seed=4))
    assert model_digest(other) != model_digest(model)


def test_a_damaged_model_is_refused_by_name(model, tmp_path):
    folder = tmp_path / "m"
    save_model(str(folder), tiny(), *new_model(tiny(), seed=3))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="model.safetensors"):
        load_model(str(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="config.json"):
        load_model(str(folder))
    with pytest.raises(ModelError, match="nowhere"):
        load_model(str(tmp_path / "nowhere"))
