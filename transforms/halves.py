"""The two halves of the evaluation users: those that choose, and those that figures are of."""

import numpy as np

from stores.ids import splitmix64, uniform_of

HALVES = ("choice", "report", "both")
_HALF_SALT = 77


def are_choosers(user_ids: np.ndarray) -> np.ndarray:
    """bool [N]: which evaluation users choose settings and checkpoints; figures are of the others.

    Hashed once more than the split of training and evaluation users is: with one of its salts, the half would be those
    very users, or none of them.
    """
    return uniform_of(splitmix64(user_ids).view(np.int64), _HALF_SALT) < 0.5
