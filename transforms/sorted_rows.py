"""Sorted keys, column-wise: the place of a row within its group, and two sorted tables made one."""

import numpy as np


def group_starts(keys: np.ndarray) -> np.ndarray:
    """Where each group of equal keys begins.

    Args:
        keys: [N], equal ones side by side.

    Returns:
        int64 [groups], rising.
    """
    return np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, np.int64)


def rank_within_groups(keys: np.ndarray) -> np.ndarray:
    """Each row's place within its group of equal keys, from 0.

    Args:
        keys: [N], equal ones side by side.

    Returns:
        int64 [N].
    """
    first = group_starts(keys)
    return np.arange(len(keys)) - np.repeat(first, np.diff(np.r_[first, len(keys)]))


def merge_order(kept: np.ndarray, added: np.ndarray) -> np.ndarray:
    """How to read `kept` and `added`, one after the other, so that they come out as one sorted table.

    Blocks that nothing is put into stay blocks: no row of `kept` is compared with its neighbours, which a sort of all
    rows would do for a bucket of which a night changes little.

    Args:
        kept: [N], sorted.
        added: [M], sorted, no key of which is in `kept`; keys may repeat within each.

    Returns:
        int64 [N + M]: positions in `np.concatenate([kept, added])`.
    """
    place = np.arange(len(added)) + np.searchsorted(kept, added)
    is_added = np.zeros(len(kept) + len(added), bool)
    is_added[place] = True
    order = np.empty(len(is_added), np.int64)
    order[is_added] = np.arange(len(kept), len(is_added))
    order[~is_added] = np.arange(len(kept))
    return order
