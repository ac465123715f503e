"""The drift gate: equal days pass, a shift closes it."""

import dataclasses
import datetime

import numpy as np
import pyarrow as pa
import pytest

from stores.schemas import to_binary_column
from tests.transforms.gates.releases import manifest_of, staged_of
from transforms.gates import check_gates
from transforms.gates.drift import EDGES, HISTOGRAM, cosine_drift, cosine_histogram, ks_distance


def table(ids: list[int], vectors: np.ndarray) -> pa.Table:
    return pa.table({"user_id": pa.array(ids, pa.int64()), "embedding": to_binary_column(vectors.astype(np.float16))})


def test_users_are_counted_by_their_own_cosine():
    old = table([1, 2, 3, 4], np.array([[1, 0], [1, 0], [1, 0], [0, 1]]))
    new = table([4, 1, 2, 9, 3], np.array([[0, -1], [1, 0], [0.6, 0.8], [1, 0], [np.nan, 0]]))
    counts = np.array(cosine_histogram(old, new))
    assert counts.sum() == 4 and counts[0] == 1  # user 1 did not move, user 9 is new
    assert counts[-1] == 2  # user 4 turned round, user 3 is not a number
    assert counts[np.searchsorted(EDGES, 0.4) - 1] == 1  # user 2: 1 - 0.6
    assert sum(cosine_histogram(old.slice(0, 0), new)) == 0


def test_the_distance_is_the_formula():
    from scipy import stats

    random = np.random.default_rng(1)
    a, b = random.exponential(0.1, 4000), random.exponential(0.12, 3000)
    counts = [np.histogram(x, EDGES)[0].tolist() for x in (a, b)]
    edge = np.searchsorted(EDGES, a)  # the bins' own values: then the statistic is exact
    distance, chance = ks_distance(*counts)
    assert distance == pytest.approx(stats.ks_2samp(edge, np.searchsorted(EDGES, b)).statistic, abs=1e-12)
    assert chance == pytest.approx(1.63 * np.sqrt(7000 / 12e6))
    assert ks_distance(counts[0], [0] * len(counts[0])) == (0.0, 1.0)


def night(number: int, counts: list[int], model: str = "a"):
    date = (datetime.date(2026, 11, 1) + datetime.timedelta(number)).isoformat()
    return dataclasses.replace(
        manifest_of(1, 1, 1), release=date, date=date, statistics={HISTOGRAM: counts}, model_digest=model
    )


def draw(seed: int, scale: float, users: int = 3000) -> list[int]:
    return np.histogram(np.random.default_rng(seed).exponential(scale, users), EDGES)[0].tolist()


def closed(releases: list) -> list[bool]:
    """Releases oldest first; whether the gate on the last of them is closed."""
    return [not gate.passed for gate in check_gates([cosine_drift], staged_of(releases[-1], releases[-2::-1]))]


def test_equal_days_pass_and_another_distribution_does_not():
    assert [closed([night(0, draw(seed, 0.1)), night(1, draw(seed + 1000, 0.1))]) for seed in range(50)] == [
        [False]
    ] * 50
    assert closed([night(0, draw(1, 0.1)), night(1, draw(2, 0.2))]) == [True]
    assert closed([night(0, draw(1, 0.1, 30)), night(1, draw(2, 0.2, 30))]) == [False]  # too few to tell


def test_a_weekday_may_be_like_its_own_kind():
    week = [night(number, draw(number, 0.1)) for number in range(7)]
    assert closed([night(-1, draw(90, 0.1)), *week[1:6], night(6, draw(91, 0.3))]) == [True]
    assert closed([night(-1, draw(90, 0.3)), *week[:6], night(6, draw(91, 0.3))]) == [False]


def test_another_model_is_no_yardstick():
    assert closed([night(0, draw(1, 0.1), "b"), night(1, draw(2, 0.4))]) == []
    assert closed([night(0, draw(1, 0.1)), night(1, [0] * len(draw(1, 1)))]) == []  # nobody was embedded
