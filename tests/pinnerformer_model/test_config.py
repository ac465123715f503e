"""Sizes of models."""

import pytest

from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import PRESETS, preset
from tests.pinnerformer_model.samples import ACTIONS, SURFACES


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_make_models(name):
    config = preset(name, action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v1")
    if name != "paper":  # 43 M parameters
        new_model(config, 0)
    assert config.hidden_size % config.num_heads == 0
