"""Budgets are equal, starts are the weights before training, and the choosing users say what is kept."""

import dataclasses

import numpy as np
import pytest

from pinnerformer_model.objectives import Objective
from pipelines.study import cells as module
from pipelines.study.cells import Task, equal_pairs, objective_of, pairs_a_step, train_and_measure, train_cell
from pipelines.study.command import steps_of_equal_cpu
from pipelines.study.grid import BASE, FULL, LEVERS, QUICK, Cell, make_grid, start_of
from pipelines.study.parts import Source, load_study_data
from pipelines.study.running import write_result
from stores.errors import InputError
from tests.pinnerformer_model.test_timelines import make_timelines

SIZE = dataclasses.replace(QUICK, checks=4)


def cell_of(name: str) -> Cell:
    return next(cell for cell in [*make_grid(QUICK), *LEVERS] if cell.name == name)


@pytest.mark.parametrize("name", ["next_action", "sasrec", "all_action_28", "length_4", "dense_all_action_14"])
def test_every_cell_draws_as_many_pairs_a_step_as_the_base(name):
    t = make_timelines([40, 25, 90, 60, 33, 70] * 30)
    wanted = pairs_a_step(t, Objective(positions=8, labels=8), 16, 32)
    cell = cell_of(name)
    users, windows = equal_pairs(t, cell, QUICK)
    length = cell.max_sequence_length or QUICK.max_sequence_length
    assert pairs_a_step(t, objective_of(cell, QUICK), length, users, windows) == pytest.approx(wanted, rel=0.04)
    assert windows > 1 or name not in ("next_action", "length_4")


def test_a_label_rule_that_finds_none_is_said():
    t = dataclasses.replace(make_timelines([40, 25]), positive=np.zeros(65, bool))
    with pytest.raises(InputError, match="cell sasrec: no event has a positive .*look at the label rule"):
        equal_pairs(t, cell_of("sasrec"), QUICK)


def test_cells_that_begin_alike_have_one_start():
    starts = {cell.name: start_of(cell, QUICK).name for cell in [*make_grid(QUICK), *LEVERS]}
    assert starts[BASE] == starts["sasrec"] == starts["in_batch"] == starts["shuffled_labels"] == "untrained"
    assert starts["length_4"] == "untrained_length_4" and starts["dim_8"] == "untrained_dim_8"
    assert starts["without_time"] == "untrained_without_time"
    assert starts["dense_start_mean_3"] == "untrained_mean_scale_3"
    assert starts["dense_newest_half"] == "untrained"  # training alone differs
    assert "random_without_logq" not in starts  # equal to `random` by construction


def test_levers_are_settings_that_there_are():
    for cell in LEVERS:
        objective_of(cell, FULL)
        module._extras(cell, module.TrainingSettings)


@pytest.fixture(scope="module")
def data(study_world):
    return load_study_data(Source(f"{study_world}/timelines", None, 1, 14))


def task_of(cell: Cell, steps: int, **more) -> Task:
    return Task(cell, 0, 2e-3, SIZE, "", 0, "recall", steps, **more)


def test_the_start_is_the_model_before_its_first_step(data):
    fold, cell = data.fold(0), cell_of("length_4")
    start = train_cell(data, fold, task_of(start_of(cell, SIZE), 0))
    # A learning rate of 0 leaves the weights where they were.
    idle = train_cell(data, fold, dataclasses.replace(task_of(cell, 4), learning_rate=0.0))
    assert start.length == idle.length == 4 and start.facts["steps"] == 0
    for a, b in zip(start.user_tower.parameters(), idle.user_tower.parameters(), strict=True):
        assert (a == b).all()
    other = train_cell(data, fold, task_of(start_of(cell_of("dense_start_mean_3"), SIZE), 0))
    mine = train_cell(data, fold, task_of(start_of(cell_of(BASE), SIZE), 0))
    assert any((a != b).any() for a, b in zip(other.user_tower.parameters(), mine.user_tower.parameters(), strict=True))


def test_the_weights_kept_are_those_the_choosing_users_like_best(data, monkeypatch):
    fold, weights, asked = data.fold(0), [], []
    values = iter([0.1, 0.4, 0.3, 0.2])

    def measure(self, evaluations, frequency):
        weights.append([p.detach().clone() for p in self.user_tower.parameters()])
        asked.append(evaluations)
        value = next(values)
        return {"figures": {"recall": [value, value]}}

    monkeypatch.setattr(module.Trained, "measure", measure)
    model = train_cell(data, fold, task_of(cell_of(BASE), 8))
    assert model.facts["kept_step"] == 4 and [step for step, _ in model.facts["checks"]] == [2, 4, 6, 8]
    kept = list(model.user_tower.parameters())
    assert all((a == b).all() for a, b in zip(weights[1], kept, strict=True))
    assert any((a != b).any() for a, b in zip(weights[3], kept, strict=True))
    assert all(evaluations is fold.choice for evaluations in asked)


def test_a_training_whose_loss_is_no_number_ends_there(data, monkeypatch):
    losses = iter([(1.0, 1.0), (1.0, 1.0), (float("nan"), 1.0)])
    monkeypatch.setattr(module.Trainer, "step", lambda self, batch: next(losses))
    model = train_cell(data, data.fold(0), task_of(cell_of(BASE), 8))
    assert model.facts["diverged_at"] == 3 and [step for step, _ in model.facts["checks"]] == [2, 3]


def test_a_try_of_a_learning_rate_leaves_those_reported_alone(data):
    found = train_and_measure(data, task_of(cell_of(BASE), 4, only_choice=True))
    assert found["choice"]["once"]["recall"][0] > 0 and not {"report", "by_user"} & set(found)
    found = train_and_measure(data, task_of(cell_of(BASE), 4))
    assert set(found["report"]) == {"once", "daily", "realtime"} and found["training"]["pairs_a_step"] > 0
    users = found["by_user"]["once"]["user_ids"]
    assert set(users) <= set(data.fold(0).report[0].timelines.user_ids.tolist())


def test_all_action_is_trained_for_the_cpu_of_dense(tmp_path):
    def finished(name: str, cpu_s: float) -> list[Task]:
        task = dataclasses.replace(task_of(cell_of(name), 40), path=str(tmp_path / f"{name}.json"))
        write_result(task.path, {"training": {"cpu_s": cpu_s, "steps": 40}})
        return [task]

    done = {BASE: finished(BASE, 12.0), "all_action_28": finished("all_action_28", 5.0)}
    cell = cell_of("all_action_28_cpu")
    assert steps_of_equal_cpu(cell, done, SIZE) == 96  # 40 x 12 / 5
    assert steps_of_equal_cpu(cell, {BASE: done[BASE]}, SIZE) is None
