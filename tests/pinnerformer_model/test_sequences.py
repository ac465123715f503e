"""Batches of users of like lengths."""

import itertools

import numpy as np

from pinnerformer_model.sequences import form_batches


def test_batches_hold_every_user_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 257, 500)
    batches = form_batches(lengths, 1024)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(lengths[b].sum() <= 1024 for b in batches)
    assert all(lengths[a].sum() + lengths[b[0]] > 1024 for a, b in itertools.pairwise(batches))  # and full
    assert (np.diff(lengths[np.concatenate(batches)]) >= 0).all()
    assert [b.tolist() for b in form_batches(np.array([5, 3, 3, 9]), 6)] == [[1, 2], [0], [3]]
