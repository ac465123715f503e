"""An order that is computed place by place."""

import time

import numpy as np
import pytest

from pinnerformer_model.permutation import permuted


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_it_is_a_permutation_whatever_the_places_asked_for(size):
    whole = permuted(np.arange(size), size, [7, 1, 0])
    assert sorted(whole.tolist()) == list(range(size))
    some = np.random.default_rng(0).integers(0, size, 50)
    np.testing.assert_array_equal(permuted(some, size, [7, 1, 0]), whole[some])
    if size >= 16:
        assert (permuted(np.arange(size), size, [7, 1, 1]) != whole).mean() > 0.5


@pytest.mark.parametrize("size", [5, 12, 100])
def test_every_number_is_as_likely_at_every_place(size):
    draws = 4000
    first = np.stack([permuted(np.array([0, size - 1]), size, [seed]) for seed in range(draws)])  # [draws, 2]
    for place in range(2):
        counts = np.bincount(first[:, place], minlength=size)
        assert ((counts - draws / size) ** 2 / (draws / size)).sum() < size - 1 + 5 * np.sqrt(2 * size)  # chi square
    after = (first[:, 1] - first[:, 0]) % size  # of two places: not one number shifted by the other
    assert np.bincount(after, minlength=size)[1:].max() < 2 * draws / (size - 1)


def test_a_place_among_ten_million_costs_no_more_than_one_among_a_thousand():
    def seconds(size: int) -> float:
        started = time.perf_counter()
        for step in range(20):
            permuted(np.arange(128), size, [0, step])
        return time.perf_counter() - started

    seconds(1000)
    # Writing the order of ten million down takes seconds each time.
    assert min(seconds(10_000_000) for _ in range(3)) < 5 * min(seconds(1000) for _ in range(3)) + 0.05
