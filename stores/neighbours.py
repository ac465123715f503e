"""The best pins of queries: exact search, merged answers, and recall of one answer against another."""

import dataclasses

import numpy as np

from stores.ids import find_sorted

GROUP = 64  # scores whose maximum says whether one of them can be among the best
TIE = 1e-5  # scores this near are the same: float32 sums of 256 products differ by their order


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k best pins of each query, best first, equal scores by pin_id.

    Attributes:
        pin_ids: int64 [Q, k]; -1 where there are fewer than k pins.
        scores: float32 [Q, k], inner products; -inf where there is no pin.
    """

    pin_ids: np.ndarray
    scores: np.ndarray

    def take(self, rows: slice) -> "Neighbours":
        """The answers to some of the queries."""
        return Neighbours(self.pin_ids[rows], self.scores[rows])


def ordered_top_k(pin_ids: np.ndarray, scores: np.ndarray, k: int) -> Neighbours:
    """Orders candidates, best first and equal scores by pin_id, and keeps or pads to k.

    Args:
        pin_ids: int64 [Q, C]; -1 where there is none.
        scores: float32 [Q, C]; -inf where there is none.
    """
    rows = np.arange(len(scores))[:, None]
    order = np.argsort(-scores, axis=1)
    ordered = scores[rows, order]
    # Two keys cost thirty times one: only rows that have a tie are sorted by both.
    tied = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > -np.inf)
    if tied.any():
        again = tied.any(axis=1)
        order[again] = np.lexsort((pin_ids[again], -scores[again]), axis=-1)
    pin_ids, scores = pin_ids[rows, order[:, :k]], ordered[:, :k]
    lacking = k - pin_ids.shape[1]
    if lacking > 0:
        pin_ids = np.hstack([pin_ids, np.full((len(pin_ids), lacking), -1)])
        scores = np.hstack([scores, np.full((len(scores), lacking), -np.inf, np.float32)])
    return Neighbours(pin_ids.astype(np.int64, copy=False), scores.astype(np.float32, copy=False))


def exact_top_k(queries: np.ndarray, pin_ids: np.ndarray, embeddings: np.ndarray, k: int) -> Neighbours:
    """The k largest inner products, every pin looked at.

    Args:
        queries: float32 [Q, d].
        pin_ids: int64 [P].
        embeddings: float16 or float32 [P, d].
    """
    best = ordered_top_k(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
    # A block of scores at a time: all of them would be queries times pins.
    rows = 1 << 14
    for start in range(0, len(pin_ids), rows):
        scores = queries @ embeddings[start : start + rows].astype(np.float32, copy=False).T  # [Q, rows]
        at = _best_columns(scores, min(k, scores.shape[1]))
        chosen = Neighbours(pin_ids[start : start + rows][at], np.take_along_axis(scores, at, 1))
        best = merge_top_k([best, chosen], k)
    return best


def _best_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """int64 [Q, k]: where the k largest of float32 [Q, C], 0 < k <= C, stand in each row, in any order.

    They stand in the k groups of the largest maxima: few columns are left to partition, which is the expensive part.
    """
    groups = scores.shape[1] // GROUP
    # Then every group would be chosen, and the maxima were for nothing.
    if groups <= k:
        return np.argpartition(scores, -k, axis=1)[:, -k:]
    whole = groups * GROUP
    maxima = scores[:, :whole].reshape(len(scores), groups, GROUP).max(axis=2)  # [Q, groups]
    best = np.argpartition(maxima, -k, axis=1)[:, -k:]
    columns = (best[:, :, None] * GROUP + np.arange(GROUP)).reshape(len(scores), -1)
    rest = np.broadcast_to(np.arange(whole, scores.shape[1]), (len(scores), scores.shape[1] - whole))
    columns = np.concatenate([columns, rest], axis=1)  # [Q, k * GROUP + rest]
    at = np.argpartition(np.take_along_axis(scores, columns, 1), -k, axis=1)[:, -k:]
    return np.take_along_axis(columns, at, 1)


def merge_top_k(parts: list[Neighbours], k: int) -> Neighbours:
    """The k best of several answers to the same queries."""
    return ordered_top_k(
        np.concatenate([part.pin_ids for part in parts], axis=1),
        np.concatenate([part.scores for part in parts], axis=1),
        k,
    )


def tie_aware_recall(found: Neighbours, exact: Neighbours) -> float:
    """Share of the true k best that were found; a pin that scores as well as the k-th best counts as one of them.

    Args:
        found: From the index.
        exact: From `exact_top_k` over all shards, of the same queries and k.
    """
    hits, wanted = count_found(found, exact)
    return hits / wanted if wanted else 1.0


def count_found(found: Neighbours, exact: Neighbours) -> tuple[int, int]:
    """(of the true k best of all queries those that were found, all of them); arguments as of `tie_aware_recall`."""
    wanted = np.isfinite(exact.scores)
    last = np.where(wanted, exact.scores, np.inf).min(axis=1, keepdims=True)
    # By score and not by id: of pins that tie for the last place any may be returned, and none of them is wrong.
    good = np.isfinite(found.scores) & (found.scores >= last - TIE)
    return int(np.minimum(good.sum(axis=1), wanted.sum(axis=1)).sum()), int(wanted.sum())


def without(best: Neighbours, exclude: np.ndarray, k: int) -> Neighbours:
    """The first k of answers that are not excluded.

    Args:
        exclude: Pin ids, int64 [E], sorted.
    """
    rows = np.arange(len(best.pin_ids))[:, None]
    excluded = find_sorted(exclude, best.pin_ids.ravel())[1].reshape(best.pin_ids.shape)
    kept = np.argsort(excluded, axis=1, kind="stable")[:, :k]  # those that stay come first, in their order
    pin_ids = np.where(excluded, -1, best.pin_ids)[rows, kept]
    return Neighbours(pin_ids, np.where(pin_ids < 0, np.float32(-np.inf), best.scores[rows, kept]))
