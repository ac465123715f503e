"""The width of search that a release is served with: the smallest that is good enough."""

import numpy as np
import pytest

from stores.indexes import EF_CANDIDATES, IndexParameters, build_index, search_shards
from stores.neighbours import exact_top_k, tie_aware_recall
from tests.stores.test_indexes import unit_vectors
from transforms.gates import sample


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9, 0.97, 1.0])
def test_the_smallest_width_that_reaches_the_target_is_found(monkeypatch, target):
    """As every width over every query would tell; 64 to 512 are too wide to differ on a small index, so 2 to 64."""
    widths = (2, 4, 8, 16, 64)
    monkeypatch.setattr(sample, "EF_CANDIDATES", widths)
    monkeypatch.setattr(sample, "EF_TARGET", target)
    monkeypatch.setattr(sample, "QUERIES", 7)
    vectors, queries = unit_vectors(3000), unit_vectors(50, seed=1).astype(np.float32)
    ids = np.arange(3000)
    shards = [build_index(ids[i::2], vectors[i::2], IndexParameters(4, 8)) for i in range(2)]
    best = exact_top_k(queries, ids, vectors, 10)
    whole = {ef: search_shards(shards, queries, 10, ef) for ef in widths}
    good = [ef for ef in widths if tie_aware_recall(whole[ef], best) >= target]
    expected = good[0] if good else widths[-1]
    found, ef = sample.search_well_enough(shards, queries, best, widths[0])
    assert ef == expected
    np.testing.assert_array_equal(found.pin_ids, whole[ef].pin_ids)
    assert sample.search_well_enough(shards, queries, best, 64)[1] == 64


def test_no_width_is_taken_below_the_one_that_finds_every_pin():
    vectors = unit_vectors(200)
    shard = build_index(np.arange(200), vectors, IndexParameters())
    queries = vectors[:30].astype(np.float32)
    best = exact_top_k(queries, np.arange(200), vectors, 10)
    for find_ef in EF_CANDIDATES:
        assert sample.search_well_enough([shard], queries, best, find_ef)[1] == find_ef
