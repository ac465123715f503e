"""The user tower against the formula written out, and what it must not depend on."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.packed import pack_sequences
from pinnerformer_model.sequences import Sequences
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS
from tests.pinnerformer_model.padded import encode, pad
from tests.pinnerformer_model.reference import ReferenceModel
from tests.pinnerformer_model.samples import ACTIONS, SURFACES, cosine, every_position, make_sequences


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


def test_what_others_of_the_batch_hold_changes_nothing(model):
    """Not their tokens, nor that they are NaN; in groups of one length and beside longer and shorter ones."""
    encoder = UserEncoder(load_model(model).user_tower)
    sequences = make_sequences([4, 20, 4, 7, 1, 20, 31])
    before = encoder.encode(sequences)
    for spoiled, value in itertools.product(range(7), (1e3, np.nan)):
        vectors = sequences.pin_vectors.astype(np.float32)
        vectors[sequences.offsets[spoiled] : sequences.offsets[spoiled + 1]] = value
        after = encoder.encode(dataclasses.replace(sequences, pin_vectors=vectors))
        healthy = np.arange(7) != spoiled
        np.testing.assert_array_equal(after[healthy], before[healthy])
        assert (after[spoiled] != before[spoiled]).any()


def test_a_position_sees_itself_and_what_is_older_only(model):
    tower = load_model(model).user_tower
    sequences = make_sequences([10])
    changed = dataclasses.replace(sequences, pin_vectors=sequences.pin_vectors.copy())
    changed.pin_vectors[3] += 1
    one = np.array([0])
    with torch.inference_mode():
        difference = every_position(tower, pack_sequences(sequences, one))
        difference = (difference - every_position(tower, pack_sequences(changed, one))).abs().amax(-1)
    assert (difference[:4] > 1e-4).all() and (difference[4:] == 0).all()


def test_newest_is_the_first_position_of_all(model):
    tower = load_model(model).user_tower
    sequences = make_sequences([10, 3, 32, 32, 1])
    windows = pack_sequences(sequences, np.arange(5))
    with torch.inference_mode():
        found = tower.newest(windows)
        newest = torch.cat([torch.zeros(1, dtype=torch.int64), windows.lengths.cumsum(0)[:-1]])
        torch.testing.assert_close(found, every_position(tower, windows)[newest], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found, encode(tower, pad(sequences))[:, 0], rtol=1e-5, atol=1e-6)


def test_an_unmeasured_duration_is_not_zero(model):
    s = make_sequences([3])
    encoder = UserEncoder(load_model(model).user_tower)
    measured = dataclasses.replace(s, duration_s=np.zeros(3, np.float32))
    unmeasured = dataclasses.replace(s, duration_s=np.full(3, np.nan, np.float32))
    assert (encoder.encode(measured) != encoder.encode(unmeasured)).any()
