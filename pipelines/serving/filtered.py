"""The best pins of queries among those that meet a filter.

An HNSW graph cannot be told which pins may be found: hnswlib's own filter calls Python for every candidate. So few pins
are compared one by one, exactly; of many the index is asked for more than are wanted, and what does not match is left
out. A filter may have nothing to do with what a user likes, or all: where too few of what was found match, more is
asked for, and at last everything is compared.
"""

import functools
import math

import numpy as np

from stores.ids import find_sorted
from stores.indexes import IndexShard, search_shards
from stores.neighbours import Neighbours, exact_top_k, ordered_top_k

EXACT_PINS = 20_000  # compared with one query in some milliseconds
SPARE = 1.5  # asked for beyond what would be enough if matching pins were spread evenly
WIDER = 4
MOST_ASKED = 1 << 13  # of the index for one query; then comparing is faster


class Matching:
    """Pins of a release that a filter lets through: what is the same for every question with that filter.

    Args:
        vectors: Of all pins of the release: ids int64 [P], ascending; float16 [P, d].
        matching: Pins that may be found, int64, ascending; those that the release lacks are nobody.

    Attributes:
        let_through: bool [P].
        few: Whether they are compared one by one.
    """

    def __init__(self, vectors: tuple[np.ndarray, np.ndarray], matching: np.ndarray):
        self._pin_ids, self._embeddings = vectors
        at, there = find_sorted(self._pin_ids, matching)
        self.let_through = np.zeros(len(self._pin_ids), bool)
        self.let_through[at[there]] = True
        self._count = int(there.sum())
        self.few = self._count <= EXACT_PINS

    def __len__(self) -> int:
        return self._count

    def holds(self, pin_ids: np.ndarray) -> np.ndarray:
        """Which of pins, int64 of any shape, are let through: bool of that shape."""
        at, there = find_sorted(self._pin_ids, pin_ids.ravel())
        there[there] = self.let_through[at[there]]
        return there.reshape(pin_ids.shape)

    def exact(self, queries: np.ndarray, k: int) -> Neighbours:
        """The best of all that are let through, each compared; queries float32 [Q, d]."""
        pin_ids, embeddings = self._rows if self.few else self._read()
        return exact_top_k(queries, pin_ids, embeddings, min(k, self._count))

    # Taking the rows out and making float32 of them is most of what comparing one query with few pins costs.
    @functools.cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        pin_ids, embeddings = self._read()
        return pin_ids, embeddings.astype(np.float32)

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(self.let_through)
        return self._pin_ids[rows], self._embeddings[rows]


def best_of(shards: list[IndexShard], queries: np.ndarray, k: int, ef: int, without: list[np.ndarray]) -> Neighbours:
    """The best pins of queries, but those that each is to be answered without.

    Args:
        queries: float32 [Q, d].
        without: Of each query: pins that it must not find, int64, sorted.
    """
    if len(queries) == 1:  # asked for fewer, and for more only where too few are left
        return search_shards(shards, queries, k, ef, without[0])
    most = max(map(len, without), default=0)
    found = search_shards(shards, queries, k + most, max(ef, k + most))
    return found if not most else _without(found, k, without)


def best_matching(
    shards: list[IndexShard], queries: np.ndarray, k: int, ef: int, matching: Matching, without: list[np.ndarray]
) -> Neighbours:
    """As `best_of`, among some pins only."""
    most = max(map(len, without), default=0)
    wanted = k + most
    if matching.few or len(matching) <= wanted:
        return _without(matching.exact(queries, wanted), k, without)
    found = ordered_top_k(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
    asked = math.ceil(SPARE * wanted * len(matching.let_through) / len(matching))
    left = np.arange(len(queries))
    while len(left) and asked <= MOST_ASKED:
        some = search_shards(shards, queries[left], asked, max(ef, asked))
        some = _without(_only(some, matching.holds(some.pin_ids)), k, [without[query] for query in left.tolist()])
        found.pin_ids[left], found.scores[left] = some.pin_ids, some.scores
        left, asked = left[some.pin_ids[:, -1] < 0], asked * WIDER
    if len(left):
        exact = _without(matching.exact(queries[left], wanted), k, [without[query] for query in left.tolist()])
        found.pin_ids[left], found.scores[left] = exact.pin_ids, exact.scores
    return found


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
