"""Sizes of models, and what their config says of the training."""

import dataclasses
import datetime
import json

import pytest

from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import PRESETS, ModelConfig, ModelError, preset
from tests.pinnerformer_model.samples import ACTIONS, SURFACES


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_make_models(name):
    config = preset(name, action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v1")
    if name != "paper":  # 43 M parameters
        new_model(config, 0)
    assert config.hidden_size % config.num_heads == 0


def test_a_config_says_what_the_training_saw():
    plain = preset("tiny", action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v1")
    assert not {"until", "split_salt", "evaluation_share"} & set(json.loads(plain.to_json()))  # digests stay
    trained = plain.trained(datetime.date(2026, 11, 1), 7, 0.1)
    assert (trained.until, trained.split_salt, trained.evaluation_share) == ("2026-11-01", 7, 0.1)
    assert ModelConfig.from_json(trained.to_json()) == trained
    again = trained.trained(datetime.date(2026, 10, 1), 7, 0.1)
    assert (again.until, again.evaluation_share) == ("2026-11-01", 0.1)
    # Held out of one split, trained on in another: of nobody is it known that no training saw them.
    assert trained.trained(datetime.date(2026, 12, 1), 8, 0.1).evaluation_share == 0.0
    for bad in (
        {"provenance": {"mood": 1}},
        {"provenance": 3},
        {"until": "yesterday"},
        {"until": 3},
        {"split_salt": "x"},
        {"evaluation_share": 1.0},
    ):
        with pytest.raises(ModelError, match=f"{next(iter(bad))} must be"):
            dataclasses.replace(plain, **bad)


def test_a_config_that_does_not_say_how_wide_vectors_are_is_of_256():
    plain = preset("tiny", action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v1")
    found = json.loads(plain.to_json())
    assert found.pop("pin_vector_dim") == 256
    assert ModelConfig.from_json(json.dumps(found)) == plain
    other = preset(
        "tiny", action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v1", pin_vector_dim=384
    )
    assert ModelConfig.from_json(other.to_json()).pin_vector_dim == 384
    user_tower, pin_tower = new_model(other, 0)
    assert (
        pin_tower.inner.in_features == 384 and user_tower.features.width == new_model(plain, 0)[0].features.width + 128
    )
