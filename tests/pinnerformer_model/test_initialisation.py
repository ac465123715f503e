"""What fresh weights do: both towers begin as linear maps of the pins' vectors into one space."""

import dataclasses

import numpy as np
import pytest
import torch

from pinnerformer_model.baselines import whitening
from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import PRESETS, preset
from pinnerformer_model.days import DAY_MS
from pinnerformer_model.initialisation import Space, StartSettings, everybody_lately, linear_start
from pinnerformer_model.packed import pack_windows
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
    window = pack_windows(timelines, vectors, np.arange(20), timelines.offsets[1:], 20)
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
        kept = vectors @ whitening(vectors, most).T
        second = kept.T @ kept / len(kept)
        assert second.shape == (most, most)
        np.testing.assert_allclose(np.trace(second), 1, rtol=1e-4)
        np.testing.assert_allclose(second - np.diag(np.diag(second)), 0, atol=1e-4)
        assert np.diag(second).max() / np.diag(second).min() < 1.4  # the directions themselves differ sixteenfold


def test_a_model_that_looked_at_its_vectors_tells_apart_topics_of_one_group():
    random = np.random.default_rng(0)
    groups = 3 * random.standard_normal((4, 256))
    topics = groups[np.arange(40) % 4] + 0.2 * random.standard_normal((40, 256))
    vectors = topics[np.arange(4000) % 40] + 0.7 * random.standard_normal((4000, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    timelines = make_timelines([20] * 40, pins=4000)
    timelines.pin_row[:] = np.repeat(np.arange(40), 20) + 40 * random.integers(0, 100, 800)
    window = pack_windows(timelines, vectors, np.arange(40), timelines.offsets[1:], 20)
    made = preset("demo", action_vocabulary=("a", "b"), surface_vocabulary=("x", "y", "z"), pinsage_version="v")
    share = {}
    for name, given in (("turned", None), ("fitted", vectors)):
        user_tower, pin_tower = new_model(made, 2, given)
        with torch.no_grad():
            scores = user_tower.newest(window) @ pin_tower(torch.from_numpy(vectors)).T
        own = scores.topk(10, dim=1).indices % 40 == torch.arange(40)[:, None]
        share[name] = float(own.float().mean())
    assert share["fitted"] > 0.9 and share["turned"] < 0.7


@pytest.fixture(scope="module")
def world():
    """Vectors of which some are much longer in the directions that count, and users of one topic each."""
    random = np.random.default_rng(5)
    topics = random.standard_normal((20, 256)) + 4 * random.standard_normal(256)
    vectors = topics[np.arange(600) % 20] + random.standard_normal((600, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    timelines = make_timelines([30] * 20, pins=600)
    timelines.pin_row[:] = np.repeat(np.arange(20), 30) + 20 * random.integers(0, 30, 600)
    return vectors, timelines


def ranks(scores: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(scores, axis=1), axis=1)


@pytest.mark.parametrize("prior", [0.0, 2.0])
def test_a_fresh_model_is_the_ridge_regression(world, prior):
    vectors, timelines = world
    settings = StartSettings(ridge=0.5, prior=prior, prior_days=10_000)
    everybody = everybody_lately(timelines, vectors, int(timelines.timestamp_ms.max()) + 1, 10_000)
    made = preset("small", action_vocabulary=("a", "b"), surface_vocabulary=("x", "y", "z"), pinsage_version="v")
    made = dataclasses.replace(made, embedding_dim=254)
    user_tower, pin_tower = new_model(made, 2, vectors, settings, everybody)
    gram = vectors.T.astype(np.float64) @ vectors / len(vectors)
    strength = np.sort(np.linalg.eigvalsh(gram))[::-1]
    means = np.stack([vectors[timelines.pin_row[30 * i : 30 * i + 30]].mean(0) for i in range(20)])
    lately = vectors[timelines.pin_row[timelines.positive]].astype(np.float64).mean(0)
    np.testing.assert_allclose(everybody, lately, atol=1e-6)
    users = (means + prior * lately) @ np.linalg.inv(gram + 0.5 * strength[1:].mean() * np.eye(256))
    start = linear_start(Space.of(vectors), 254, settings, everybody)
    expected = ranks(users @ vectors.T)
    closed = (means @ start.directions.T + start.prior) * start.gain @ (vectors @ start.directions.T).T
    assert np.corrcoef(expected.ravel(), ranks(closed).ravel())[0, 1] > 0.999
    window = pack_windows(timelines, vectors, np.arange(20), timelines.offsets[1:], 30)
    with torch.no_grad():
        found = (user_tower.newest(window) @ pin_tower(torch.from_numpy(vectors)).T).numpy()
    close = np.corrcoef(expected.ravel(), ranks(found).ravel())[0, 1]
    assert close > 0.97
    if prior:  # without it, it is another user
        plain = means @ np.linalg.inv(gram + 0.5 * strength[1:].mean() * np.eye(256)) @ vectors.T
        assert np.corrcoef(ranks(plain).ravel(), ranks(found).ravel())[0, 1] < close - 0.01


def test_lately_is_what_is_positive_before_the_end_and_not_long_ago():
    vectors = np.eye(4, dtype=np.float32)
    timelines = make_timelines([4], pins=4)
    timelines.pin_row[:] = [0, 1, 2, 3]
    timelines.timestamp_ms[:] = np.array([1, 8, 9, 10]) * DAY_MS
    timelines.positive[:] = [True, True, False, True]
    assert everybody_lately(timelines, vectors, 10 * DAY_MS, 3).tolist() == [0, 1, 0, 0]
    assert everybody_lately(timelines, vectors, 10 * DAY_MS + 1, 30).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    assert everybody_lately(timelines, vectors, DAY_MS, 3).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("wrong", [{"ridge": 0.0}, {"prior": -1.0}, {"prior_days": 0}, {"mean_scale": 0.0}])
def test_a_start_of_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        StartSettings(**wrong)


def test_equal_seeds_draw_equal_weights_on_however_many_cores():
    made = preset("tiny", action_vocabulary=("a", "b"), surface_vocabulary=("x",), pinsage_version="v")
    threads = torch.get_num_threads()
    drawn = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            drawn.append([tower.state_dict() for tower in new_model(made, 1)])
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*drawn, strict=True):
        for name in one:
            assert torch.equal(one[name], two[name]), name
