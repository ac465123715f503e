"""Where an id belongs: the same everywhere and always, and spread evenly."""

import numpy as np

from stores.ids import bucket_of, uniform_of


def test_the_split_is_independent_of_the_bucket():
    ids = np.arange(20_000)
    held_out = uniform_of(ids, 1) < 0.1
    assert 1_800 < held_out.sum() < 2_200
    share = np.bincount(bucket_of(ids, 16)[held_out], minlength=16) / held_out.sum()
    assert share.max() < 0.085
    assert (held_out & (uniform_of(ids, 2) < 0.1)).sum() < 300  # another salt is another split
