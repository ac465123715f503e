"""A model and timelines that the tests of this folder share."""

import numpy as np
import pytest

from pinnerformer_model.checkpoint import new_model, save_model
from tests.pinnerformer_model.samples import tiny
from tests.pinnerformer_model.test_timelines import make_timelines
from tests.pinnerformer_model.test_training import PINS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("model") / "m")
    save_model(folder, tiny(), *new_model(tiny(), seed=3))
    return folder


@pytest.fixture(scope="module")
def timelines():
    return make_timelines(np.random.default_rng(0).integers(1, 60, 30).tolist(), pins=PINS)
