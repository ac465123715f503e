"""Filters find what comparing every matching pin finds, whether few match or many, related to the query or not."""

import numpy as np
import pytest

from pipelines.serving import filtered
from pipelines.serving.filtered import Matching, best_matching, best_of
from stores.indexes import IndexParameters, build_index
from stores.neighbours import exact_top_k, tie_aware_recall

PINS, WIDTH, K = 6000, 32, 100


@pytest.fixture(scope="module")
def world():
    """Vectors in 60 crowds, two shards of an index of them, queries near some of them."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(60, WIDTH))
    crowd = random.integers(0, 60, PINS)
    vectors = centres[crowd] + 0.6 * random.normal(size=(PINS, WIDTH))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    ids = np.arange(PINS, dtype=np.int64) * 3 + 1
    queries = vectors[random.choice(PINS, 20, replace=False)].astype(np.float32)
    shards = [build_index(ids[half::2], vectors[half::2], IndexParameters()) for half in (0, 1)]
    return shards, (ids, vectors), queries, crowd, random


@pytest.mark.parametrize("exact_pins", [0, 1000])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("related", [False, True])
def test_recall_of_filters(share, related, exact_pins, world, monkeypatch):
    monkeypatch.setattr(filtered, "EXACT_PINS", exact_pins)
    shards, (ids, vectors), queries, crowd, random = world
    if related:  # whole crowds, whatever the queries are near to
        order = np.argsort(crowd, kind="stable")
        matching = np.sort(ids[order[: int(share * PINS)]])
    else:
        matching = np.sort(random.choice(ids, int(share * PINS), replace=False))
    rows = np.searchsorted(ids, matching)
    nobody = np.empty(0, np.int64)
    without = [matching[::7]] + [nobody] * (len(queries) - 1)
    found = best_matching(shards, queries, K, 64, Matching((ids, vectors), np.append(matching, 10**9)), without)
    assert np.isin(found.pin_ids, [*matching, -1]).all()
    assert not np.isin(found.pin_ids[0], without[0]).any()
    exact = exact_top_k(queries, matching, vectors[rows], K)
    others = slice(1, None)
    assert tie_aware_recall(found.take(others), exact.take(others)) >= 0.95
    # Fewer than k are an answer.
    assert ((found.pin_ids[others] >= 0).sum(axis=1) == min(K, len(matching))).all()


def test_pins_that_are_not_wanted_make_room_for_others(world):
    shards, (ids, vectors), queries, _, _ = world
    exact = exact_top_k(queries, ids, vectors, 60)
    without = [np.sort(row[:50]) for row in exact.pin_ids]
    found = best_of(shards, queries, 10, 200, without)
    assert tie_aware_recall(found, type(exact)(exact.pin_ids[:, 50:], exact.scores[:, 50:])) >= 0.95
    assert all(not np.isin(row, out).any() for row, out in zip(found.pin_ids, without, strict=True))
    alone = best_of(shards, queries[:1], 10, 200, without[:1])
    assert np.array_equal(alone.pin_ids, found.pin_ids[:1])
