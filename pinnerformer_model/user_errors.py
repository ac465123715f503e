"""Errors over users: what other users of the same kind would have said.

Recall of all positives is a ratio of sums, the users' hits over the users' targets. What was drawn is users, and not
positives: a user's positives rise and fall together. So the standard error is that of the ratio estimator over users,
by linearised residuals (Cochran, Sampling Techniques, section 6.3, the population taken as endless).

Two rows that were asked the same users are compared user by user: what a user does to both cancels. Users that appear
in several folds or at several cuts in time are ONE draw: `pool` adds their sums before any error is taken.
"""

from collections.abc import Mapping, Sequence

import numpy as np

USER_IDS = "user_ids"
NOTHING = (float("nan"), float("nan"))


def ratio(hits: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Recall over all targets, and its standard error.

    Args:
        hits, targets: float64 [U], sums a user; a user without targets says nothing and may be among them.

    Returns:
        (value, error); NaN both without a target, an error of NaN with one user only.
    """
    total = float(np.sum(targets))
    if not total:
        return NOTHING
    value = float(np.sum(hits)) / total
    return value, _spread(_residuals(hits, targets), targets)


def difference(
    hits_a: np.ndarray, targets_a: np.ndarray, hits_b: np.ndarray, targets_b: np.ndarray
) -> tuple[float, float]:
    """Recall of a less recall of b, both of the same users in the same order, and its standard error.

    Args:
        hits_a, targets_a, hits_b, targets_b: float64 [U].

    Returns:
        (value, error); as `ratio`.

    Raises:
        ValueError: the two are not of equally many users.
    """
    if not len(hits_a) == len(targets_a) == len(hits_b) == len(targets_b):
        raise ValueError(f"{len(hits_a)} users beside {len(hits_b)}: a difference is taken over the same users")
    if not np.sum(targets_a) or not np.sum(targets_b):
        return NOTHING
    value = float(np.sum(hits_a) / np.sum(targets_a) - np.sum(hits_b) / np.sum(targets_b))
    # Each user's own difference, linearised: users that do well or badly in both cancel here.
    own = _residuals(hits_a, targets_a) - _residuals(hits_b, targets_b)
    return value, _spread(own, np.asarray(targets_a) + np.asarray(targets_b))


def _residuals(hits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 [U]: how far each user moves the ratio; they add up to 0."""
    hits, targets = np.asarray(hits, np.float64), np.asarray(targets, np.float64)
    total = targets.sum()
    return (hits - hits.sum() / total * targets) / total


def _spread(residuals: np.ndarray, targets: np.ndarray) -> float:
    users = int(np.count_nonzero(targets))
    if users < 2:
        return float("nan")
    return float(np.sqrt((residuals**2).sum() * users / (users - 1)))


def pool(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The sums of folds or of cuts in time together: a user that is in several of them is one row.

    Args:
        parts: Each with `user_ids` int64 [U] and sums of theirs, float64 [U]; the same names in all.

    Returns:
        The same names; `user_ids` sorted, each once.
    """
    ids = np.concatenate([np.asarray(part[USER_IDS], np.int64) for part in parts])
    users, place = np.unique(ids, return_inverse=True)
    pooled = {USER_IDS: users}
    for name in parts[0]:
        if name != USER_IDS:
            values = np.concatenate([np.asarray(part[name], np.float64) for part in parts])
            pooled[name] = np.bincount(place, values, len(users))
    return pooled
