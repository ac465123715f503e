"""An order that is computed place by place."""

import tracemalloc

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
    """By what is held: whoever writes the order of ten million down holds 80 MB, and takes seconds each time."""

    def most_bytes(size: int) -> int:
        tracemalloc.start()
        try:
            permuted(np.arange(128), size, [0, 0])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    most_bytes(1000)  # what the first call loads
    assert most_bytes(10_000_000) < 5 * most_bytes(1000) < 1 << 20
