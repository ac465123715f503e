"""What a trained model is compared with, of the simple kind: popularity, a user's own counts, the mean of last vectors.

What learns from who engaged with what is in `co_engagement`, clusters of a user's pins in `pinnersage`.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pinnerformer_model.days import DAY_MS
from pinnerformer_model.evaluation import Moments
from pinnerformer_model.ranking import Scorer
from pinnerformer_model.timelines import Timelines, ranges, search_sorted
from pinnerformer_model.vectors import unit

if TYPE_CHECKING:  # an extra: whoever calls brings it, and --help does without
    import scipy.sparse as sparse

MEAN_WINDOWS = (1, 3, 10, 30, 100, 300)


def popularity(timelines: Timelines, cut_ms: int, pins: int, days: int | None = None) -> np.ndarray:
    """How often each pin was engaged with positively before a moment: float64 [P].

    Args:
        timelines: Of the users whose taste counts.
        pins: P.
        days: Count only this many days before the moment; None: all.
    """
    counted = timelines.positive & (timelines.timestamp_ms < cut_ms)
    if days is not None:
        counted &= timelines.timestamp_ms >= cut_ms - days * DAY_MS
    return np.bincount(timelines.pin_row[counted], minlength=pins).astype(np.float64)


def whitening(vectors: np.ndarray, most: int) -> np.ndarray:
    """The principal directions of vectors, the strongest first, each divided by its strength.

    A hundredth of the largest variance is added to all, so that noise is not blown up. Scaled so that the mean squared
    norm of a vector is 1 afterwards.

    Args:
        vectors: float [P, D]; some 20,000 of them, evenly spaced, are looked at.
        most: Directions kept at most.

    Returns:
        float32 [min(most, D), D], a direction a row.
    """
    sample = np.array(vectors[:: max(1, len(vectors) // 20_000)], np.float64)
    # Not centred: what all vectors have in common is their strongest direction, and is evened out with the others.
    strength, directions = np.linalg.eigh(sample.T @ sample / len(sample))
    strength, directions = strength[::-1], directions[:, ::-1]
    scaled = (directions / np.sqrt(strength + 0.01 * strength[0]))[:, :most]
    norm = np.sqrt(np.square(sample @ scaled).sum(1).mean())
    return (scaled / norm).T.astype(np.float32)


def whiten(vectors: np.ndarray) -> np.ndarray:
    """Whitened vectors, at unit length: float32 [P, D].

    Args:
        vectors: float [P, D].
    """
    turn = whitening(vectors, vectors.shape[1])
    return unit(np.asarray(vectors, np.float32) @ turn.T)


def mean_of_last(timelines: Timelines, vectors: np.ndarray, moments: Moments, window: int) -> np.ndarray:
    """The mean of the vectors of a user's newest events, at unit length: float32 [Q, D].

    Args:
        vectors: float [P, D].
        window: How many events; fewer where there are fewer.
    """
    lengths = np.minimum(moments.stop - timelines.offsets[moments.user], window)
    out = np.empty((len(moments), vectors.shape[1]), np.float32)
    for start in range(0, len(moments), 4096):  # so that few vectors are gathered at a time
        piece = slice(start, start + 4096)
        event = ranges(moments.stop[piece] - lengths[piece], lengths[piece])
        gathered = vectors[timelines.pin_row[event]].astype(np.float32)
        edges = np.concatenate([[0], np.cumsum(lengths[piece])[:-1]])
        # Sums of ragged runs in one call; no run is empty, since every query has an event before it.
        out[piece] = np.add.reduceat(gathered, edges, axis=0)
    return unit(out)


def count_engagements(
    timelines: Timelines,
    starts: np.ndarray,
    stops: np.ndarray,
    rows: np.ndarray,
    pins: int,
    *,
    positive: bool = False,
    last: int | None = None,
) -> "sparse.csr_array":
    """How often users engaged with each pin: float32 [K, P], sparse.

    Args:
        starts, stops: int64 [K], where the events counted begin and end in the timelines.
        rows: int64 [K], which row of the result each range counts in, rising.
        pins: P.
        positive: Count positive events only.
        last: Of every user, only so many of the newest that count; None: all.
    """
    event = ranges(starts, np.maximum(stops - starts, 0))
    row = np.repeat(np.arange(len(rows)), np.maximum(stops - starts, 0))
    if positive:
        kept = timelines.positive[event]
        event, row = event[kept], row[kept]
    if last is not None:
        ends = np.cumsum(np.bincount(row, minlength=len(rows)))
        kept = ends[row] - np.arange(len(row)) <= last
        event, row = event[kept], row[kept]
    from scipy import sparse

    ones = np.ones(len(event), np.float32)
    found = sparse.coo_array((ones, (rows[row], timelines.pin_row[event])), (len(rows), pins)).tocsr()
    found.sum_duplicates()
    return found


def own_history(
    timelines: Timelines,
    moments: Moments,
    pins: int,
    *,
    positive: bool,
    last: int | None = None,
    days: int | None = None,
) -> "sparse.csr_array":
    """How often the user of every query engaged with each pin before its moment: float32 [Q, P], sparse.

    Args:
        pins: P.
        positive, last: See `count_engagements`.
        days: Only so many days before the moment; None: all.
    """
    starts = timelines.offsets[moments.user]
    if days is not None:
        begins = moments.cut_ms - days * DAY_MS
        starts = search_sorted(timelines.timestamp_ms, starts, moments.stop, begins)
    rows = np.arange(len(moments))
    return count_engagements(timelines, starts, moments.stop, rows, pins, positive=positive, last=last)


def own_counts_scorer(own: "sparse.csr_array", popular: np.ndarray) -> Scorer:
    """Scores by how often the user engaged with a pin; among equals, and all that are new, by popularity.

    Args:
        own: [Q, P], counts.
        popular: float64 [P], >= 0.
    """
    # One engagement of one's own outweighs everybody else's. Exact in float32 up to 16 million.
    weight = float(popular.max(initial=0.0)) + 1.0
    row = torch.from_numpy(popular.astype(np.float32))
    return lambda rows: torch.from_numpy(own[rows].toarray() * np.float32(weight)) + row
