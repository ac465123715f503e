"""The user tower against the formula written out, and what it must not depend on."""

import dataclasses

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.sequences import Sequences, pad_batch
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS
from tests.pinnerformer_model.reference import ReferenceModel
from tests.pinnerformer_model.samples import ACTIONS, SURFACES, cosine, make_sequences


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


@pytest.mark.parametrize("budget", [1, 50, 1024])
def test_user_tower_is_the_formula_whatever_the_batches(model, budget):
    sequences = make_sequences([1, 2, 5, 31, 32, 7, 7, 1])
    encoded = UserEncoder(load_model(model).user_tower, budget).encode(sequences)
    reference = ReferenceModel(model, ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS)
    expected = [reference.user(events_of(sequences, user)) for user in range(8)]
    for got, want in zip(encoded, expected, strict=True):
        assert cosine(got, want) >= 0.99999
    assert cosine(encoded[0], expected[3]) < 0.999  # the case is not trivial: users differ


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


def test_an_unmeasured_duration_is_not_zero(model):
    s = make_sequences([3])
    encoder = UserEncoder(load_model(model).user_tower)
    measured = dataclasses.replace(s, duration_s=np.zeros(3, np.float32))
    unmeasured = dataclasses.replace(s, duration_s=np.full(3, np.nan, np.float32))
    assert (encoder.encode(measured) != encoder.encode(unmeasured)).any()
