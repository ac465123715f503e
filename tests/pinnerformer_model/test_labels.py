"""The label rule."""

import numpy as np

from pinnerformer_model.labels import check_label_rule, find_positives


def test_a_least_of_zero_asks_for_no_duration():
    rule = check_label_rule({"surfaces": ["s"], "actions": {"a": 0, "b": 10}})
    duration = np.array([np.nan, 0, 3, np.nan, 10, 10.5], np.float32)
    action = np.array([0, 0, 0, 1, 1, 1], np.int32)
    got = find_positives(rule, ("a", "b", "c"), ("s",), action, np.zeros(6, np.int32), duration)
    assert got.tolist() == [True, True, True, False, False, True]
