"""Errors over users against drawing users again, and against the formulas written out."""

import math

import numpy as np
import pytest

from pinnerformer_model.user_errors import difference, pool, ratio


def drawn(users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, and the hits of two rows, of users that are good or bad in both."""
    random = np.random.default_rng(seed)
    targets = random.integers(1, 60, users).astype(np.float64)
    taste = random.beta(1, 6, users)
    a = random.binomial(targets.astype(int), taste).astype(np.float64)
    b = random.binomial(targets.astype(int), taste * 0.9).astype(np.float64)
    return targets, a, b


def test_the_error_is_what_other_users_would_have_said():
    found = np.array([[ratio(a, t)[0], difference(a, t, b, t)[0]] for t, a, b in (drawn(300, s) for s in range(400))])
    targets, a, b = drawn(300, 1000)
    errors = ratio(a, targets)[1], difference(a, targets, b, targets)[1]
    np.testing.assert_allclose(errors, found.std(axis=0), rtol=0.25)
    # Users good in both cancel: unpaired, the error would be the root of both in squares.
    assert errors[1] < 0.8 * math.hypot(errors[0], ratio(b, targets)[1])
    # As if positives had been drawn, the error would be far too small.
    p = ratio(a, targets)[0]
    assert errors[0] > 1.5 * math.sqrt(p * (1 - p) / targets.sum())


def test_two_users_by_hand():
    value, error = ratio(np.array([1.0, 0.0]), np.array([1.0, 1.0]))
    assert value == 0.5 and error == pytest.approx(math.sqrt(2 * 0.25**2 * 2))
    value, error = difference(np.array([1.0, 1.0]), np.ones(2), np.array([1.0, 0.0]), np.ones(2))
    assert value == 0.5 and error == pytest.approx(0.5)
    assert difference(np.array([3.0, 1.0]), np.full(2, 4.0), np.array([3.0, 1.0]), np.full(2, 4.0)) == (0.0, 0.0)


def test_what_cannot_be_said_is_nan_and_users_must_be_the_same():
    assert all(map(math.isnan, ratio(np.empty(0), np.empty(0))))
    assert math.isnan(ratio(np.ones(1), np.ones(1))[1]) and ratio(np.ones(1), np.ones(1))[0] == 1
    # A user without targets changes nothing.
    assert ratio(np.array([1.0, 0, 0]), np.array([1.0, 1, 0])) == ratio(np.array([1.0, 0]), np.ones(2))
    with pytest.raises(ValueError, match="the same users"):
        difference(np.ones(2), np.ones(2), np.ones(3), np.ones(3))


def test_a_user_of_several_cuts_is_one_draw():
    first = {"user_ids": np.array([7, 3]), "hits": np.array([1.0, 0.0]), "targets": np.array([4.0, 2.0])}
    second = {"user_ids": np.array([9, 7]), "hits": np.array([2.0, 1.0]), "targets": np.array([2.0, 4.0])}
    both = pool([first, second])
    assert both["user_ids"].tolist() == [3, 7, 9]
    assert both["hits"].tolist() == [0, 2, 2] and both["targets"].tolist() == [2, 8, 2]
    # The same users at another cut tell little that is new: two cuts of equal sums leave the error as it is.
    targets, a, _ = drawn(200, 3)
    one = {"user_ids": np.arange(200), "hits": a, "targets": targets}
    twice = pool([one, one])
    assert ratio(twice["hits"], twice["targets"]) == pytest.approx(ratio(a, targets))
