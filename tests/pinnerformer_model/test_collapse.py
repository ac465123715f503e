"""Overlap, coverage and its ceiling against pairs and orders walked one by one."""

import itertools

import numpy as np
import pytest

from pinnerformer_model.collapse import covering_pins, mean_length, most_covering_pins, overlap


def test_overlap_is_the_mean_over_pairs_of_users():
    random = np.random.default_rng(0)
    top = np.array([random.choice(25, 10, replace=False) for _ in range(12)])
    shared = [len(set(a) & set(b)) / 10 for a, b in itertools.combinations(top.tolist(), 2)]
    assert overlap(top) == pytest.approx(np.mean(shared))
    assert overlap(np.tile(np.arange(10), (5, 1))) == 1 and overlap(np.arange(50).reshape(5, 10)) == 0
    assert np.isnan(overlap(top[:1]))


def test_the_ceiling_of_coverage_is_reached_by_even_answers():
    assert most_covering_pins(274, 10, 62_682) == 2466  # .0393 of the receipts' products
    for users, k, pins in ((3, 10, 100), (40, 10, 100), (7, 5, 12), (25, 4, 100), (1000, 10, 30)):
        even = (np.arange(users * k) % pins).reshape(users, k)
        assert most_covering_pins(users, k, pins) == covering_pins(even)
    assert most_covering_pins(0, 10, 5) == most_covering_pins(5, 10, 0) == 0
    assert covering_pins(np.full((4, 10), -1)) == 0


def test_the_mean_of_equal_vectors_is_as_long_as_they_are():
    assert mean_length(np.tile([3.0, 4.0], (9, 1))) == pytest.approx(1)
    assert mean_length(np.array([[1.0, 0], [-2.0, 0]])) == 0
    assert np.isnan(mean_length(np.ones((1, 4))))
