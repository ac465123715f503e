"""Each objective against its definition in plain loops, on random timelines with many ties in time."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch

from pinnerformer_model.days import DAY_MS
from pinnerformer_model.negatives import pair_weights
from pinnerformer_model.objectives import (
    Sampler,
    ends_of_moments,
    keep_at_most,
    label_ranges,
)
from pinnerformer_model.packed import pack_sequences, pack_windows
from pinnerformer_model.timelines import sequences_ending
from pinnerformer_model.training_settings import OBJECTIVES, Objective, TrainingSettings
from tests.pinnerformer_model.test_timelines import make_timelines, vectors_of

LENGTHS = [0, 1, 2, 7, 40, 25, 90, 3]
M, DAYS = 16, 10


def owner_of(t, event: int) -> range:
    i = int(np.searchsorted(t.offsets, event, side="right")) - 1
    return range(t.offsets[i], t.offsets[i + 1])


def labels_within_days(t, event: int) -> list[int]:
    """All positives of the user strictly later than an event, at most K days."""
    now = t.timestamp_ms[event]
    return [e for e in owner_of(t, event) if t.positive[e] and now < t.timestamp_ms[e] <= now + DAYS * DAY_MS]


def next_labels(t, event: int) -> list[int]:
    """The next positive strictly later than an event; several, if they share their moment."""
    later = [e for e in owner_of(t, event) if t.positive[e] and t.timestamp_ms[e] > t.timestamp_ms[event]]
    return [e for e in later if t.timestamp_ms[e] == t.timestamp_ms[later[0]]]


LABELS = {
    "next_action": next_labels,
    "sasrec": next_labels,
    "all_action": labels_within_days,
    "dense_all_action": labels_within_days,
}


@pytest.mark.parametrize("horizon, plain", [(DAYS * DAY_MS, labels_within_days), (None, next_labels)])
def test_label_ranges_are_the_later_positives_of_the_same_user(horizon, plain):
    t = make_timelines(LENGTHS)
    found = label_ranges(t, horizon)
    several = 0
    for event in range(len(t.pin_row)):
        run = found.positives[found.first[event] : found.first[event] + found.count[event]].tolist()
        assert run == plain(t, event)
        several += len(run) > 1
    assert several >= 10


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("windows", [1, 3])
def test_every_objective_draws_what_it_says(name, windows):
    t = make_timelines(LENGTHS, seed=4)
    objective = Objective(name, days=DAYS, positions=5, labels=4)
    sampler = Sampler(t, objective, max_sequence_length=M, users_per_step=4, windows_per_user=windows, seed=1)
    plain = LABELS[name]
    seen = 0
    for step in range(20):
        draw = sampler.draw(step)
        assert len(set(draw.rows.tolist())) == 4 and len(draw.rows) == 4 * windows
        pairs = {}
        for query, event in zip(draw.pair_query.tolist(), draw.pair_event.tolist(), strict=True):
            pairs.setdefault(query, []).append(event)
        by_window = {}
        for query, (window, position) in enumerate(zip(draw.query_window, draw.query_position, strict=True)):
            by_window.setdefault(int(window), {})[int(position)] = pairs[query]
        assert sorted(by_window) == list(range(len(draw.rows)))
        for window, (row, stop) in enumerate(zip(draw.rows, draw.stops, strict=True)):
            newest_first = [e for e in range(t.offsets[row], stop)][::-1][:M]
            possible = {p: plain(t, e) for p, e in enumerate(newest_first) if plain(t, e)}
            assert 0 in possible  # a window ends at an event with a label
            drawn = by_window[window]
            if name in ("next_action", "all_action"):
                assert list(drawn) == [0]
            elif name == "sasrec":
                assert sorted(drawn) == sorted(possible)
            else:
                assert set(drawn) <= set(possible) and len(drawn) == min(5, len(possible))
            for position, events in drawn.items():
                assert set(events) <= set(possible[position])
                most = min(4, len(possible[position])) if name == "all_action" else 1
                assert len(events) == len(set(events)) == most
                later = t.timestamp_ms[events] > t.timestamp_ms[newest_first[position]]
                assert later.all()  # strictly later: the lines of a receipt do not predict one another
                seen += 1
    assert seen >= 80


def test_lines_of_one_receipt_never_predict_one_another():
    t = make_timelines([30] * 10, days=3)  # about three events a moment
    same = 0
    for event in range(len(t.pin_row)):
        same += int((t.timestamp_ms[list(owner_of(t, event))] == t.timestamp_ms[event]).sum() - 1)
    assert same > 300
    for name in OBJECTIVES:
        sampler = Sampler(t, Objective(name, days=DAYS), max_sequence_length=M, users_per_step=10)
        for step in range(5):
            draw = sampler.draw(step)
            query = draw.stops[draw.query_window] - 1 - draw.query_position
            assert (t.timestamp_ms[draw.pair_event] > t.timestamp_ms[query[draw.pair_query]]).all()


def test_an_epoch_sees_every_user_with_a_label_once_and_a_step_is_its_number():
    t = make_timelines([30] * 12 + [1] * 5)
    sampler = Sampler(t, Objective(), max_sequence_length=M, users_per_step=4, seed=7)
    assert sampler.users.tolist() == list(range(12))  # users with one action have nothing to predict
    first = [sampler.draw(step) for step in range(3)]
    assert sorted(row for draw in first for row in draw.rows.tolist()) == list(range(12))
    again = Sampler(t, Objective(), max_sequence_length=M, users_per_step=4, seed=7).draw(2)
    for name in ("rows", "stops", "query_window", "query_position", "pair_event"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first[2], name))
    assert [d.rows.tolist() for d in first] != [sampler.draw(step).rows.tolist() for step in range(3, 6)]


def test_choices_are_uniform():
    random = np.random.default_rng(3)
    group = np.repeat([0, 1, 4], [5, 2, 1])
    times = np.zeros(len(group))
    for _ in range(4000):
        kept = keep_at_most(group, 2, random)
        assert len(kept) == 5 and (np.diff(kept) > 0).all()
        times[kept] += 1
    np.testing.assert_allclose(times / 4000, [0.4] * 5 + [1.0] * 3, atol=0.04)


def test_users_with_one_action_alone_have_nothing_to_train_on():
    with pytest.raises(ValueError, match="no event has a positive of the same user later"):
        Sampler(make_timelines([1] * 20), Objective(), max_sequence_length=M, users_per_step=4)


def test_packed_windows_are_the_packed_sequences():
    t, vectors = make_timelines([3, 40, 9]), vectors_of()
    rows, stops = np.array([1, 0, 2, 1]), np.array([43, 2, 50, 6])
    got = pack_windows(t, vectors, rows, stops, M)
    expected = pack_sequences(sequences_ending(t, vectors, rows, stops, M), np.arange(4))
    assert (got.longest, got.runs) == (expected.longest, expected.runs) == (M, ((1, M), (1, 2), (1, 7), (1, 3)))
    for field in dataclasses.fields(got):
        if isinstance(getattr(got, field.name), torch.Tensor):
            np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_window_ends_with_the_last_event_of_its_moment(name):
    """Inside a receipt no night ever stands."""
    t = make_timelines([30] * 10, days=3)  # about three events a moment
    sampler = Sampler(t, Objective(name, days=DAYS), max_sequence_length=M, users_per_step=10, windows_per_user=5)
    drawn = set()
    for step in range(20):
        draw = sampler.draw(step)
        for row, stop in zip(draw.rows.tolist(), draw.stops.tolist(), strict=True):
            assert stop == t.offsets[row + 1] or t.timestamp_ms[stop] > t.timestamp_ms[stop - 1]
            drawn.add(stop)
    owner = np.repeat(np.arange(10), 30)
    last = np.append((np.diff(t.timestamp_ms) != 0) | (np.diff(owner) != 0), True)
    assert drawn == set((np.flatnonzero(last & (label_ranges(t, sampler_horizon(name)).count > 0)) + 1).tolist())


def sampler_horizon(name: str) -> int | None:
    return Objective(name, days=DAYS).horizon_ms


def test_two_users_that_share_a_moment_are_not_one():
    t = make_timelines([2, 2])
    t.timestamp_ms[:] = [1, 5, 5, 9]  # the first user's latest moment is the second's first
    assert ends_of_moments(t).tolist() == [True, True, True, True]
    t.timestamp_ms[:] = [5, 5, 5, 5]
    assert ends_of_moments(t).tolist() == [False, True, False, True]
    assert ends_of_moments(make_timelines([0, 1, 0])).tolist() == [True]


def test_a_step_takes_no_room_for_users_that_are_not_in_it():
    users = 300_000
    t = make_timelines([2] * users)
    t.timestamp_ms[1::2], t.positive[:] = t.timestamp_ms[::2] + 1, True
    sampler = Sampler(t, Objective(), max_sequence_length=M, users_per_step=64)
    assert len(sampler.users) == users
    tracemalloc.start()
    try:
        sampler.draw(3)
        assert tracemalloc.get_traced_memory()[1] < users  # bytes: a permutation of them takes eight a user
    finally:
        tracemalloc.stop()


def test_a_share_of_the_windows_is_always_the_same_share():
    t = make_timelines([60] * 40, seed=2)

    def stops(share: float, seed: int = 0) -> set[int]:
        sampler = Sampler(
            t, Objective("next_action"), max_sequence_length=M, users_per_step=40, windows_per_user=20,
            window_share=share, seed=seed,
        )  # fmt: skip
        assert len(sampler.users) == 40
        return set(np.concatenate([sampler.draw(step).stops for step in range(60)]).tolist())

    everything, quarter = stops(1.0), stops(0.25)
    assert quarter < everything and len(quarter) == pytest.approx(len(everything) / 4, rel=0.2)
    assert len(stops(1e-9)) == 40  # one of every user
    assert stops(0.25, seed=1) != quarter
    with pytest.raises(ValueError, match="window_share"):
        TrainingSettings(window_share=0)


@pytest.mark.parametrize("name", ["all_action", "dense_all_action"])
def test_labels_that_the_end_of_training_cuts_off_can_be_left_out(name):
    t = make_timelines([60] * 10, days=40)
    end = int(t.timestamp_ms.max()) + 5
    objective = Objective(name, days=DAYS, full_windows=True)
    found = label_ranges(t, objective.horizon_ms, end)
    plain = label_ranges(t, objective.horizon_ms)
    for event, time in enumerate(t.timestamp_ms):
        assert found.count[event] == (plain.count[event] if time + DAYS * DAY_MS < end else 0)
    assert 0 < found.count.astype(bool).sum() < plain.count.astype(bool).sum()
    latest = {}
    for full in (True, False):
        sampler = Sampler(
            t, Objective(name, days=DAYS, full_windows=full), max_sequence_length=M, users_per_step=10, end_ms=end
        )
        draws = [sampler.draw(step) for step in range(30)]
        latest[full] = max(t.timestamp_ms[d.stops[d.query_window] - 1 - d.query_position].max() for d in draws)
    assert latest[True] + DAYS * DAY_MS < end <= latest[False] + DAYS * DAY_MS
    with pytest.raises(ValueError, match="that training's end does not cut off"):
        Sampler(t, objective, max_sequence_length=M, users_per_step=10, end_ms=int(t.timestamp_ms.min()) + DAY_MS)
    with pytest.raises(ValueError, match="full_windows is of the objectives with days"):
        Objective("sasrec", full_windows=True)


@pytest.mark.parametrize("name", ["sasrec", "dense_all_action"])
@pytest.mark.parametrize("windows", [1, 3])
def test_the_newest_position_can_weigh_what_all_others_do(name, windows):
    t = make_timelines([60, 3, 30, 90, *[2] * 12], seed=4)
    objective = Objective(name, days=DAYS, positions=5, newest_weight=0.5)
    sampler = Sampler(t, objective, max_sequence_length=M, users_per_step=9, windows_per_user=windows)
    both = alone = 0
    for step in range(10):
        draw = sampler.draw(step)
        weight = pair_weights(draw, 0.5)
        position = draw.query_position[draw.pair_query]
        user = draw.rows[draw.query_window[draw.pair_query]]
        newest_of = draw.query_window[draw.query_position == 0]
        assert newest_of.tolist() == list(range(len(draw.rows)))  # it is always among those drawn
        for row in set(user.tolist()):
            mine = user == row
            assert weight[mine].sum() == pytest.approx(1 / len(set(user.tolist())))
            newest, others = weight[mine & (position == 0)], weight[mine & (position > 0)]
            if len(others):
                assert newest.sum() == pytest.approx(others.sum())
                assert np.ptp(newest) < 1e-12 and np.ptp(others) < 1e-12
            both, alone = both + (len(others) > 0), alone + (len(others) == 0)
    assert both > 10 and alone > 0
    np.testing.assert_array_equal(pair_weights(draw), pair_weights(draw, None))
    for wrong in ({"newest_weight": 1.0}, {"newest_weight": 0.5, "name": "all_action"}):
        with pytest.raises(ValueError, match="newest_weight"):
            Objective(**wrong)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_labels_may_be_of_the_last_days_only(name):
    t = make_timelines(LENGTHS, seed=6)
    end = int(t.timestamp_ms.max()) + 1
    since = end - 12 * DAY_MS
    earliest = {}
    for days in (None, 12):
        sampler = Sampler(t, Objective(name, days=DAYS, label_days=days), max_sequence_length=M, users_per_step=10)
        draws = [sampler.draw(step) for step in range(40)]
        earliest[days] = min(t.timestamp_ms[d.pair_event].min() for d in draws)
    assert earliest[None] < since <= earliest[12]
    with pytest.raises(ValueError, match="label_days must be positive"):
        Objective(name, label_days=0)
