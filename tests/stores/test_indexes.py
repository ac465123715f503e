"""Index shards: every pin found, the same bytes, exact search and recall as they are defined."""

import numpy as np
import pytest

from stores.errors import StoreError
from stores.files import Root
from stores.indexes import (
    IndexParameters,
    Neighbours,
    build_findable_index,
    build_index,
    exact_top_k,
    find_pins,
    load_index,
    merge_top_k,
    search_shards,
    tie_aware_recall,
    write_index,
)
from tests.worlds import day

PARAMETERS = IndexParameters()


def unit_vectors(count: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_exact_search_is_a_sort_by_score_then_id():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0.5, 0.5]], np.float16)
    found = exact_top_k(np.array([[1, 0]], np.float32), np.array([9, 1, 3, 4]), vectors, 3)
    assert found.pin_ids.tolist() == [[3, 9, 4]] and found.scores.tolist() == [[1, 1, 0.5]]
    few = exact_top_k(np.array([[1, 0]], np.float32), np.array([9]), vectors[:1], 3)
    assert few.pin_ids.tolist() == [[9, -1, -1]] and few.scores[0, 1:].tolist() == [-np.inf] * 2


def test_merging_shards_is_searching_all():
    vectors, queries = unit_vectors(300), unit_vectors(20, seed=1).astype(np.float32)
    ids = np.random.default_rng(2).permutation(1000)[:300]
    parts = [exact_top_k(queries, ids[i::3], vectors[i::3], 7) for i in range(3)]
    whole = exact_top_k(queries, ids, vectors, 7)
    np.testing.assert_array_equal(merge_top_k(parts, 7).pin_ids, whole.pin_ids)


def test_shards_find_what_exact_search_finds():
    vectors, queries = unit_vectors(2000), unit_vectors(50, seed=1).astype(np.float32)
    ids = np.arange(2000) * 3
    shards = [build_index(ids[i::4], vectors[i::4], PARAMETERS) for i in range(4)]
    exact = exact_top_k(queries, ids, vectors, 10)
    assert tie_aware_recall(search_shards(shards, queries, 10, ef=256), exact) >= 0.99
    assert tie_aware_recall(search_shards(shards, queries, 10, ef=10), exact) < 1  # the measure can fail


def test_recall_counts_equal_scores_as_found_and_nothing_else():
    exact = Neighbours(np.array([[1, 2]]), np.array([[0.9, 0.8]], np.float32))
    tied = Neighbours(np.array([[1, 7]]), np.array([[0.9, 0.8]], np.float32))
    worse = Neighbours(np.array([[1, 7]]), np.array([[0.9, 0.7]], np.float32))
    assert tie_aware_recall(tied, exact) == 1 and tie_aware_recall(worse, exact) == 0.5


def test_every_pin_is_found_among_thousands_of_equal_ones():
    vectors = np.concatenate([np.repeat(unit_vectors(3), 700, 0), unit_vectors(400, seed=3)])
    index, report = build_findable_index(np.arange(2500), vectors, PARAMETERS)
    assert report.unfindable == 0
    ef, missed = find_pins(index, np.arange(2500), vectors)
    assert (ef, missed) == (report.find_ef, 0)


def test_a_pin_that_is_not_in_the_index_is_missed():
    vectors = unit_vectors(500)
    index = build_index(np.arange(499), vectors[:499], PARAMETERS)
    assert find_pins(index, np.arange(500), vectors)[1] == 1


def test_the_same_pins_give_the_same_bytes(tmp_path):
    vectors = unit_vectors(800)
    roots = [Root(str(tmp_path / name)) for name in ("a", "b")]
    entries = [
        write_index(root, day(0), 1, build_findable_index(np.arange(800), vectors, PARAMETERS)[0]) for root in roots
    ]
    assert entries[0] == entries[1] and entries[0].rows == 800
    assert roots[0].read_bytes(entries[0].path) == roots[1].read_bytes(entries[1].path)
    index = load_index(roots[0], entries[0], 32)
    assert search_shards([index], vectors[:1].astype(np.float32), 1, 64).pin_ids[0, 0] == 0


def test_an_index_that_is_damaged_or_gone_is_named(tmp_path):
    root = Root(str(tmp_path))
    entry = write_index(root, day(0), 0, build_index(np.arange(100), unit_vectors(100), PARAMETERS))
    with open(root.path(entry.path), "r+b") as file:
        file.truncate(entry.bytes // 2)
    with pytest.raises(StoreError, match=entry.path):
        load_index(root, entry, 32)
    (tmp_path / entry.path).unlink()
    with pytest.raises(StoreError, match=entry.path):
        load_index(root, entry, 32)


def test_an_empty_shard(tmp_path):
    index, report = build_findable_index(np.empty(0, np.int64), np.empty((0, 32), np.float16), PARAMETERS)
    entry = write_index(Root(str(tmp_path)), day(0), 0, index)
    loaded = load_index(Root(str(tmp_path)), entry, 32)
    assert report.unfindable == 0 and entry.rows == 0
    assert search_shards([loaded], unit_vectors(1).astype(np.float32), 3, 64).pin_ids.tolist() == [[-1, -1, -1]]
