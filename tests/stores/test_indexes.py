"""Index shards: every pin found, the same bytes."""

import collections
import itertools
from importlib import metadata

import numpy as np
import pytest

from stores import hnsw, indexes
from stores.errors import StoreError
from stores.files import Root
from stores.hnsw import HnswGraph
from stores.index_files import count_indexed
from stores.indexes import (
    APART_SHARE,
    EF_CANDIDATES,
    NO_TWINS,
    IndexParameters,
    IndexShard,
    build_findable_index,
    build_index,
    build_shard,
    builder_id,
    find_pins,
    load_shards,
    search_shards,
    write_built,
    write_shard,
)
from stores.neighbours import TIE, exact_top_k, tie_aware_recall
from tests.worlds import day

PARAMETERS = IndexParameters()


def unit_vectors(count: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_shards_find_what_exact_search_finds():
    vectors, queries = unit_vectors(2000), unit_vectors(50, seed=1).astype(np.float32)
    ids = np.arange(2000) * 3
    shards = [build_index(ids[i::4], vectors[i::4], PARAMETERS) for i in range(4)]
    exact = exact_top_k(queries, ids, vectors, 10)
    assert tie_aware_recall(search_shards(shards, queries, 10, ef=256), exact) >= 0.99
    rows = np.arange(500)
    graphs = [HnswGraph.build(ids[i::4], vectors[i::4], rows, PARAMETERS) for i in range(4)]
    narrow = search_shards([IndexShard(graph, NO_TWINS) for graph in graphs], queries, 10, ef=10)
    assert tie_aware_recall(narrow, exact) < 1  # the measure can fail


class SequentialSums:
    """In place of hnswlib's exact search: inner products summed up from left to right, as a build without SSE does."""

    def __init__(self, space: str, dim: int):
        self.vectors = np.empty((0, dim), np.float32)

    def init_index(self, count: int) -> None:
        pass

    def add_items(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def knn_query(self, queries: np.ndarray, k: int, num_threads: int) -> tuple[None, np.ndarray]:
        products = queries[:, None, :] * self.vectors[None, :, :]
        return None, 1 - np.add.accumulate(products, axis=2, dtype=np.float32)[..., -1]


def test_a_build_that_rounds_otherwise_has_another_name(monkeypatch):
    name, version, rounding = HnswGraph.build_id().split()
    assert (name, version) == ("hnswlib", metadata.version("hnswlib")) and builder_id() == HnswGraph.build_id()
    hnsw._rounding.cache_clear()
    assert HnswGraph.build_id().split()[2] == rounding  # it is the same every time
    hnsw._rounding.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(hnsw.hnswlib, "BFIndex", SequentialSums)
        assert HnswGraph.build_id().split()[2] != rounding
    hnsw._rounding.cache_clear()


def crowded() -> tuple[np.ndarray, np.ndarray]:
    """2,500 pins, ids far apart: three crowds of 700 equal vectors, one after the other, and 400 that stand alone."""
    vectors = np.concatenate([np.repeat(unit_vectors(3), 700, 0), unit_vectors(400, seed=3)])
    return np.arange(2500) * 7 + 2, vectors


def test_every_pin_is_found_among_thousands_of_equal_ones():
    """A graph of all of them misses 109, however wide the search: crowds link to themselves alone."""
    ids, vectors = crowded()
    shard, report = build_findable_index(ids, vectors, PARAMETERS)
    assert (report.unfindable, report.rebuilds, report.find_ef) == (0, 0, 64)
    assert len(shard.graph) == 403 and len(shard) == 2500
    exact = exact_top_k(vectors.astype(np.float32), ids, vectors, 10)
    found = search_shards([shard], vectors.astype(np.float32), 10, 64)
    assert tie_aware_recall(found, exact) == 1
    lowest = np.repeat(np.arange(3) * 700, 700)[:, None] + np.arange(10)
    np.testing.assert_array_equal(found.pin_ids[:2100], ids[lowest])  # among equals the lowest ids


def test_a_search_for_more_than_a_crowd_goes_on_behind_it():
    ids, vectors = crowded()
    shards = [build_index(ids[i::3], vectors[i::3], PARAMETERS) for i in range(3)]
    queries = vectors[:1].astype(np.float32)
    exact = exact_top_k(queries, ids, vectors, 710)
    found = search_shards(shards, queries, 710, 800)
    np.testing.assert_array_equal(found.pin_ids, exact.pin_ids)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)


@pytest.mark.parametrize("k", [12, 50, 400])
def test_shards_and_twins_are_ordered_as_one_list(k):
    """Crowds of pins that tie, within a shard and between shards: of equal scores the lowest ids, whoever owns them.

    A graph has 12 vectors at most: asked for fewer, it says itself which of those that tie it finds.
    """
    draw = np.random.default_rng(4)
    # Of these scores every one is exact, so that pins of different vectors tie to the last bit.
    vectors = np.eye(12, dtype=np.float16)[draw.integers(12, size=300)]
    ids = np.sort(draw.choice(10_000, 300, replace=False))
    shards = [build_index(ids[i::3], vectors[i::3], PARAMETERS) for i in range(3)]
    queries = draw.integers(3, size=(40, 12)).astype(np.float32)
    scores = queries @ vectors.astype(np.float32).T
    order = np.array([np.lexsort((ids, -row)) for row in scores])[:, :k]
    found, kept = search_shards(shards, queries, k, 64), min(k, 300)
    np.testing.assert_array_equal(found.pin_ids[:, :kept], ids[order])
    np.testing.assert_array_equal(found.scores[:, :kept], np.take_along_axis(scores, order, 1))
    assert (found.pin_ids[:, kept:] == -1).all() and np.isneginf(found.scores[:, kept:]).all()
    one = search_shards(shards, queries[3:4], k, 64)
    np.testing.assert_array_equal(one.pin_ids, found.pin_ids[3:4])


def shards_of_clusters() -> tuple[list[IndexShard], np.ndarray, np.ndarray]:
    """Six shards of a cluster each, so that the best pins of a query lie in one of them; a fifth of the pins has
    another one's vector. Ids and vectors beside them."""
    vectors = clustered(1800, 6, 0.5)
    vectors = vectors[np.argsort((vectors @ vectors[:6].T.astype(np.float32)).argmax(axis=1), kind="stable")]
    vectors[5::5] = vectors[3::5][: len(vectors[5::5])]
    ids = np.random.default_rng(1).permutation(10_000)[:1800]
    shards = []
    for rows in np.split(np.arange(1800), 6):
        rows = rows[np.argsort(ids[rows])]
        shards.append(build_index(ids[rows], vectors[rows], IndexParameters(16, 300)))
    return shards, ids, vectors


@pytest.mark.parametrize("k", [5, 60, 200])
@pytest.mark.parametrize("excluded", [0, 90, 600])
def test_a_shard_that_has_most_of_the_best_is_asked_for_all_of_them(k, excluded):
    shards, ids, vectors = shards_of_clusters()
    for seed in range(3):
        query = vectors[seed * 700 : seed * 700 + 1].astype(np.float32)
        # The nearest above all: whose history is full of what is near is asked for far more than k.
        exact = exact_top_k(query, ids, vectors, excluded + k + 100)
        near = np.random.default_rng(seed).permutation(exact.pin_ids[0])[:excluded]
        left = np.flatnonzero(~np.isin(exact.pin_ids[0], near))[:k]
        found = search_shards(shards, query, k, 600, np.sort(near))
        np.testing.assert_allclose(found.scores[0], exact.scores[0, left], atol=1e-6)
        assert not np.isin(found.pin_ids, near).any() and len(np.unique(found.pin_ids)) == k
        batch = search_shards(shards, np.repeat(query, 20, axis=0), k, 600, np.sort(near))
        np.testing.assert_array_equal(batch.pin_ids, np.repeat(found.pin_ids, 20, axis=0))


def test_a_query_of_which_all_is_excluded_is_left_without_an_answer():
    ids, vectors = crowded()
    shard = build_index(ids, vectors, PARAMETERS)
    found = search_shards([shard], vectors[:1].astype(np.float32), 3, 64, ids[:-1])
    assert found.pin_ids.tolist() == [[ids[-1], -1, -1]]
    assert np.isneginf(found.scores[0, 1:]).all()


def test_shards_are_not_asked_for_what_they_hardly_have(monkeypatch):
    """Of 100 pins a shard of four has 25, give or take: the rest of a hundred from each would be thrown away."""
    ids, vectors = np.arange(4000), unit_vectors(4000)
    shards = [build_index(ids[i::4], vectors[i::4], PARAMETERS) for i in range(4)]
    asked, search = [], HnswGraph.search
    monkeypatch.setattr(HnswGraph, "search", lambda self, q, k, *rest: asked.append(k) or search(self, q, k, *rest))
    queries = unit_vectors(200, seed=1).astype(np.float32)
    whole = search_shards(shards, queries, 100, 100)
    assert asked == [43] * 4
    asked.clear()
    near = np.sort(whole.pin_ids[0])
    search_shards(shards, queries[:1], 100, 100, near)
    assert max(asked) == 75  # 200 pins of which 100 are excluded


def test_pins_that_no_link_leads_to_are_left_out_of_an_answer_and_do_not_stop_it():
    vectors, ids = clustered(300, 30, 0.1), np.arange(300)
    shard = build_index(ids, vectors, IndexParameters(2, 2))
    queries = vectors[::30].astype(np.float32)
    found = search_shards([shard], queries, 300, 300)
    reached = (found.pin_ids >= 0).sum(axis=1)
    assert (0 < reached).all() and (reached < 300).any()
    for row, scores in zip(found.pin_ids, found.scores, strict=True):
        assert len(np.unique(row[row >= 0])) == (row >= 0).sum() == np.isfinite(scores).sum()


def test_no_shard_and_no_query_are_answered():
    assert search_shards([], np.zeros((2, 8), np.float32), 3, 64).pin_ids.tolist() == [[-1] * 3] * 2
    shard = build_index(*crowded(), PARAMETERS)
    assert search_shards([shard], np.zeros((0, 32), np.float32), 3, 64).pin_ids.shape == (0, 3)


def test_a_pin_that_is_not_in_the_index_is_missed():
    vectors = unit_vectors(500)
    index = build_index(np.arange(499), vectors[:499], PARAMETERS)
    assert find_pins(index, np.arange(500), vectors)[1].tolist() == [499]


def clustered(count: int, clusters: int, noise: float, dim: int = 32) -> np.ndarray:
    """Clusters hang together by few links: what makes a pin hard to find."""
    draw = np.random.default_rng(clusters)
    vectors = draw.standard_normal((clusters, dim))[draw.integers(clusters, size=count)]
    vectors = vectors + noise * draw.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


HARD = [
    (1, 9.0, IndexParameters(2, 4)),
    (40, 0.5, IndexParameters(2, 8)),
    (300, 0.1, IndexParameters(4, 8)),
    (300, 0.1, IndexParameters(8, 16)),
]


@pytest.mark.parametrize(("clusters", "noise", "parameters"), [(30, 0.5, PARAMETERS), *HARD])
def test_the_least_width_is_that_of_a_search_for_every_pin_at_every_width(clusters, noise, parameters):
    vectors, ids = clustered(1500, clusters, noise), np.arange(1500) * 3
    shard = build_index(ids, vectors, parameters)
    queries, kept = vectors.astype(np.float32), ~np.isin(ids, shard.twins.pin_id)
    own = (queries * queries).sum(axis=1)
    found = {}
    for ef in (*indexes._PROBES, *EF_CANDIDATES):
        pins, scores = shard.graph.search(queries, min(10, ef), ef, threads=1)
        found[ef] = (pins == ids[:, None]).any(axis=1) | (scores.max(axis=1) >= own - TIE)
    missed = [int((kept & ~found[ef]).sum()) for ef in EF_CANDIDATES]
    for share in (0.0, 0.002, 0.01, 0.1, 0.5):
        enough = [ef for ef, lacking in zip(EF_CANDIDATES, missed, strict=True) if lacking <= share * len(ids)]
        expected = (enough or [512])[0]
        if expected == 64 and not missed[1]:
            expected = 128 if missed[0] else 64  # not worth a second graph
        least, rows = find_pins(shard, ids, vectors, share)
        assert least == expected
        np.testing.assert_array_equal(rows, np.flatnonzero(kept & ~found[least]))
    # What that rests on: no width misses what a narrower one found.
    assert not any((found[a] & ~found[b]).any() for a, b in itertools.pairwise(found))
    assert (missed[0] > 0) == ((clusters, noise, parameters) in HARD)


def test_few_pins_that_a_graph_misses_get_one_of_their_own(tmp_path):
    """Two nodes are lost, and one of those has a twin, which would be lost with it; some only wide searches find."""
    vectors, ids = clustered(1500, 300, 0.1), np.arange(1500) * 3
    alone = build_index(ids, vectors, IndexParameters(4, 8))
    widest, lost = find_pins(alone, ids, vectors)
    assert widest == 512 and len(lost) == 2
    hard = find_pins(alone, ids, vectors, APART_SHARE)[1]
    assert set(lost) < set(hard)  # others a wide search would find
    ids, vectors = np.append(ids, 9999), np.append(vectors, vectors[lost[1:]], axis=0)
    built = build_shard(ids, vectors, IndexParameters(4, 8))
    assert built.apart.tolist() == [*ids[hard], 9999] and built.rebuilds == 0
    assert built.graphs == ((256, 0), (64, 0))  # at 128 more than one in a hundred are missed
    root = Root(str(tmp_path))
    files = write_built(root, day(0), 0, built)
    assert files[0] == write_shard(root, day(0), 0, alone)[0]  # the graph is the one that it was
    assert count_indexed(files) == len(ids)
    shards = load_shards(root, files, 32)
    np.testing.assert_array_equal(np.sort(np.concatenate([shard.pin_ids() for shard in shards])), ids)
    found = search_shards(shards, vectors.astype(np.float32), 2, 256)
    assert (found.pin_ids == ids[:, None]).any(axis=1).all()
    assert all(len(np.unique(row)) == 2 for row in found.pin_ids)


def test_a_graph_that_misses_many_is_built_again_with_more_links():
    vectors, ids = clustered(3000, 40, 0.5), np.arange(3000)
    built = build_shard(ids, vectors, IndexParameters(4, 12))
    assert len(find_pins(build_index(ids, vectors, IndexParameters(4, 12)), ids, vectors)[1]) > APART_SHARE * 3000
    assert built.rebuilds == 1 and len(built.apart) <= APART_SHARE * 3000
    again = build_index(ids, vectors, IndexParameters(8, 24))
    np.testing.assert_array_equal(built.apart, ids[find_pins(again, ids, vectors, APART_SHARE)[1]])
    assert [unfindable for _, unfindable in built.graphs] == [0] * len(built.graphs)


def test_pins_that_are_easy_to_find_are_not_searched_widely(monkeypatch):
    vectors, searched = unit_vectors(2000), collections.Counter()

    def search(self, queries, k, ef, threads):
        searched[ef] += len(queries)
        return found(self, queries, k, ef, threads)

    found = HnswGraph.search
    monkeypatch.setattr(HnswGraph, "search", search)
    assert build_findable_index(np.arange(2000), vectors, PARAMETERS)[1].find_ef == 64
    assert searched[4] == 2000 and searched[64] < 20


def test_the_same_pins_give_the_same_bytes_and_come_back(tmp_path):
    ids, vectors = crowded()
    roots = [Root(str(tmp_path / name)) for name in ("a", "b")]
    written = [write_shard(root, day(0), 1, build_findable_index(ids, vectors, PARAMETERS)[0]) for root in roots]
    assert written[0] == written[1] and [entry.rows for entry in written[0]] == [403, 2097]
    for entry in written[0]:
        assert roots[0].read_bytes(entry.path) == roots[1].read_bytes(entry.path)
    (shard,) = load_shards(roots[0], written[0], 32)
    found = search_shards([shard], vectors[[0, 1400]].astype(np.float32), 3, 64)
    assert found.pin_ids.tolist() == [[2, 9, 16], [9802, 9809, 9816]]


def test_pins_that_are_all_different_have_no_file_of_twins(tmp_path):
    shard = build_index(np.arange(100), unit_vectors(100), PARAMETERS)
    assert [entry.rows for entry in write_shard(Root(str(tmp_path)), day(0), 0, shard)] == [100]


def test_an_index_file_that_is_damaged_or_gone_is_named(tmp_path):
    root = Root(str(tmp_path))
    for number, entry in enumerate(write_shard(root, day(0), 0, build_index(*crowded(), PARAMETERS))):
        others = [e for e in write_shard(root, day(0), 0, build_index(*crowded(), PARAMETERS)) if e != entry]
        with open(root.path(entry.path), "r+b") as file:
            file.truncate(entry.bytes // 2)
        with pytest.raises(StoreError, match=entry.path):
            load_shards(root, [entry, *others], 32)
        (tmp_path / entry.path).unlink()
        with pytest.raises(StoreError, match=entry.path):
            load_shards(root, [entry, *others], 32)
        assert number < 2


def test_a_shard_without_its_graph_is_refused(tmp_path):
    root = Root(str(tmp_path))
    _, twins = write_shard(root, day(0), 5, build_index(*crowded(), PARAMETERS))
    with pytest.raises(StoreError, match="names 0 graphs for index shard 5"):
        load_shards(root, [twins], 32)


def test_an_empty_shard(tmp_path):
    root = Root(str(tmp_path))
    shard, report = build_findable_index(np.empty(0, np.int64), np.empty((0, 32), np.float16), PARAMETERS)
    written = write_shard(root, day(0), 0, shard)
    loaded = load_shards(root, written, 32)
    assert report.unfindable == 0 and [entry.rows for entry in written] == [0]
    assert search_shards(loaded, unit_vectors(1).astype(np.float32), 3, 64).pin_ids.tolist() == [[-1, -1, -1]]


def test_a_flipped_bit_in_a_graph_is_named_before_it_is_followed(tmp_path):
    root, vectors = Root(str(tmp_path)), unit_vectors(200)
    entries = write_shard(root, day(0), 0, build_index(np.arange(200), vectors, PARAMETERS))
    assert len(load_shards(root, entries, 32)) == 1
    path = root.path(entries[0].path)
    with open(path, "r+b") as file:
        file.seek(entries[0].bytes // 2)
        byte = file.read(1)[0]
        file.seek(entries[0].bytes // 2)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(StoreError, match=r"its content is not what its manifest says \(sha256\)"):
        load_shards(root, entries, 32)
