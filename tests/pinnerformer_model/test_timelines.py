"""Timelines and the sequences cut from them, against plain loops."""

import numpy as np
import pytest

from pinnerformer_model.sequences import Sequences
from pinnerformer_model.timelines import Timelines, search_sorted, sequences_ending, stops_before


def make_timelines(lengths: list[int], pins: int = 50, seed: int = 0, days: int = 60) -> Timelines:
    """Random timelines with many ties in time."""
    random = np.random.default_rng(seed)
    total = sum(lengths)
    duration = random.exponential(20, total).astype(np.float32)
    duration[random.random(total) < 0.4] = np.nan
    times = [np.sort(random.integers(0, days * 4, n)) * 21_600_000 + 1_700_000_000_000 for n in lengths]
    return Timelines(
        user_ids=np.arange(len(lengths), dtype=np.int64) * 3 + 5,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pin_row=random.integers(0, pins, total).astype(np.int32),
        action=random.integers(0, 2, total).astype(np.int32),
        surface=random.integers(0, 3, total).astype(np.int32),
        timestamp_ms=np.concatenate(times).astype(np.int64),
        duration_s=duration,
        positive=random.random(total) < 0.5,
    )


def vectors_of(pins: int = 50) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((pins, 256)).astype(np.float16)


@pytest.mark.parametrize("side", ["left", "right"])
def test_search_sorted_is_numpys_in_every_slice(side):
    t = make_timelines([0, 1, 7, 40, 0, 3])
    random = np.random.default_rng(1)
    rows = random.integers(0, 6, 200)
    targets = random.choice(np.concatenate([t.timestamp_ms, [0, 2**62]]), 200)
    found = search_sorted(t.timestamp_ms, t.offsets[rows], t.offsets[rows + 1], targets, side)
    for row, target, place in zip(rows, targets, found, strict=True):
        a, b = t.offsets[row], t.offsets[row + 1]
        assert place == a + np.searchsorted(t.timestamp_ms[a:b], target, side)


def sequences_at(t: Timelines, vectors: np.ndarray, cut_ms: np.ndarray | int, max_sequence_length: int) -> Sequences:
    """The newest events strictly before a moment, newest first; users without one are left out."""
    stops = stops_before(t, cut_ms)
    rows = np.flatnonzero(stops > t.offsets[:-1])
    return sequences_ending(t, vectors, rows, stops[rows], max_sequence_length)


def test_sequences_at_are_the_newest_events_strictly_before_the_cut():
    t, vectors = make_timelines([0, 1, 7, 40, 5, 90]), vectors_of()
    cut = int(np.median(t.timestamp_ms))
    assert (t.timestamp_ms == cut).sum() > 1  # ties at the cut itself
    got = sequences_at(t, vectors, cut, max_sequence_length=16)
    expected = {}
    for i, user in enumerate(t.user_ids):
        events = [e for e in range(t.offsets[i], t.offsets[i + 1]) if t.timestamp_ms[e] < cut]
        if events:
            expected[int(user)] = events[::-1][:16]
    assert got.user_ids.tolist() == list(expected)
    events = [e for kept in expected.values() for e in kept]
    for name in ("action", "surface", "timestamp_ms", "duration_s"):
        np.testing.assert_array_equal(getattr(got, name), getattr(t, name)[events])
    np.testing.assert_array_equal(got.pin_vectors, vectors[t.pin_row[events]])
    assert got.lengths.tolist() == [len(kept) for kept in expected.values()]
    assert got.lengths.max() == 16


def test_a_cut_a_user_and_repeated_rows():
    t, vectors = make_timelines([4, 9]), vectors_of()
    cuts = np.array([t.timestamp_ms[3], t.timestamp_ms[8]])
    assert len(sequences_at(t, vectors, cuts, 8).user_ids) == 2
    rows = np.array([1, 1, 0])
    stops = np.array([13, 5, 2])
    got = sequences_ending(t, vectors, rows, stops, 3)
    assert got.lengths.tolist() == [3, 1, 2]
    assert got.timestamp_ms.tolist() == t.timestamp_ms[[12, 11, 10, 4, 1, 0]].tolist()
    assert stops_before(t, 0).tolist() == [0, 4]


def test_a_subset_of_users_keeps_their_events():
    t = make_timelines([3, 0, 5, 2])
    for rows in (np.array([0, 2]), np.array([True, False, True, False])):
        kept = t.users(rows)
        assert kept.user_ids.tolist() == [5, 11]
        np.testing.assert_array_equal(kept.pin_row, np.concatenate([t.pin_row[:3], t.pin_row[3:8]]))


def test_columns_that_do_not_fit_are_refused():
    t = make_timelines([3, 2])
    with pytest.raises(ValueError, match="offsets say 4"):
        Timelines(t.user_ids, np.array([0, 3, 4]), *(getattr(t, n) for n in ("pin_row", "action", "surface")),
                  t.timestamp_ms, t.duration_s, t.positive)  # fmt: skip


def test_timelines_of_before_a_moment_keep_every_user():
    t = Timelines(np.array([1, 2]), np.array([0, 2, 3]), *(np.zeros(3, np.int32) for _ in range(3)),
                  np.array([5, 9, 9]), np.zeros(3, np.float32), np.ones(3, bool))  # fmt: skip
    before = t.before(9)
    assert before.user_ids.tolist() == [1, 2] and before.offsets.tolist() == [0, 1, 1]
