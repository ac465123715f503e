"""Weights of repeats, against plain loops."""

import dataclasses

import numpy as np
import pytest

from pinnerformer_model.negatives import Negatives, pair_weights
from pinnerformer_model.objectives import Objective, Sampler
from pinnerformer_model.step_batches import BatchMaker, first_engagements, weigh_repeats
from pinnerformer_model.training_settings import TrainingSettings
from tests.pinnerformer_model.test_timelines import make_timelines, vectors_of


def draw_of(timelines):
    return Sampler(timelines, Objective(days=10), max_sequence_length=16, users_per_step=5, seed=0).draw(3)


def test_a_pair_is_a_repeat_where_the_user_had_its_pin_by_the_position_that_predicts_it():
    t = make_timelines([0, 1, 2, 7, 40, 25, 90, 3], seed=0)
    draw = draw_of(t)
    repeats = []
    for query, label in zip(draw.pair_query, draw.pair_event, strict=True):
        window = draw.query_window[query]
        event = draw.stops[window] - 1 - draw.query_position[query]
        begin = t.offsets[draw.rows[window]]
        repeats.append(t.pin_row[label] in t.pin_row[begin : event + 1])
    assert 0 < sum(repeats) < len(repeats)
    weight = pair_weights(draw)
    found = weigh_repeats(weight, draw, first_engagements(t, int(t.pin_row.max()) + 1), 0.2)
    expected = weight * np.where(repeats, 0.2, 1.0)
    assert found == pytest.approx(expected / expected.sum())


def test_where_all_are_repeats_of_no_weight_nothing_changes():
    t = make_timelines([30, 30], seed=0)
    draw = draw_of(t)
    weight = pair_weights(draw)
    assert (weigh_repeats(weight, draw, np.zeros(len(t.pin_row), np.int64), 0.0) == weight).all()


def test_batches_carry_the_weights_of_repeats():
    t = make_timelines([0, 1, 2, 7, 40, 25, 90, 3], seed=0)
    base = TrainingSettings(users_per_step=5, negatives=Negatives("in_batch"))
    made = [BatchMaker(t, vectors_of(), dataclasses.replace(base, repeat_weight=share), 16) for share in (1.0, 0.5)]
    plain, less = (maker.make(0).pair_weight.numpy() for maker in made)
    assert not np.allclose(plain, less) and less.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="repeat_weight"):
        TrainingSettings(repeat_weight=1.5)
