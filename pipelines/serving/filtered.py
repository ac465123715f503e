"""The best pins of queries among those that meet a filter.

An HNSW graph cannot be told which pins may be found: hnswlib's own filter calls Python for every candidate. So few pins
are compared one by one, exactly; of many the index is asked for more than are wanted, and what does not match is left
out. A filter may have nothing to do with what a user likes, or all: where too few of what was found match, more is
asked for, and at last everything is compared.
"""

import math

import numpy as np

from stores.ids import find_sorted
from stores.indexes import IndexShard, search_shards
from stores.neighbours import Neighbours, exact_top_k, ordered_top_k

EXACT_PINS = 20_000  # compared with one query in some milliseconds
SPARE = 1.5  # asked for beyond what would be enough if matching pins were spread evenly
WIDER = 4
MOST_ASKED = 1 << 13  # of the index for one query; then comparing is faster


def best_of(shards: list[IndexShard], queries: np.ndarray, k: int, ef: int, without: list[np.ndarray]) -> Neighbours:
    """The best pins of queries, but those that each is to be answered without.

    Args:
        queries: float32 [Q, d].
        without: Of each query: pins that it must not find, int64, sorted.
    """
    most = max(map(len, without), default=0)
    found = search_shards(shards, queries, k + most, max(ef, k + most))
    return found if not most else _without(found, k, without)


def best_matching(
    shards: list[IndexShard],
    vectors: tuple[np.ndarray, np.ndarray],
    queries: np.ndarray,
    k: int,
    ef: int,
    matching: np.ndarray,
    without: list[np.ndarray],
) -> Neighbours:
    """As `best_of`, among some pins only.

    Args:
        vectors: Of all pins of the release: ids int64 [P], ascending; float16 [P, d].
        matching: Pins that may be found, int64, ascending; those that the release lacks are nobody.
    """
    pin_ids, embeddings = vectors
    rows, there = find_sorted(pin_ids, matching)
    rows, matching = rows[there], matching[there]
    most = max(map(len, without), default=0)
    wanted = k + most
    if len(matching) <= max(EXACT_PINS, wanted):
        exact = exact_top_k(queries, matching, embeddings[rows], min(wanted, len(matching)))
        return _without(exact, k, without)
    found = ordered_top_k(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
    asked = math.ceil(SPARE * wanted * len(pin_ids) / len(matching))
    left = np.arange(len(queries))
    while len(left) and asked <= MOST_ASKED:
        some = search_shards(shards, queries[left], asked, max(ef, asked))
        some = _without(_among(some, matching), k, [without[query] for query in left.tolist()])
        found.pin_ids[left], found.scores[left] = some.pin_ids, some.scores
        left, asked = left[some.pin_ids[:, -1] < 0], asked * WIDER
    if len(left):
        exact = exact_top_k(queries[left], matching, embeddings[rows], wanted)
        exact = _without(exact, k, [without[query] for query in left.tolist()])
        found.pin_ids[left], found.scores[left] = exact.pin_ids, exact.scores
    return found


def _among(found: Neighbours, matching: np.ndarray) -> Neighbours:
    """What was found and matches; the rest becomes nobody."""
    _, kept = find_sorted(matching, found.pin_ids.ravel())
    return _only(found, kept.reshape(found.pin_ids.shape))


def _without(found: Neighbours, k: int, without: list[np.ndarray]) -> Neighbours:
    """The k best of what was found, but those that each query is to be answered without."""
    kept = np.ones(found.pin_ids.shape, bool)
    for query, pins in enumerate(without):
        if len(pins):
            kept[query] = ~find_sorted(pins, found.pin_ids[query])[1]
    found = _only(found, kept)
    return ordered_top_k(found.pin_ids, found.scores, k)


def _only(found: Neighbours, kept: np.ndarray) -> Neighbours:
    return Neighbours(np.where(kept, found.pin_ids, -1), np.where(kept, found.scores, np.float32(-np.inf)))
