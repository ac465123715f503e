"""PinnerSage, the baseline of several vectors per user (arXiv 2007.03634): clusters of pins, each by its medoid."""

import dataclasses

import numpy as np

from pinnerformer_model.days import DAY_MS
from pinnerformer_model.evaluation import Hits, Moments, pairs_per_query
from pinnerformer_model.ranking import Pairs, hits_in_lists, round_robin, top_k, vector_scorer
from pinnerformer_model.timelines import Timelines, ranges, search_sorted

DAYS = 90
MOST_EVENTS = 400  # Ward linkage grows with their square
DECAY_A_DAY = 0.01
THRESHOLDS = (0.7, 1.0, 1.4, 2.0)
SERVED = 3  # medoids that a request asks with, as in the paper (section 5.2)


@dataclasses.dataclass(frozen=True)
class Clusters:
    """The clusters of U users, C in all; a user's stand together, the most important first, at least one each.

    Attributes:
        offsets: int64 [U + 1].
        pin_row: int64 [C], the medoid of each.
        importance: float64 [C], the sum over its members of exp(-0.01 x age in days).
    """

    offsets: np.ndarray
    pin_row: np.ndarray
    importance: np.ndarray

    def first(self, count: int) -> "Clusters":
        """At most so many a user, the most important ones."""
        lengths = np.minimum(np.diff(self.offsets), count)
        kept = ranges(self.offsets[:-1], lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Clusters(offsets, self.pin_row[kept], self.importance[kept])


def cluster_user(vectors: np.ndarray, age_days: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Clusters one user's pins.

    Ward's agglomerative clustering by the Lance-Williams update, merging while the distance stays within the threshold.

    Args:
        vectors: float [N, D], N > 0, of the pins engaged with; repeats count.
        age_days: float [N].
        threshold: alpha, in the distance of Ward's method (`scipy.cluster.hierarchy.ward`).

    Returns:
        medoid int64 [C], the member with the least summed squared distance to the others; importance float64 [C];
        the most important first.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    vectors = vectors.astype(np.float64)
    n = len(vectors)
    label = fcluster(linkage(vectors, "ward"), threshold, "distance") - 1 if n > 1 else np.zeros(1, np.int64)
    clusters = int(label.max()) + 1
    importance = np.bincount(label, np.exp(-DECAY_A_DAY * age_days), clusters)
    # Summed squared distance to a cluster of m members with sum s and summed squared norm q: m |x|^2 - 2 x.s + q. Only
    # what depends on x is compared.
    size = np.bincount(label, minlength=clusters)
    total = np.zeros((clusters, vectors.shape[1]))
    # `add.at`, since a label repeats; plain indexing would keep its last row only.
    np.add.at(total, label, vectors)
    cost = size[label] * (vectors**2).sum(1) - 2 * (vectors * total[label]).sum(1)
    order = np.lexsort((np.arange(n), cost, label))
    medoid = order[np.searchsorted(label[order], np.arange(clusters))]
    by_importance = np.lexsort((np.arange(clusters), -importance))
    return medoid[by_importance], importance[by_importance]


def cluster_users(timelines: Timelines, vectors: np.ndarray, moments: Moments, threshold: float) -> Clusters:
    """The clusters of every query's user, of the positives of the last 90 days (the newest 400 of them).

    A user without any has one cluster: the newest event.

    Args:
        vectors: float [P, D].
        moments: With one query a user (`once`).
        threshold: See `cluster_user`.
    """
    begin = search_sorted(
        timelines.timestamp_ms,
        timelines.offsets[moments.user],
        timelines.offsets[moments.user + 1],
        moments.cut_ms - DAYS * DAY_MS,
    )
    lengths, pins, importances = [], [], []
    for start, stop, cut in zip(begin.tolist(), moments.stop.tolist(), moments.cut_ms.tolist(), strict=True):
        event = start + np.flatnonzero(timelines.positive[start:stop])[-MOST_EVENTS:]
        if not len(event):
            event = np.array([stop - 1])
        pin = timelines.pin_row[event].astype(np.int64)
        medoid, importance = cluster_user(vectors[pin], (cut - timelines.timestamp_ms[event]) / DAY_MS, threshold)
        lengths.append(len(medoid))
        pins.append(pin[medoid])
        importances.append(importance)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if not lengths:
        return Clusters(offsets, np.empty(0, np.int64), np.empty(0))
    return Clusters(offsets, np.concatenate(pins), np.concatenate(importances))


def oracle_moments(clusters: Clusters, vectors: np.ndarray, moments: Moments) -> Moments:
    """One query a cluster; an oracle hands every positive to the nearest of its user's medoids.

    Args:
        clusters: Of the moments' users, in their order.
        vectors: float [P, D], unit vectors.
        moments: With one query a user.

    Returns:
        C queries, in the order of the clusters; score them by the medoids' vectors.
    """
    lengths = np.diff(clusters.offsets)
    query_user = np.repeat(np.arange(len(lengths)), lengths)
    # Every target beside every cluster of its user.
    target_user = moments.targets.query
    pair_target = np.repeat(np.arange(len(target_user)), lengths[target_user])
    pair_cluster = ranges(clusters.offsets[target_user], lengths[target_user])
    near = np.empty(len(pair_target), np.float32)
    for start in range(0, len(near), 1 << 16):
        piece = slice(start, start + (1 << 16))
        medoid = vectors[clusters.pin_row[pair_cluster[piece]]].astype(np.float32)
        near[piece] = (medoid * vectors[moments.targets.row[pair_target[piece]]]).sum(1)
    # Nearest first, ties by cluster: the first of each target is the oracle's choice.
    order = np.lexsort((pair_cluster, -near, pair_target))
    begins = np.searchsorted(pair_target[order], np.arange(len(target_user)))
    nearest = pair_cluster[order[begins]]
    placed = np.lexsort((moments.targets.row, nearest))
    return Moments(
        user=moments.user[query_user],
        stop=moments.stop[query_user],
        cut_ms=moments.cut_ms[query_user],
        targets=Pairs(nearest[placed], moments.targets.row[placed]),
        new=moments.new[placed],
        others=pairs_per_query(query_user, moments.others.query, moments.others.row),
        known=pairs_per_query(query_user, moments.known.query, moments.known.row),
    )


def served_lists(
    clusters: Clusters, vectors: np.ndarray, moments: Moments, in_corpus: np.ndarray, k: int, new: bool = False
) -> np.ndarray:
    """What PinnerSage serves: the lists of a user's three most important medoids share k places, in turns.

    No oracle: nobody knows beforehand which medoid a positive belongs to.

    Args:
        clusters: Of the moments' users, in their order.
        vectors: float [P, D], unit vectors.
        moments: With one query a user.
        in_corpus: bool [P].
        new: Leave out what the user had engaged with before.

    Returns:
        int64 [Q, min(k, size of the corpus)], best first.
    """
    asked = clusters.first(SERVED)
    lengths = np.diff(asked.offsets)
    excluded = None
    if new:
        owner = np.repeat(np.arange(len(lengths)), lengths)
        excluded = pairs_per_query(owner, *engaged_before(moments))
    scorer = vector_scorer(vectors[asked.pin_row], vectors)
    lists = top_k(scorer, len(asked.pin_row), in_corpus, k, excluded)
    return round_robin(lists, lengths, lists.shape[1])


def engaged_before(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """(query, pin), int64 each: what users had engaged with before the window; of moments with one query a user."""
    known = moments.known
    pins = int(known.row.max(initial=0)) + 1
    fresh = moments.targets.query[moments.new] * pins + moments.targets.row[moments.new]
    # `known` holds the window's positives too: those that were new are the ones not engaged with before.
    before = ~np.isin(known.query * pins + known.row, fresh)
    return known.query[before], known.row[before]


def served_hits(clusters: Clusters, vectors: np.ndarray, moments: Moments, in_corpus: np.ndarray, k: int) -> Hits:
    """Which targets are among the k pins served; see `served_lists`. The targets compete for the places."""
    fresh = Pairs(moments.targets.query[moments.new], moments.targets.row[moments.new])
    return Hits(
        hits_in_lists(served_lists(clusters, vectors, moments, in_corpus, k), moments.targets),
        hits_in_lists(served_lists(clusters, vectors, moments, in_corpus, k, new=True), fresh),
    )
