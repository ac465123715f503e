"""Models on disk: named by their digest, refused when damaged, loaded without a compiler."""

import json
import os
import subprocess
import sys

import pytest

from pinnerformer_model.checkpoint import load_model, model_digest, new_model, save_model
from pinnerformer_model.config import ModelError
from tests.pinnerformer_model.samples import tiny
from tests.worlds import write_model

LOAD = """
import sys
from pinnerformer_model.checkpoint import load_model
load_model(sys.argv[1])
print([name for name in ("torch._dynamo", "sympy", "triton") if name in sys.modules])
"""


def test_a_loaded_model_brings_no_compiler(tmp_path):
    """Torch loads it to draw or divide numbers on `meta`, where shapes are checked: a second in every process."""
    folder = write_model(str(tmp_path / "model"))
    done = subprocess.run([sys.executable, "-c", LOAD, folder], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_the_digest_names_both_files(model, tmp_path):
    folder = str(tmp_path / "m")
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
