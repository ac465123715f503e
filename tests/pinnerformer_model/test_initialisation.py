"""What fresh weights do: both towers begin as linear maps of PinSage into one space."""

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import PRESETS, preset
from pinnerformer_model.initialisation import whitening
from pinnerformer_model.timelines import pad_windows
from tests.pinnerformer_model.test_timelines import make_timelines


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_fresh_user_is_near_the_mean_of_the_pins_and_pins_keep_their_neighbours(name):
    made = preset(name, action_vocabulary=("a", "b"), surface_vocabulary=("x", "y", "z"), pinsage_version="v")
    user_tower, pin_tower = new_model(made, seed=2)
    random = np.random.default_rng(0)
    topics = random.standard_normal((20, 256))
    vectors = topics[np.arange(200) % 20] + 0.7 * random.standard_normal((200, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    timelines = make_timelines([20] * 20, pins=200)
    timelines.pin_row[:] = np.repeat(np.arange(20), 20) + 20 * random.integers(0, 10, 400)  # user i likes topic i
    window = pad_windows(timelines, vectors, np.arange(20), timelines.offsets[1:], 20)
    with torch.no_grad():
        scores = user_tower.newest(window) @ pin_tower(torch.from_numpy(vectors)).T
    own = scores.topk(10, dim=1).indices % 20 == torch.arange(20)[:, None]
    assert own.float().mean() > 0.9
    again = new_model(made, seed=2)[0].state_dict()
    assert all(torch.equal(value, again[key]) for key, value in user_tower.state_dict().items())
    assert not torch.equal(new_model(made, seed=3)[0].projection.weight, user_tower.projection.weight)


def test_whitening_makes_the_strongest_directions_equally_strong():
    random = np.random.default_rng(3)
    strengths = np.r_[np.full(8, 4.0), np.full(56, 1.0), np.full(192, 0.01)]
    turn = np.linalg.qr(random.standard_normal((256, 256)))[0]
    vectors = (random.standard_normal((5000, 256)) * strengths) @ turn
    for most in (64, 8):
        kept = vectors @ whitening(vectors, most).numpy().T
        second = kept.T @ kept / len(kept)
        assert second.shape == (most, most)
        np.testing.assert_allclose(np.trace(second), 1, rtol=1e-4)
        np.testing.assert_allclose(second - np.diag(np.diag(second)), 0, atol=1e-4)
        assert np.diag(second).max() / np.diag(second).min() < 1.4  # the directions themselves differ sixteenfold


def test_a_whitened_model_tells_apart_topics_of_one_group():
    random = np.random.default_rng(0)
    groups = 3 * random.standard_normal((4, 256))
    topics = groups[np.arange(40) % 4] + 0.2 * random.standard_normal((40, 256))
    vectors = topics[np.arange(4000) % 40] + 0.7 * random.standard_normal((4000, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    timelines = make_timelines([20] * 40, pins=4000)
    timelines.pin_row[:] = np.repeat(np.arange(40), 20) + 40 * random.integers(0, 100, 800)
    window = pad_windows(timelines, vectors, np.arange(40), timelines.offsets[1:], 20)
    made = preset("demo", action_vocabulary=("a", "b"), surface_vocabulary=("x", "y", "z"), pinsage_version="v")
    share = {}
    for name, given in (("rotated", None), ("whitened", vectors)):
        user_tower, pin_tower = new_model(made, 2, given)
        with torch.no_grad():
            scores = user_tower.newest(window) @ pin_tower(torch.from_numpy(vectors)).T
        own = scores.topk(10, dim=1).indices % 40 == torch.arange(40)[:, None]
        share[name] = float(own.float().mean())
    assert share["whitened"] > 0.9 and share["rotated"] < 0.7
