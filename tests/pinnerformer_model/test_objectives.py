"""Each objective against its definition in plain loops, on random timelines with many ties in time."""

import numpy as np
import pytest

from pinnerformer_model.objectives import DAY_MS, OBJECTIVES, Objective, Sampler, keep_at_most, label_ranges
from pinnerformer_model.sequences import pad_batch
from pinnerformer_model.timelines import pad_windows, sequences_ending
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


def test_padded_windows_are_the_padded_sequences():
    t, vectors = make_timelines([3, 40, 9]), vectors_of()
    rows, stops = np.array([1, 0, 2, 1]), np.array([43, 2, 50, 6])
    got = pad_windows(t, vectors, rows, stops, M)
    expected = pad_batch(sequences_ending(t, vectors, rows, stops, M), np.arange(4))
    for name in ("pin_vectors", "action", "surface", "timestamp_ms", "duration_s", "lengths"):
        np.testing.assert_array_equal(getattr(got, name).numpy(), getattr(expected, name).numpy())
