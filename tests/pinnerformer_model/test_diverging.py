"""Which rows a step that went wrong is blamed on."""

import dataclasses

import numpy as np
import pytest
import torch

from pinnerformer_model.diverging import blame
from pinnerformer_model.fitting import DivergedError, Schedule, fit
from tests.pinnerformer_model.test_fitting import hooks
from tests.pinnerformer_model.test_training import make


def test_a_good_step_has_nobody_to_blame(timelines):
    trainer, maker = make(timelines)
    assert "of its 8 users are finite one by one" in blame(trainer, maker.make(0))


def test_weights_pins_and_users_are_named(timelines):
    trainer, maker = make(timelines)
    batch = maker.make(0)
    batch.pin_vectors[3, 7] = torch.nan
    assert blame(trainer, batch).endswith(f"pins/vectors.npy: {int(batch.pins[3])}")
    batch = maker.make(0)
    windows = batch.windows[0][0]
    windows.pin_vectors[int(windows.starts[1])] = torch.inf
    assert blame(trainer, batch) == f"users whose pins' vectors are not finite: {int(windows.user_ids[1])}"
    batch = maker.make(0)
    windows = batch.windows[0][0]
    windows.duration_s[int(windows.starts[2])] = -2.0  # log(1 - 2)
    named = blame(trainer, batch)
    assert named == f"users whose embeddings are not finite: {int(windows.user_ids[2])}"
    batch = maker.make(0)
    trainer.settings = dataclasses.replace(trainer.settings, positive_q="user")
    batch.pair_own[2] = torch.nan
    user = int(batch.query_user[batch.pair_query[2]])
    assert blame(trainer, batch) == f"users whose losses are not finite: {user}"
    with torch.no_grad():
        trainer.pin_tower.inner.bias[0] = torch.inf
    assert blame(trainer, maker.make(0)) == "the weights held NaN or infinity before: pin_tower.inner.bias"


def test_the_error_of_a_training_names_the_users(timelines):
    trainer, maker = make(timelines)
    real, expected = maker.make, []

    def poisoned(step: int):
        batch = real(step)
        if step == 4:
            windows = batch.windows[0][0]
            windows.duration_s[int(windows.starts[0])] = -5.0
            expected.append(int(windows.user_ids[0]))
        return batch

    maker.make = poisoned
    with pytest.raises(DivergedError) as error:
        fit(trainer, maker, Schedule(99, 9, 99), hooks(), {})
    assert "step 5: the loss is nan" in str(error.value)
    assert f"users whose embeddings are not finite: {expected[0]}; lower the learning rate" in str(error.value)
    assert np.isfinite(trainer.recent_loss) and trainer.step_number == 4
