"""Baselines against loops over events."""

import numpy as np

from pinnerformer_model.baselines import popularity
from pinnerformer_model.evaluation import DAY_MS
from tests.pinnerformer_model.test_evaluation import CUT, PINS, make_timelines


def test_popularity_counts_the_past_only():
    timelines = make_timelines()
    counts = np.zeros(PINS)
    for pin, time, positive in zip(timelines.pin_row, timelines.timestamp_ms, timelines.positive, strict=True):
        counts[pin] += positive and CUT - 7 * DAY_MS <= time < CUT
    np.testing.assert_array_equal(popularity(timelines, CUT, PINS, days=7), counts)
