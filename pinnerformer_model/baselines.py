"""What a trained model is compared with: popularity and the mean of a user's last vectors."""

import numpy as np

from pinnerformer_model.days import DAY_MS
from pinnerformer_model.evaluation import Moments
from pinnerformer_model.timelines import Timelines, ranges

MEAN_WINDOWS = (1, 3, 10, 30, 100)


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
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
