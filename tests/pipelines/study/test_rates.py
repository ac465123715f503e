"""A grid of learning rates is widened until its best is not at its edge; at most so often, and that is said."""

import json
import os
from types import SimpleNamespace

import pytest

from pipelines.study.rates import choose_rates, next_rate


class Trials:
    """Runs tasks that are their rates: the figure of a rate is a function of it."""

    def __init__(self, folder, figure):
        self.folder, self.figure, self.runs = folder, figure, []

    def task(self, key, rate):
        return SimpleNamespace(key=key, rate=rate, path=os.path.join(self.folder, f"{key[0]}{key[1]}-{rate:g}.json"))

    def run(self, tasks):
        self.runs.append([task.rate for task in tasks])
        for task in tasks:
            value = self.figure(task.key, task.rate)
            if value is not None:
                with open(task.path, "w") as file:
                    json.dump({"choice": {"once": {"recall_new": [value, value]}}}, file)


def chosen(trials, grid=(1.0, 2.0, 4.0), widenings=3, keys=(("dense", 0),)):
    return choose_rates(trials, list(keys), grid, widenings, trials.task, "recall_new")


def test_a_best_at_an_edge_asks_for_the_rate_past_it():
    assert next_rate({1.0: 0.1, 2.0: 0.3, 4.0: 0.2}) is None
    assert next_rate({1.0: 0.1, 2.0: 0.3}) == 4.0
    assert next_rate({1.0: 0.5, 2.0: 0.3}) == 0.5


@pytest.mark.parametrize(("best", "tried"), [(2.0, 3), (8.0, 5), (0.5, 5)])
def test_it_is_widened_until_the_best_is_inside(tmp_path, best, tried):
    trials = Trials(tmp_path, lambda key, rate: -abs(rate - best))
    found = chosen(trials)
    assert found.chosen == {("dense", 0): best} and len(found.tried["dense", 0]) == tried
    assert found.at_edge == ()


def test_a_best_that_stays_at_the_edge_is_said(tmp_path):
    found = chosen(Trials(tmp_path, lambda key, rate: rate), widenings=2)
    assert found.chosen == {("dense", 0): 16.0} and found.at_edge == (("dense", 0),)


def test_every_objective_and_fold_has_its_own(tmp_path):
    best = {("dense", 0): 2.0, ("dense", 1): 1.0, ("sasrec", 0): 4.0}
    found = chosen(Trials(tmp_path, lambda key, rate: -abs(rate - best[key])), keys=best)
    assert found.chosen == best


def test_what_time_ran_out_for_has_no_rate_and_one_rate_is_not_tried(tmp_path):
    found = chosen(Trials(tmp_path, lambda key, rate: 1.0 if key[1] == 0 else None), keys=[("dense", 0), ("dense", 1)])
    assert list(found.chosen) == [("dense", 0)]
    trials = Trials(tmp_path, lambda key, rate: 1.0)
    assert chosen(trials, grid=(3.0,)).chosen == {("dense", 0): 3.0} and not trials.runs
