"""Exact search, merged answers and recall, as they are defined."""

import numpy as np
import pytest

from stores.neighbours import Neighbours, exact_top_k, merge_top_k, ordered_top_k, tie_aware_recall
from tests.stores.test_indexes import unit_vectors


def test_exact_search_is_a_sort_by_score_then_id():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0.5, 0.5]], np.float16)
    found = exact_top_k(np.array([[1, 0]], np.float32), np.array([9, 1, 3, 4]), vectors, 3)
    assert found.pin_ids.tolist() == [[3, 9, 4]] and found.scores.tolist() == [[1, 1, 0.5]]
    few = exact_top_k(np.array([[1, 0]], np.float32), np.array([9]), vectors[:1], 3)
    assert few.pin_ids.tolist() == [[9, -1, -1]] and few.scores[0, 1:].tolist() == [-np.inf] * 2


@pytest.mark.parametrize("pins", [9, 641, 704, 20_000])
def test_exact_search_over_many_pins_is_a_sort(pins):
    vectors, queries = unit_vectors(pins, dim=8), unit_vectors(30, dim=8, seed=1).astype(np.float32)
    scores = queries @ vectors.astype(np.float32).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    found = exact_top_k(queries, np.arange(pins), vectors, 10)
    np.testing.assert_allclose(found.scores[:, : min(10, pins)], np.take_along_axis(scores, order, 1), atol=1e-6)
    rows = np.take_along_axis(scores, np.maximum(found.pin_ids, 0), 1)
    np.testing.assert_allclose(found.scores, np.where(found.pin_ids < 0, -np.inf, rows), atol=1e-6)


def test_merging_shards_is_searching_all():
    vectors, queries = unit_vectors(300), unit_vectors(20, seed=1).astype(np.float32)
    ids = np.random.default_rng(2).permutation(1000)[:300]
    parts = [exact_top_k(queries, ids[i::3], vectors[i::3], 7) for i in range(3)]
    whole = exact_top_k(queries, ids, vectors, 7)
    np.testing.assert_array_equal(merge_top_k(parts, 7).pin_ids, whole.pin_ids)


@pytest.mark.parametrize("levels", [3, 40, 1 << 20])
@pytest.mark.parametrize("k", [1, 10, 60, 80])
def test_the_best_are_those_of_a_sort_by_score_then_id(levels, k):
    draw = np.random.default_rng(levels)
    ids, scores = draw.permutation(20 * 60).reshape(20, 60), draw.integers(levels, size=(20, 60)).astype(np.float32)
    empty = draw.random((20, 60)) < 0.2
    ids[empty], scores[empty] = -1, -np.inf
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    found = ordered_top_k(ids, scores, k)
    assert found.pin_ids.shape == (20, k)
    np.testing.assert_array_equal(found.pin_ids[:, :60], np.take_along_axis(ids, order, 1))
    np.testing.assert_array_equal(found.scores[:, :60], np.take_along_axis(scores, order, 1))


def test_recall_counts_equal_scores_as_found_and_nothing_else():
    exact = Neighbours(np.array([[1, 2]]), np.array([[0.9, 0.8]], np.float32))
    tied = Neighbours(np.array([[1, 7]]), np.array([[0.9, 0.8]], np.float32))
    worse = Neighbours(np.array([[1, 7]]), np.array([[0.9, 0.7]], np.float32))
    assert tie_aware_recall(tied, exact) == 1 and tie_aware_recall(worse, exact) == 0.5
