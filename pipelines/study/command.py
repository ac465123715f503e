"""`pinnerformer study`: which of the paper's findings hold on data of your own."""

import dataclasses
import hashlib
import json
import os
import time

import numpy as np

from pipelines.study.baselines import measure_baselines, what_can_be_told
from pipelines.study.cells import Task
from pipelines.study.grid import BASE, DEAREST, FEATURES, LEVERS, Cell, Size, make_grid, start_of
from pipelines.study.parts import Source, StudyData, load_study_data
from pipelines.study.rates import Key, Rates, choose_rates
from pipelines.study.report import write_page
from pipelines.study.results import Study
from pipelines.study.running import Runner, read_result, write_result
from pipelines.study.study_request import StudyRequest, parse
from pipelines.synthetic.oracle import read_world
from pipelines.telemetry.lines import say, say_warning
from stores.errors import InputError
from stores.extras import load


@dataclasses.dataclass(frozen=True)
class TaskMaker:
    """Makes the tasks of a study; other settings are other files."""

    request: StudyRequest

    def _path(self, folder: str, cell: Cell, seed: int, fold: int, *settings: float) -> str:
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:6]
        part = f"-fold{fold}" if self.request.source.folds > 1 else ""
        return os.path.join(self.request.out, folder, f"{cell.name}{part}-seed{seed}-{key}.json")

    def start(self, cell: Cell, seed: int, fold: int) -> Task:
        """Measures what a cell begins as."""
        size, start = self.request.size, start_of(cell, self.request.size)
        return Task(start, seed, 0.0, size, self._path("starts", start, seed, fold), fold, self.request.figure, 0)

    def rate(self, cell: Cell, fold: int, rate: float) -> Task:
        """Tries a learning rate."""
        size = self.request.size
        cell = dataclasses.replace(cell, frequencies=("once",))
        path = self._path("rates", cell, 0, fold, size.rate_steps, rate)
        return Task(cell, 0, rate, size, path, fold, self.request.figure, size.rate_steps, only_choice=True)

    def cell(self, cell: Cell, seed: int, fold: int, rate: float, steps: int | None = None) -> Task:
        """Trains and measures a cell."""
        size = self.request.size
        steps = steps or size.steps * cell.longer
        path = self._path("cells", cell, seed, fold, steps, rate)
        return Task(cell, seed, rate, size, path, fold, self.request.figure, steps)


def features_of(data: StudyData) -> tuple[str, ...]:
    """The features that tell events of these timelines apart: durations may be missing, one surface is the only one."""
    timelines = data.train.timelines
    constant = {
        "duration": bool(np.isnan(timelines.duration_s).all()),
        "surface": len(np.unique(timelines.surface)) < 2,
        "action": len(np.unique(timelines.action)) < 2,
    }
    return tuple(name for name in FEATURES if not constant.get(name))


def say_what_can_be_told(baselines: dict, figure: str, source: Source) -> None:
    """Says the error that the users allow, before any model is trained."""
    text, enough = what_can_be_told(baselines, figure)
    say(text)
    if not enough:
        more = "--cuts" if source.folds > 1 else "--folds 3, --cuts"
        say_warning(
            f"too few to tell rows apart: two errors are more than half of that. {more} or more users make the error "
            "smaller; interrupt this study now if that is what you want"
        )


def find_rates(request: StudyRequest, runner: Runner, maker: TaskMaker, cells: list[Cell]) -> Rates:
    """Every objective's learning rate, by its first cell of the grid."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.objective, cell)
    keys: list[Key] = [(name, fold) for name in first for fold in range(request.source.folds)]
    return choose_rates(
        runner,
        keys,
        request.size.learning_rates,
        request.size.widenings,
        lambda key, rate: maker.rate(first[key[0]], key[1], rate),
        request.figure,
    )


def steps_of_equal_cpu(cell: Cell, finished: dict[str, list[Task]], size: Size) -> int | None:
    """Steps that take a cell as many CPU seconds as its `cpu_of`; None: what that rests on is not finished.

    Args:
        finished: Cell -> its tasks that are done.
    """
    same = [tasks[0].cell for tasks in finished.values() if tasks and tasks[0].cell.objective == cell.objective]
    like = [c.name for c in same if dataclasses.replace(cell, name=c.name, cpu_of=None) == c]
    if not like or not finished.get(cell.cpu_of or ""):
        return None

    def a_step(name: str) -> float:
        found = [read_result(task.path)["training"] for task in finished[name]]
        return sum(f["cpu_s"] for f in found) / sum(f["steps"] for f in found)

    return max(1, round(size.steps * a_step(cell.cpu_of or "") / a_step(like[0])))


def train_grid(
    request: StudyRequest,
    runner: Runner,
    maker: TaskMaker,
    cells: list[Cell],
    seed: int,
    rates: Rates,
    before: list[Task],
) -> list[Task]:
    """Trains the cells of one seed, a cell's folds together; returns the tasks of all that can be.

    Args:
        before: Tasks of the seeds before.
    """
    folds = range(request.source.folds)
    plain = [
        maker.cell(cell, seed, fold, rates.chosen[cell.objective, fold])
        for cell in cells
        for fold in folds
        if not cell.cpu_of and (cell.objective, fold) in rates.chosen
    ]
    needed = {name for cell in cells if cell.cpu_of for name in (cell.cpu_of, cell.name.removesuffix("_cpu"))}
    runner.run([task for task in plain if task.cell.name in needed])
    finished: dict[str, list[Task]] = {}
    for task in [*before, *plain]:
        if task.seed == 0 and runner.is_finished(task):  # of the first seed: the same steps for all
            finished.setdefault(task.cell.name, []).append(task)
    equal = []
    for cell in cells:
        steps = steps_of_equal_cpu(cell, finished, request.size) if cell.cpu_of else None
        if steps:
            equal += [maker.cell(cell, seed, fold, rates.chosen[cell.objective, fold], steps) for fold in folds]
    runner.run([*equal, *plain])
    return [*plain, *equal]


def train(request: StudyRequest, runner: Runner, maker: TaskMaker, cells: list[Cell]) -> tuple[list[Task], Rates]:
    """Tries learning rates and trains the cells, whole grid by whole grid; returns all tasks and the rates.

    Raises:
        InputError: the budget did not suffice for a learning rate of the base.
    """
    # What takes many times the CPU of the others comes last, its learning rates too: a budget that runs out leaves the
    # other rows whole.
    groups = [[cell for cell in cells if (cell.objective == DEAREST) == dearest] for dearest in (False, True)]
    rates, tasks = Rates({}, {}, ()), list[Task]()
    # Seed by seed: a study that is cut short has one whole grid, and not three seeds of its first rows.
    for seed in range(request.seeds):
        for group in filter(None, groups):
            if seed == 0:
                rates = rates.and_of(find_rates(request, runner, maker, group))
            tasks += train_grid(request, runner, maker, group, seed, rates, tasks)
        if not any(name == cells[0].objective for name, _ in rates.chosen):
            raise InputError(f"--budget: no learning rate was tried within {request.budget_s:.0f} s; give more")
    return tasks, rates


def write_facts(request: StudyRequest, cells: list[Cell], starts: list[Task], tasks: list[Task], rates: Rates) -> None:
    """Writes `study.json`, or `levers.json`: what was trained, and where it lies."""

    def listed(tasks: list[Task]) -> list:
        return [[t.cell.name, t.seed, os.path.relpath(t.path, request.out)] for t in tasks]

    folds = request.source.folds
    tried: dict[str, dict[str, float]] = {}
    for (name, _), values in rates.tried.items():
        for rate, value in values.items():
            tried.setdefault(name, {}).setdefault(f"{rate:g}", 0.0)
            tried[name][f"{rate:g}"] += value / folds
    write_result(
        os.path.join(request.out, "levers.json" if request.levers else "study.json"),
        {
            "title": request.title,
            "figure": request.figure,
            "size": dataclasses.asdict(request.size),
            "seeds": request.seeds,
            "folds": folds,
            "learning_rate": {
                name: sorted({rate for (other, _), rate in rates.chosen.items() if other == name})
                for name in {name: None for name, _ in rates.chosen}
            },
            "learning_rates": tried,
            "at_edge": sorted({name for name, _ in rates.at_edge}),
            "cells": listed(tasks),
            "start_cells": listed(starts),
            "starts": {cell.name: start_of(cell, request.size).name for cell in cells},
            "base": BASE,
        },
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    for module in ("scipy.sparse", "matplotlib"):
        load(module, "train", "study")
    if request.oracle:
        read_world(request.oracle)  # a folder that is none is refused before minutes of work
    until = time.monotonic() + request.budget_s
    os.makedirs(request.out, exist_ok=True)
    data = load_study_data(request.source)
    baselines = measure_baselines(data, request.out, request.new, request.oracle)
    say_what_can_be_told(baselines, request.figure, request.source)
    cells = list(LEVERS) if request.levers else make_grid(request.size, features_of(data))
    runner = Runner(request.source, data.train.digest, request.workers, until)
    del data  # every worker loads its own
    maker = TaskMaker(request)
    starts = {
        task.path: task
        for seed in range(request.seeds)
        for cell in cells
        for task in [maker.start(cell, seed, fold) for fold in range(request.source.folds)]
    }
    runner.run(list(starts.values()))
    tasks, rates = train(request, runner, maker, cells)
    write_facts(request, cells, list(starts.values()), tasks, rates)
    write_page([Study.load(name) for name in [request.out, *request.beside]], request.page)
    left = sum(not os.path.exists(task.path) for task in tasks)
    if left:
        say(f"{left} of {len(tasks)} cells left out: --budget ran out; run again to go on")
    print(f"page   {request.page}")
    return 0
