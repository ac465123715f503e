"""The sketch against exact counts."""

import math

import numpy as np
import pytest
import torch

from pinnerformer_model.count_min import CountMinSketch, ExactCounts


def test_the_sketch_is_never_too_low_and_seldom_too_high():
    random = np.random.default_rng(0)
    ids = torch.from_numpy((random.zipf(1.3, 40_000) % 20_000).astype(np.int64))
    sketch, exact = CountMinSketch(1 << 14, 2), ExactCounts(20_000)
    for piece in ids.split(1000):
        sketch.add(piece)
        exact.add(piece)
    everything = torch.arange(20_000)
    over = sketch.counts(everything) - exact.counts(everything)
    assert int(sketch.total) == int(exact.total) == 40_000
    assert int(over.min()) == 0
    bound = 2 * 40_000 / (1 << 14)
    assert float((over > bound).float().mean()) <= 0.25
    distinct = everything[exact.counts(everything) > 0]
    cells = CountMinSketch(1 << 14, 1)
    cells.add(distinct)
    occupied = int((cells.table[0] > 0).sum())  # what a random hash would fill: w (1 - e^(-n/w))
    assert occupied == pytest.approx((1 << 14) * (1 - math.exp(-len(distinct) / (1 << 14))), rel=0.05)
