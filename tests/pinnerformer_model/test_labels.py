"""The label rule."""

import numpy as np

from pinnerformer_model.labels import check_label_rule, find_positives


def test_a_least_of_zero_asks_for_no_duration():
    rule = check_label_rule({"surfaces": ["s"], "actions": {"a": 0, "b": 10}})
    duration = np.array([np.nan, 0, 3, np.nan, 10, 10.5], np.float32)
    action = np.array([0, 0, 0, 1, 1, 1], np.int32)
    got = find_positives(rule, ("a", "b", "c"), ("s",), action, np.zeros(6, np.int32), duration)
    assert got.tolist() == [True, True, True, False, False, True]


def test_a_star_is_every_surface_and_every_action_that_is_not_named():
    everything = check_label_rule({"surfaces": ["*"], "actions": {"*": 0}})
    action, surface = np.array([0, 1, 2], np.int32), np.array([0, 1, 0], np.int32)
    short = np.array([1, 1, np.nan], np.float32)
    assert find_positives(everything, ("a", "b", "c"), ("s", "t"), action, surface, short).tolist() == [True] * 3
    some = check_label_rule({"surfaces": ["s"], "actions": {"*": 0, "a": 10}})
    assert find_positives(some, ("a", "b", "c"), ("s", "t"), action, surface, short).tolist() == [False, False, True]
