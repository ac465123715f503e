"""Exact ranking of a corpus for many queries, and what is measured of it (paper, section 7).

A query is a moment of a user: a vector, or whatever else can score every pin. Queries are scored a block at a time
against all candidates, so no index adds its own errors.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from pinnerformer_model.collapse import SHARE, covering_pins
from pinnerformer_model.timelines import ranges

# Row numbers of queries, int64 [B] -> their scores of every candidate, float32 [B, P]; the caller owns the result.
Scorer = Callable[[np.ndarray], torch.Tensor]

_SCORES_AT_ONCE = 1 << 24  # 64 MB of float32
_TOLERANCE = 1e-6  # of the score: float32 sums in different orders agree to this


def vector_scorer(queries: np.ndarray, pins: np.ndarray) -> Scorer:
    """Scores by inner product.

    Args:
        queries: float [Q, d].
        pins: float [P, d].
    """
    columns = torch.from_numpy(np.ascontiguousarray(pins, np.float32)).T

    def score(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(queries[rows], np.float32)) @ columns

    return score


def constant_scorer(scores: np.ndarray) -> Scorer:
    """Scores every query alike: float [P]."""
    row = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
    return lambda rows: row.repeat(len(rows), 1)


def matrix_scorer(scores: np.ndarray) -> Scorer:
    """Scores that are there already: float32 [Q, P]."""
    return lambda rows: torch.from_numpy(scores[rows])


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs (query, candidate), sorted by query; a pair may not repeat.

    Attributes:
        query: int64 [N].
        row: int64 [N], row number of a candidate pin.
    """

    query: np.ndarray
    row: np.ndarray

    def __post_init__(self):
        if len(self.query) != len(self.row) or (np.diff(self.query) < 0).any():
            raise ValueError("pairs must be two arrays of one length, sorted by query")

    @classmethod
    def sorted(cls, query: np.ndarray, row: np.ndarray) -> "Pairs":
        """Sorts by query, then row, and drops repeats."""
        order = np.lexsort((row, query))
        query, row = query[order].astype(np.int64), row[order].astype(np.int64)
        first = np.ones(len(query), bool)
        first[1:] = (np.diff(query) != 0) | (np.diff(row) != 0)
        return cls(query[first], row[first])

    def of(self, start: int, stop: int) -> slice:
        """Where the pairs of queries start to stop stand."""
        return slice(*np.searchsorted(self.query, [start, stop]).tolist())

    def __len__(self) -> int:
        return len(self.query)


def _blocks(num_queries: int, num_candidates: int) -> list[tuple[int, int]]:
    size = max(1, _SCORES_AT_ONCE // max(1, num_candidates))
    return [(start, min(num_queries, start + size)) for start in range(0, num_queries, size)]


def hits_at_k(
    score: Scorer, num_queries: int, in_corpus: np.ndarray, targets: Pairs, excluded: Pairs, k: int = 10
) -> np.ndarray:
    """Whether each target is a hit: fewer than k pins of the corpus are nearer to its query.

    Pins that score the same as the target stand in random order: the figure is the share of orders in which the target
    is a hit. (Otherwise a model that gives every pin one vector would hit everything.) A query's targets do not compete
    with one another.

    Args:
        score: Scores P candidates.
        num_queries: Q.
        in_corpus: bool [P], which candidates compete; a target need not be one of them.
        targets: What is looked for.
        excluded: Pairs that do not compete, besides the targets; for `realtime`, the user's other positives.
        k: > 0.

    Returns:
        float64 [T] in [0, 1], in the order of `targets`.
    """
    outside = torch.from_numpy(~in_corpus)
    k_kept = min(k, len(in_corpus))
    out = np.ones(len(targets))
    for start, stop in _blocks(num_queries, len(in_corpus)):
        mine, apart = targets.of(start, stop), excluded.of(start, stop)
        if mine.start == mine.stop:
            continue
        scores = score(np.arange(start, stop))
        query, row = torch.from_numpy(targets.query[mine] - start), torch.from_numpy(targets.row[mine])
        # Taken before the corpus is cut: a target need not compete to be ranked.
        own = scores[query, row]
        # In place: the scorer gave the block away, and a copy would be another 64 MB.
        scores[:, outside] = -torch.inf
        scores[query, row] = -torch.inf
        scores[torch.from_numpy(excluded.query[apart] - start), torch.from_numpy(excluded.row[apart])] = -torch.inf
        # One threshold per query decides nearly all targets; only those within rounding of it are counted pin by pin.
        kth = scores.topk(k_kept, dim=1).values[:, -1]
        if k_kept < k:
            kth = torch.full_like(kth, -torch.inf)
        slack = _TOLERANCE * kth.abs().clamp(min=1.0)
        slack[torch.isinf(kth)] = 0.0
        hit = (own > (kth + slack)[query]).double()
        tied = torch.nonzero((own - kth[query]).abs() <= slack[query]).flatten()
        for piece in tied.split(max(1, _SCORES_AT_ONCE // len(in_corpus))):
            rows = scores[query[piece]]
            low, high = own[piece] - slack[query[piece]], own[piece] + slack[query[piece]]
            nearer = (rows > high[:, None]).sum(1)
            equal = (rows >= low[:, None]).sum(1) - nearer
            # Of equal + 1 places (the target among its equals) so many are within the first k.
            hit[piece] = ((k - nearer).double() / (equal + 1)).clamp(0.0, 1.0)
        out[mine] = hit.numpy()
    return out


def top_k(score: Scorer, num_queries: int, in_corpus: np.ndarray, k: int, excluded: Pairs | None = None) -> np.ndarray:
    """The k best candidates of the corpus of every query, best first: int64 [Q, min(k, size of the corpus)].

    Args:
        excluded: Pairs that stand after all others; None: none.
    """
    outside = torch.from_numpy(~in_corpus)
    out = np.empty((num_queries, min(k, int(in_corpus.sum()))), np.int64)
    for start, stop in _blocks(num_queries, len(in_corpus)):
        scores = score(np.arange(start, stop))
        scores[:, outside] = -torch.inf
        if excluded is not None:
            apart = excluded.of(start, stop)
            scores[torch.from_numpy(excluded.query[apart] - start), torch.from_numpy(excluded.row[apart])] = -torch.inf
        out[start:stop] = scores.topk(out.shape[1], dim=1).indices.numpy()
    return out


def hits_in_lists(lists: np.ndarray, targets: Pairs) -> np.ndarray:
    """Whether each target is in its query's list; unlike in `hits_at_k`, the targets compete for its places.

    Args:
        lists: int64 [Q, k], rows of candidates.

    Returns:
        float64 [T], 0 or 1, in the order of `targets`.
    """
    return (lists[targets.query] == targets.row[:, None]).any(axis=1).astype(np.float64)


def recall(hits: np.ndarray, user: np.ndarray) -> tuple[float, float]:
    """Mean hit over all targets, and the mean over users of each user's mean; NaN without targets.

    Args:
        hits: float64 [T].
        user: int64 [T], whose target it is.
    """
    if not len(hits):
        return float("nan"), float("nan")
    _, user = np.unique(user, return_inverse=True)
    return float(hits.mean()), float((np.bincount(user, hits) / np.bincount(user)).mean())


def interest_entropy(topics: np.ndarray) -> float:
    """Mean over users of the entropy, in nats, of the topics among a user's best pins.

    Args:
        topics: int64 [U, k], >= 0.
    """
    users, k = topics.shape
    # Ranks, not the topics themselves: those may be any int64, and user x topic would not be one.
    names, rank = np.unique(topics, return_inverse=True)
    codes = np.arange(users)[:, None] * len(names) + rank.reshape(topics.shape)
    found, count = np.unique(codes, return_counts=True)
    user = found // len(names)
    return float((np.log(k) - np.bincount(user, count * np.log(count), users) / k).mean())


def coverage(top: np.ndarray, corpus_size: int, share: float = SHARE) -> float:
    """The smallest share of the corpus that makes up a share of all users' best pins; P90 coverage at 0.9.

    Args:
        top: int64 [U, k], rows of candidates.
        corpus_size: > 0.
        share: In (0, 1].
    """
    return covering_pins(top, share) / corpus_size


def round_robin(lists: np.ndarray, lengths: np.ndarray, k: int) -> np.ndarray:
    """Interleaves a user's several result lists: the best of each, the second best of each, ...; repeats are skipped.

    Args:
        lists: int64 [L, n], one ranked list per cluster, n >= k; a user's stand together, the most important first.
        lengths: int64 [U], lists per user, at least one.
        k: <= n.

    Returns:
        int64 [U, k].
    """
    n = lists.shape[1]
    user = np.repeat(np.arange(len(lengths)), lengths)
    place = ranges(np.zeros(len(lengths), np.int64), lengths)  # of a list among its user's
    # A number that sorts as turns are taken: first the place in the list, then whose turn it is.
    turn = np.arange(n) * lengths.max() + place[:, None]  # [L, n]
    owner, pin, turn = np.repeat(user, n), lists.ravel(), turn.ravel()
    order = np.lexsort((turn, pin, owner))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(owner[order]) != 0) | (np.diff(pin[order]) != 0)
    kept = order[first]
    kept = kept[np.lexsort((turn[kept], owner[kept]))]
    begins = np.searchsorted(owner[kept], np.arange(len(lengths)))
    return pin[kept][begins[:, None] + np.arange(k)]


def choose_corpus(
    candidates: int, size: int, random: np.random.Generator, popularity: np.ndarray | None = None
) -> np.ndarray:
    """Draws the pins that compete.

    Args:
        candidates: P.
        size: Pins drawn; all of them if there are no more.
        random: Of the draw.
        popularity: float [P], >= 0: draw `size` times in proportion to it, with replacement, and keep what was drawn;
            None: uniformly, without.

    Returns:
        bool [P].
    """
    chosen = np.zeros(candidates, bool)
    if popularity is None:
        chosen[random.choice(candidates, min(size, candidates), replace=False)] = True
    else:
        chosen[random.choice(candidates, size, p=popularity / popularity.sum())] = True
    return chosen
