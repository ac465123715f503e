"""Groups of equal keys, and two sorted tables made one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.sorted_rows import group_starts, merge_order, rank_within_groups


@pytest.mark.parametrize(
    ("keys", "starts", "ranks"),
    [
        ([], [], []),
        ([7], [0], [0]),
        ([7, 7, 7], [0], [0, 1, 2]),
        ([-3, 5, 5, 9], [0, 1, 3], [0, 0, 1, 0]),
    ],
)
def test_groups(keys, starts, ranks):
    keys = np.array(keys, np.int64)
    assert group_starts(keys).tolist() == starts
    assert rank_within_groups(keys).tolist() == ranks


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)))
def test_merged_rows_are_sorted_and_keep_their_order(evens, odds):
    kept, added = np.sort(np.array(evens, np.int64) * 2), np.sort(np.array(odds, np.int64) * 2 + 1)
    order = merge_order(kept, added)
    both = np.concatenate([kept, added])
    assert both[order].tolist() == sorted(both.tolist())
    assert (np.diff(order[order < len(kept)]) == 1).all() and (np.diff(order[order >= len(kept)]) == 1).all()
