"""Batches of users of like lengths."""

import numpy as np

from pinnerformer_model.sequences import form_batches


def test_batches_hold_every_user_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 257, 500)
    batches = form_batches(lengths, 1024)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(b) * lengths[b].max() <= 1024 for b in batches)
    assert [b.tolist() for b in form_batches(np.array([5, 3, 3, 9]), 6)] == [[1, 2], [0], [3]]
