"""What fresh weights do: both towers begin as linear maps of PinSage into one space."""

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import PRESETS, preset
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
