"""Whether everybody is answered the same: what tells a model's collapse, by counting (paper, section 7).

numpy only: the gates of a night look at these too.
"""

import numpy as np

SHARE = 0.9  # of all answers: P90 coverage


def covering_pins(top: np.ndarray, share: float = SHARE) -> int:
    """The fewest pins that make up a share of all answers; 0 without any.

    Args:
        top: int64 [U, k], ids or rows of the answers; -1 where there is none.
        share: In (0, 1].
    """
    count = np.sort(np.unique(top[top >= 0], return_counts=True)[1])[::-1]
    if not len(count):
        return 0
    # The small number keeps a share that is met exactly from asking for one more pin.
    return int(np.searchsorted(np.cumsum(count), share * count.sum() - 1e-9)) + 1


def most_covering_pins(users: int, k: int, pins: int, share: float = SHARE) -> int:
    """What `covering_pins` can be at most: all answers different, or as even as so few pins allow.

    Args:
        users: U.
        k: Answers of each.
        pins: That may be answered.
    """
    answers = users * k
    if not answers or not pins:
        return 0
    each, more = divmod(answers, pins)  # `more` pins are answered each + 1 times, the others `each` times
    needed = share * answers - 1e-9
    if needed <= more * (each + 1):
        return int(np.ceil(needed / (each + 1)))
    return more + int(np.ceil((needed - more * (each + 1)) / each))


def overlap(top: np.ndarray) -> float:
    """The share of a user's best pins that another user, drawn at random, is answered too: the mean over all pairs.

    Args:
        top: int64 [U, k], ids or rows, distinct within a user; -1 where there is no answer.

    Returns:
        In [0, 1]; NaN of fewer than two users.
    """
    users, k = top.shape
    if users < 2 or not k:
        return float("nan")
    # A pin that c users have is shared by c (c - 1) of the U (U - 1) ordered pairs.
    count = np.unique(top[top >= 0], return_counts=True)[1].astype(np.float64)
    return float((count * (count - 1)).sum() / (users * (users - 1.0) * k))


def mean_length(vectors: np.ndarray) -> float:
    """Length of the mean of unit vectors: 1 if all are the same, near 0 if none are alike; NaN of fewer than two.

    Args:
        vectors: float [U, d]; any length but 0.
    """
    if len(vectors) < 2:
        return float("nan")
    rows = np.asarray(vectors, np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return float(np.linalg.norm(rows.mean(axis=0)))
