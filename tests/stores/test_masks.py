"""Pins that a graph has and does not serve: twins take their place, and no search returns them."""

import numpy as np
import pytest

from stores.files import Root
from stores.index_files import count_indexed, count_twins, write_masked
from stores.indexes import IndexParameters, IndexShard, Twins, build_index, load_shards, search_shards, write_shard
from stores.masks import NO_IDS, mask_pins
from stores.neighbours import exact_top_k, tie_aware_recall
from tests.stores.test_indexes import unit_vectors
from tests.worlds import day

PARAMETERS = IndexParameters()


def ids_of(*pins: int) -> np.ndarray:
    return np.array(pins, np.int64)


def test_the_lowest_twin_that_is_left_takes_the_place_of_a_pin_that_is_masked():
    pin_id, twin_of = ids_of(11, 12, 13, 21, 31), ids_of(10, 10, 10, 20, 30)
    mask, left, of = mask_pins(pin_id, twin_of, ids_of(5, 10, 11, 20, 31))
    assert (mask.nodes.tolist(), mask.served.tolist()) == ([5, 10, 20], [-1, 12, 21])
    assert (left.tolist(), of.tolist()) == ([13], [12]) and len(mask) == 1
    found, scores = mask.apply(np.array([[5, 10, 40], [30, 20, 5]]), np.ones((2, 3), np.float32))
    assert found.tolist() == [[-1, 12, 40], [30, 21, -1]]
    assert np.isneginf(scores[found < 0]).all() and (scores[found >= 0] == 1).all()


def test_a_crowd_that_is_masked_whole_is_nobody():
    mask, left, _ = mask_pins(ids_of(2, 3), ids_of(1, 1), ids_of(1, 2, 3))
    assert mask.served.tolist() == [-1] and not len(left)


def test_order_is_kept_where_the_place_is_taken_by_a_higher_pin():
    """The crowd of 1 is that of 90 now, behind that of 50: twins are looked up by the pin that they are twins of."""
    mask, left, of = mask_pins(ids_of(90, 91, 92, 60), ids_of(1, 1, 1, 50), ids_of(1))
    assert mask.served.tolist() == [90] and left.tolist() == [60, 91, 92] and of.tolist() == [50, 90, 90]


def crowds() -> tuple[np.ndarray, np.ndarray]:
    """1,200 pins: 300 vectors, each of four pins; ids ascend, and the four lie apart."""
    return np.arange(1200) * 3, np.tile(unit_vectors(300), (4, 1))


@pytest.fixture
def masked_and_pair(tmp_path):
    """(what is served: ids and vectors, the shards that serve it), written and read again.

    Of the old pins 140 changed and 40 went; 30 are new. Every fourth of the changed has the vector of an old pin that
    stays, so that one vector is in both graphs.
    """
    ids, vectors = crowds()
    root, random = Root(str(tmp_path)), np.random.default_rng(4)
    hit = np.sort(random.choice(1200, 180, replace=False))
    changed, gone = hit[:140], hit[140:]
    now = vectors.copy()
    now[changed] = unit_vectors(140, seed=7)
    stay = np.setdiff1d(np.arange(1200), hit)
    now[changed[::4]] = vectors[stay[: len(changed[::4])]]
    new_ids, new_vectors = np.arange(30) * 5 + 10_000, unit_vectors(30, seed=8)
    small_ids = np.concatenate([ids[changed], new_ids])
    small = build_index(small_ids, np.concatenate([now[changed], new_vectors]), PARAMETERS)
    entries = [
        *write_shard(root, day(0), 0, build_index(ids, vectors, PARAMETERS)),
        write_masked(root, day(1), 0, ids[hit]),
        *write_shard(root, day(1), 0, small, changed=True),
    ]
    alive = np.concatenate([np.setdiff1d(ids, ids[gone]), new_ids])
    served = np.concatenate([np.delete(now, gone, axis=0), new_vectors])
    return alive, served, entries, load_shards(root, entries, 32)


def test_a_pair_has_every_pin_once(masked_and_pair):
    alive, _, entries, shards = masked_and_pair
    assert len(shards) == 2 and sum(map(len, shards)) == len(alive) == count_indexed(entries)
    np.testing.assert_array_equal(np.sort(np.concatenate([shard.pin_ids() for shard in shards])), alive)
    assert count_twins(entries) == 900 + sum(e.rows for e in entries if "changed" in e.path and "parquet" in e.path)


@pytest.mark.parametrize("k", [1, 10, 200, 1190, 1300])
def test_a_pair_answers_what_exact_search_of_the_pins_of_tonight_does(masked_and_pair, k):
    alive, served, _, shards = masked_and_pair
    queries = np.concatenate([unit_vectors(20, seed=9), served[::60]]).astype(np.float32)
    found, exact = search_shards(shards, queries, k, 512), exact_top_k(queries, alive, served, k)
    assert tie_aware_recall(found, exact) >= 0.999
    assert all(len(np.unique(row[row >= 0])) == (row >= 0).sum() for row in found.pin_ids)
    assert np.isin(found.pin_ids[found.pin_ids >= 0], alive).all()
    assert ((found.pin_ids >= 0).sum(axis=1) == min(k, len(alive))).all()
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-5)


def test_k_is_held_where_all_that_is_near_is_masked():
    """A search for the ten nearest, all of which and thousands more are masked, goes on until it has ten."""
    ids, vectors = np.arange(3000), unit_vectors(3000)
    query = unit_vectors(1, seed=5).astype(np.float32)
    order = np.argsort(-(vectors.astype(np.float32) @ query[0]))
    shard = build_index(ids, vectors, PARAMETERS)
    mask, *_ = mask_pins(NO_IDS, NO_IDS, np.sort(order[:2000]))
    masked = IndexShard(shard.graph, Twins(NO_IDS, NO_IDS), mask)
    both = np.concatenate([query, -query])  # of the other all that is near is there
    found = search_shards([masked], both, 10, 64)
    assert np.array_equal(found.pin_ids[0], order[2000:2010]) and (found.pin_ids[1] >= 0).all()
    assert len(masked) == 1000 and search_shards([masked], both, 1001, 64).pin_ids[:, -1].tolist() == [-1, -1]


def test_a_graph_without_a_mask_is_searched_once(monkeypatch):
    ids, vectors = crowds()
    shard, asked = build_index(ids, vectors, PARAMETERS), []
    search = type(shard.graph).search
    monkeypatch.setattr(type(shard.graph), "search", lambda *of: asked.append(of[2]) or search(*of))
    search_shards([shard], vectors[:3].astype(np.float32), 10, 64)
    assert asked == [10]
