"""Batches in the order of their keys, in memory and by way of a file."""

import contextlib
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.kv import sorted_batches
from stores.kv.sorted_batches import SortedBatches

EXTREMES = [0, -1, 1, 2**63 - 1, -(2**63)]
users = st.tuples(st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EXTREMES), st.binary(max_size=20))


@pytest.fixture
def small(monkeypatch):
    """Pieces of a few users."""
    monkeypatch.setattr(sorted_batches, "PIECE_USERS", 6)
    monkeypatch.setattr(sorted_batches, "SAMPLE", 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(users, max_size=12), max_size=8), held_bytes=st.sampled_from([0, 30, 1 << 20]))
def test_all_users_in_the_order_of_their_keys(small, tmp_path, batches, held_bytes):
    """Any ids, also twice, and any widths, also none: as one sort of everything has it."""
    with contextlib.closing(SortedBatches(str(tmp_path), held_bytes)) as ordered:
        for batch in batches:
            ordered.add(np.array([user for user, _ in batch], np.int64), [value for _, value in batch])
        pieces = list(ordered.pieces())
    found = [pair for ids, values in pieces for pair in zip(ids.tolist(), values, strict=True)]
    everything = [pair for batch in batches for pair in batch]
    assert found == sorted(everything, key=lambda pair: pair[0] % 2**64)
    assert all(len(ids) for ids, _ in pieces)


def test_what_is_held_is_bounded_and_what_is_read_back_too(small, tmp_path):
    with contextlib.closing(SortedBatches(str(tmp_path), 1000)) as ordered:
        for start in range(100):
            ordered.add(np.arange(start, 1000, 100), [b"0123456789"] * 10)
            assert ordered._bytes <= 1000
        assert ordered._file.tell() > 8000 and os.listdir(tmp_path) == []
        sizes = [len(ids) for ids, _ in ordered.pieces()]
    assert len(sizes) > 50 and max(sizes) < 60 and sum(sizes) == 1000


def test_little_makes_no_file(tmp_path):
    with contextlib.closing(SortedBatches(f"{tmp_path}/not there", 1000)) as ordered:
        ordered.add(np.array([3, 1]), [b"c", b"a"])
        assert [(ids.tolist(), values) for ids, values in ordered.pieces()] == [([1, 3], [b"a", b"c"])]


def test_as_many_values_as_users(tmp_path):
    with pytest.raises(ValueError, match="2 users and 1 values"):
        SortedBatches(str(tmp_path), 1000).add(np.arange(2), [b"x"])
