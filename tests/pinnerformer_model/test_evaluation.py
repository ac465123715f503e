"""Moments and figures against loops over events."""

import numpy as np
import pytest

from pinnerformer_model.baselines import mean_of_last
from pinnerformer_model.evaluation import DAY_MS, FREQUENCIES, find_hits, measure, moments_of
from pinnerformer_model.ranking import vector_scorer
from pinnerformer_model.timelines import Timelines

CUT, DAYS, PINS = 1_700_000_000_000, 14, 60


def make_timelines(users: int = 25, seed: int = 0) -> Timelines:
    """Users of 0 to 60 events on 30 days around the cut; many events share a moment."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 60, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    time = CUT + random.integers(-15 * 24, 15 * 24, total) // 5 * 5 * 3_600_000
    owner = np.repeat(np.arange(users), lengths)
    order = np.lexsort((time, owner))
    return Timelines(
        user_ids=np.arange(users) * 3,
        offsets=offsets,
        pin_row=random.integers(0, PINS, total).astype(np.int32),
        action=np.zeros(total, np.int32),
        surface=np.zeros(total, np.int32),
        timestamp_ms=time[order],
        duration_s=np.full(total, np.nan, np.float32),
        positive=random.random(total) < 0.6,
    )


def plain_moments(timelines: Timelines, frequency: str) -> set[tuple[int, int, int, bool]]:
    """(user, cut, pin, new) of every target, one event at a time."""
    found = set()
    for user in range(len(timelines)):
        events = range(timelines.offsets[user], timelines.offsets[user + 1])
        past = {int(timelines.pin_row[e]) for e in events if timelines.timestamp_ms[e] < CUT}
        seen = set()
        for e in events:
            time, pin = int(timelines.timestamp_ms[e]), int(timelines.pin_row[e])
            inside = CUT <= time < CUT + DAYS * DAY_MS
            if inside and timelines.positive[e] and past and pin not in seen:
                seen.add(pin)
                day = (time - CUT) // DAY_MS
                cut = {"once": CUT, "daily": CUT + day * DAY_MS, "realtime": time}[frequency]
                found.add((user, cut, pin, pin not in past))
    return found


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_moments_equal_walking_the_events(frequency):
    timelines = make_timelines()
    moments = moments_of(timelines, CUT, DAYS, frequency)
    query = moments.targets.query
    columns = (moments.user[query], moments.cut_ms[query], moments.targets.row, moments.new)
    found = list(zip(*(column.tolist() for column in columns), strict=True))
    assert set(found) == plain_moments(timelines, frequency) and len(found) == len(set(found)) > 100
    for q in range(len(moments)):
        events = range(timelines.offsets[moments.user[q]], timelines.offsets[moments.user[q] + 1])
        before = [e for e in events if timelines.timestamp_ms[e] < moments.cut_ms[q]]
        assert moments.stop[q] == before[-1] + 1
        past = {int(timelines.pin_row[e]) for e in events if timelines.timestamp_ms[e] < CUT}
        mine = {pin for user, _, pin, _ in found if user == moments.user[q]}
        assert set(moments.others.row[moments.others.of(q, q + 1)]) == mine
        assert set(moments.known.row[moments.known.of(q, q + 1)]) == mine | past


@pytest.mark.parametrize("frequency", FREQUENCIES)
@pytest.mark.parametrize("late", [700, 800, 1_700, 30_000])  # days after the cut
def test_a_positive_is_its_own_users_however_long_the_window(late, frequency):
    at = CUT + np.array([-1, late, -1, 2 * late]) * DAY_MS + 5
    timelines = Timelines(
        user_ids=np.array([3, 8]),
        offsets=np.array([0, 2, 4]),
        pin_row=np.array([0, 1, 2, 3], np.int32),
        action=np.zeros(4, np.int32),
        surface=np.zeros(4, np.int32),
        timestamp_ms=at,
        duration_s=np.full(4, np.nan, np.float32),
        positive=np.array([False, True, False, True]),
    )
    moments = moments_of(timelines, CUT, 3 * late, frequency)
    assert moments.target_user.tolist() == [0, 1] and moments.targets.row.tolist() == [1, 3]
    cuts = {"once": np.array([CUT, CUT]), "daily": at[[1, 3]] - 5, "realtime": at[[1, 3]]}[frequency]
    np.testing.assert_array_equal(moments.cut_ms, cuts)


def test_a_window_that_has_no_room_in_int64_is_refused():
    with pytest.raises(ValueError, match="more than int64 counts; take a shorter window"):
        moments_of(make_timelines(), CUT, days=10**10)


def test_the_future_moves_no_vector_and_repeats_are_told_apart():
    timelines = make_timelines()
    random = np.random.default_rng(4)
    vectors = random.standard_normal((PINS, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    moments = moments_of(timelines, CUT, DAYS)
    queries = mean_of_last(timelines, vectors, moments, 5)
    for q in range(len(moments)):
        stop = moments.stop[q]
        start = max(timelines.offsets[moments.user[q]], stop - 5)
        mean = vectors[timelines.pin_row[start:stop]].mean(axis=0)
        np.testing.assert_allclose(queries[q], mean / np.linalg.norm(mean), rtol=1e-5)
    figures = measure(find_hits(vector_scorer(queries, vectors), moments, np.ones(PINS, bool)), moments)
    assert figures.positives == len(moments.targets) and 0 < figures.positives_new < figures.positives
    mixed = figures.recall_repeat[0] * (figures.positives - figures.positives_new)
    # Among all pins a new one has more pins to beat than among new ones.
    new = figures.recall[0] * figures.positives - mixed
    assert 0 <= new <= figures.recall_new[0] * figures.positives_new
