"""The towers against the formula written out, and what a model must not depend on."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import load_model, model_digest, new_model, save_model
from pinnerformer_model.config import PRESETS, ModelError, preset
from pinnerformer_model.inference import UserEncoder, encode_pins
from pinnerformer_model.sequences import Sequences, form_batches, pad_batch
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS, TimeEncoder
from tests.pinnerformer_model.reference import ReferenceModel

ACTIONS, SURFACES = ("click", "repin"), ("board", "home", "search")
NOW = 1_795_000_000_000


def tiny():
    return preset("tiny", action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("model") / "m")
    save_model(folder, tiny(), *new_model(tiny(), seed=3))
    return folder


def make_sequences(lengths: list[int], seed: int = 0) -> Sequences:
    random = np.random.default_rng(seed)
    total = sum(lengths)
    times = [np.sort(NOW - random.integers(0, 90 * 86_400_000, n))[::-1] for n in lengths]
    duration = random.exponential(20, total).astype(np.float32)
    duration[random.random(total) < 0.4] = np.nan
    return Sequences(
        user_ids=np.arange(len(lengths), dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pin_vectors=random.standard_normal((total, 256)).astype(np.float16) / 16,
        action=random.integers(0, 2, total).astype(np.int32),
        surface=random.integers(0, 3, total).astype(np.int32),
        timestamp_ms=np.concatenate(times),
        duration_s=duration,
    )


def events_of(s: Sequences, user: int) -> list[dict]:
    return [
        {
            "vector": s.pin_vectors[t],
            "action": ACTIONS[s.action[t]],
            "surface": SURFACES[s.surface[t]],
            "timestamp_ms": int(s.timestamp_ms[t]),
            "duration_s": None if np.isnan(s.duration_s[t]) else float(s.duration_s[t]),
        }
        for t in range(s.offsets[user], s.offsets[user + 1])
    ]


def cosine(a, b):
    return float(a.astype(np.float64) @ b / np.linalg.norm(a.astype(np.float64)) / np.linalg.norm(b))


@pytest.mark.parametrize("budget", [1, 50, 1024])
def test_user_tower_is_the_formula_whatever_the_batches(model, budget):
    sequences = make_sequences([1, 2, 5, 31, 32, 7, 7, 1])
    encoded = UserEncoder(load_model(model).user_tower, budget).encode(sequences)
    reference = ReferenceModel(model, ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS)
    expected = [reference.user(events_of(sequences, user)) for user in range(8)]
    for got, want in zip(encoded, expected, strict=True):
        assert cosine(got, want) >= 0.99999
    assert cosine(encoded[0], expected[3]) < 0.999  # the case is not trivial: users differ


def test_pin_tower_is_the_formula(model):
    vectors = np.random.default_rng(1).standard_normal((7, 256)).astype(np.float16)
    encoded = encode_pins(load_model(model).pin_tower, vectors, batch_size=3)
    reference = ReferenceModel(model, ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS)
    assert all(cosine(e, reference.pin(v)) >= 0.99999 for e, v in zip(encoded, vectors, strict=True))


def test_every_embedding_is_a_unit_vector(model):
    encoded = UserEncoder(load_model(model).user_tower).encode(make_sequences([3, 9]))
    np.testing.assert_allclose(np.linalg.norm(encoded.astype(np.float32), axis=1), 1, atol=2e-3)


def test_what_stands_in_the_padding_changes_nothing(model):
    tower = load_model(model).user_tower
    batch = pad_batch(make_sequences([4, 20]), np.array([0, 1]))
    other = dataclasses.replace(batch, pin_vectors=batch.pin_vectors.clone(), action=batch.action.clone())
    other.pin_vectors[0, 4:] = 1e3
    other.action[0, 4:] = 1 - other.action[0, 4:]
    with torch.inference_mode():
        torch.testing.assert_close(tower.newest(batch), tower.newest(other), rtol=0, atol=0)
        torch.testing.assert_close(tower(batch)[0, :4], tower(other)[0, :4], rtol=0, atol=0)


def test_a_position_sees_itself_and_what_is_older_only(model):
    tower = load_model(model).user_tower
    batch = pad_batch(make_sequences([10]), np.array([0]))
    changed = dataclasses.replace(batch, pin_vectors=batch.pin_vectors.clone())
    changed.pin_vectors[0, 3] += 1
    with torch.inference_mode():
        difference = (tower(batch) - tower(changed)).abs().amax(-1)[0]
    assert (difference[:4] > 1e-4).all() and (difference[4:] == 0).all()


def test_newest_is_the_first_position_of_all(model):
    tower = load_model(model).user_tower
    batch = pad_batch(make_sequences([10, 3, 32]), np.array([0, 1, 2]))
    with torch.inference_mode():
        torch.testing.assert_close(tower.newest(batch), tower(batch)[:, 0], rtol=1e-5, atol=1e-6)


def test_a_millisecond_is_seen_in_an_hour_period():
    """2026 in ms needs 41 bits, float32 has 24: angles must be reduced in float64 before the cast."""
    encoder = TimeEncoder((1000.0,))
    times = torch.tensor([NOW, NOW + 250])
    with torch.inference_mode():
        out = encoder(times)
    assert abs(float(out[1, 1] - out[0, 1])) > 0.9  # a quarter of a turn apart: sin 0 and sin 90 degrees
    assert encoder.half().frequency.dtype == torch.float64


def test_an_unmeasured_duration_is_not_zero(model):
    s = make_sequences([3])
    encoder = UserEncoder(load_model(model).user_tower)
    measured = dataclasses.replace(s, duration_s=np.zeros(3, np.float32))
    unmeasured = dataclasses.replace(s, duration_s=np.full(3, np.nan, np.float32))
    assert (encoder.encode(measured) != encoder.encode(unmeasured)).any()


def test_batches_hold_every_user_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 257, 500)
    batches = form_batches(lengths, 1024)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(b) * lengths[b].max() <= 1024 for b in batches)
    assert [b.tolist() for b in form_batches(np.array([5, 3, 3, 9]), 6)] == [[1, 2], [0], [3]]


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


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_make_models(name):
    config = preset(name, action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v1")
    if name != "paper":  # 43 M parameters
        new_model(config, 0)
    assert config.hidden_size % config.num_heads == 0


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
