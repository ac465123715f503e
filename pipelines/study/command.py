"""`pinnerformer study`: which of the paper's findings hold on data of your own."""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
import time
from typing import Any

import numpy as np

from pinnerformer_model.ranking import matrix_scorer
from pipelines.arguments import Parser, date, positive, seconds
from pipelines.study.cells import Source, Task, run_task
from pipelines.study.grid import BASE, FEATURES, FULL, QUICK, SMALL, Cell, Size, make_grid
from pipelines.study.report import write_page
from pipelines.study.results import Study
from pipelines.study.workers import start_worker
from pipelines.synthetic.oracle import oracle_scores, read_world
from pipelines.training.evaluate import load_evaluation
from stores.errors import InputError, StoreError
from stores.files import replace_atomically
from transforms.evaluation import choose_baselines
from transforms.training_data import load_training_data

DESCRIPTION = """\
Trains and measures the grid behind the paper's tables 1-4, 6 and 10 on timelines of yours: PinnerSage beside
PinnerFormer, inference frequencies, objectives, negatives with and without the log Q correction, one feature left out,
lengths and sizes. Writes STUDY/reproduction.md, the paper's tables beside yours, plots, and a verdict per row.

Every cell (a model with a seed) is trained alike and small, so that the whole fits one machine; absolute figures grow
with --steps. Finished cells are kept in STUDY/cells and not computed again: interrupt it, run the same command again.
The learning rate, and the baselines' settings, are chosen on half of the evaluation users; figures are of the others.
"""

EPILOG = """\
example:
  pinnerformer study --timelines TIMELINES --pins WORLD/pins --out STUDY --quick
"""


@dataclasses.dataclass(frozen=True)
class StudyRequest:
    """What `pinnerformer study` is asked for.

    Attributes:
        source: The data: timelines, vector set, window.
        out: Where cells, plots and the page go.
        size: Of models and training.
        seeds: Models per cell.
        budget_s: No cell is started after so long.
        workers: Processes.
        new: Whether rows are judged by the recall of pins new to the user.
        oracle: The folder of a synthetic world, to measure what its generator would know; None: not.
        title: Of the data, in the page.
        page: Where the page goes.
        beside: Finished studies that the page holds too.
    """

    source: Source
    out: str
    size: Size
    seeds: int
    budget_s: float
    workers: int
    new: bool
    oracle: str | None
    title: str
    page: str
    beside: tuple[str, ...]


def make_parser() -> Parser:
    """The flags of `pinnerformer study`."""
    parser = Parser(prog="pinnerformer study", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--timelines", required=True, metavar="DIR", help="of `pinnerformer training-data`")
    parser.add_argument("--out", required=True, metavar="STUDY", help="where cells, plots and the page go")
    parser.add_argument("--pins", metavar="DIR", help="the vector set; its column `topic` is what entropy is of")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_true", help="tiny models, one seed: minutes, to see it run")
    scale.add_argument("--small", action="store_true", help="small models, short training: a fraction of the time")
    parser.add_argument("--seeds", type=positive, help="models per cell (default: 3; with --quick 1)")
    parser.add_argument("--steps", type=positive, help=f"of training (default: {FULL.steps})")
    parser.add_argument("--budget", type=seconds, default="2h", metavar="2h", help="start no cell after (%(default)s)")
    parser.add_argument("--workers", type=positive, default=multiprocessing.cpu_count(), help="processes (%(default)s)")
    parser.add_argument(
        "--cut", type=date, metavar="DATE", help="first day of the window (default: 14 days to the end)"
    )
    parser.add_argument("--days", type=positive, default=14, help="length of the window (default %(default)s)")
    parser.add_argument("--new", action="store_true", help="judge by the recall of pins new to the user")
    parser.add_argument("--oracle", metavar="WORLD", help="the folder of `synth`: adds what its generator would know")
    parser.add_argument("--title", metavar="TEXT", help="of the data, in the page (default: the timelines' folder)")
    parser.add_argument("--page", metavar="FILE", help="where the page goes (default: STUDY/reproduction.md)")
    parser.add_argument("--beside", action="append", default=[], metavar="STUDY", help="finished studies for the page")
    return parser


def parse(argv: list[str]) -> StudyRequest:
    """Reads the flags of `pinnerformer study`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    size = QUICK if found.quick else SMALL if found.small else FULL
    return StudyRequest(
        source=Source(found.timelines, found.pins, found.cut, found.days),
        out=found.out,
        size=dataclasses.replace(size, steps=found.steps) if found.steps else size,
        seeds=found.seeds or (1 if found.quick else 3),
        budget_s=found.budget,
        workers=found.workers,
        new=found.new,
        oracle=found.oracle,
        title=found.title or os.path.basename(os.path.abspath(found.timelines)),
        page=found.page or os.path.join(found.out, "reproduction.md"),
        beside=tuple(found.beside),
    )


@dataclasses.dataclass(frozen=True)
class Progress:
    """Plain lines: what is done, and when the rest will be."""

    total: int
    started: float

    def say(self, done: int, name: str) -> None:
        """One line per finished cell."""
        elapsed = time.monotonic() - self.started
        left = elapsed / done * (self.total - done)
        print(
            f"[{elapsed:6.0f} s] {done}/{self.total} {name}, about {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


def is_finished(task: Task, digest: str) -> bool:
    """Whether a task's result is there, and is of this very task.

    Raises:
        StoreError: there is a result of other data or settings.
    """
    try:
        with open(task.path) as file:
            found = json.load(file)["identity"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{task.path}: not a result of a study; remove it and run the study again") from None
    wanted = json.loads(json.dumps(task.identity(digest)))
    if found != wanted:
        other = next(key for key in wanted if found.get(key) != wanted[key])
        raise StoreError(
            f"{task.path}: of another study ({other} differs); name another --out, or remove the folder to start over"
        )
    return True


def run_tasks(tasks: list[Task], source: Source, digest: str, workers: int, until: float) -> int:
    """Runs what is not finished yet, in order; returns how many were left out because time ran out."""
    pending = [task for task in tasks if not is_finished(task, digest)]
    if not pending:
        return 0
    progress = Progress(len(pending), time.monotonic())
    done, waiting = 0, list(reversed(pending))
    workers = min(workers, len(pending))
    if workers == 1:  # in this process: no second one to start
        start_worker()
        while waiting and time.monotonic() < until:
            done += 1
            progress.say(done, run_task(source, waiting.pop()))
        return len(waiting)
    # Not forked: torch's threads do not live through a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as pool:
        running: set[concurrent.futures.Future] = set()
        while running or (waiting and time.monotonic() < until):
            while waiting and len(running) < workers and time.monotonic() < until:
                running.add(pool.submit(run_task, source, waiting.pop()))
            finished, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                done += 1
                try:
                    progress.say(done, future.result())
                except concurrent.futures.process.BrokenProcessPool:
                    raise StoreError(
                        "a worker process ended before its cell was done (out of memory?); run the same command again "
                        "to go on, with fewer --workers if it happens again"
                    ) from None
    return len(waiting)


def read_result(path: str) -> dict[str, Any]:
    with open(path) as file:
        return json.load(file)


def write_result(path: str, value: dict[str, Any]) -> None:
    with replace_atomically(path) as temporary, open(temporary, "w") as file:
        json.dump(value, file, indent=1)


def measure_baselines(request: StudyRequest, path: str) -> None:
    """Writes what popularity, the mean of last vectors, PinnerSage and, on a synthetic world, its oracle get."""
    source = request.source
    evaluation, data, topics = load_evaluation(source.timelines, source.pins, source.cut, source.days)
    wanted = {"timelines": data.digest, "new": request.new, "cut_ms": evaluation.cut_ms, "days": source.days}
    if os.path.exists(path):
        if read_result(path)["identity"] != wanted:
            raise StoreError(f"{path}: of another study; name another --out, or remove the folder to start over")
        return
    print("the baselines ...", file=sys.stderr, flush=True)
    chosen = choose_baselines(evaluation.half("choice"), request.new)
    half = evaluation.half("report")
    clusters = half.clusters(chosen.threshold)
    moments = half.moments("once")
    figures = {
        "popularity": half.popularity(chosen.popularity_days),
        "mean_of_last": half.mean_of_last(chosen.mean_window),
        "pinnersage_5": half.pinnersage(clusters, 5),
        "pinnersage_20": half.pinnersage(clusters, 20),
    }
    if request.oracle:
        users = half.timelines.user_ids[moments.user]
        world = read_world(request.oracle)
        scores = oracle_scores(world, users, data.pin_ids, evaluation.cut_ms, source.days)
        figures["oracle"] = half.score(matrix_scorer(scores))
    counts = data.description["counts"]
    found = {
        "identity": wanted,
        "chosen": dataclasses.asdict(chosen),
        "topics": topics,
        "training_users": counts["train_users"],
        "training_events": int((data.timelines.timestamp_ms < evaluation.cut_ms).sum()),
        "corpus": int(evaluation.in_corpus.sum()),
        "figures": {name: f.as_json() for name, f in figures.items()},
        "by_user": {name: {c: np.round(v, 4).tolist() for c, v in f.by_user.items()} for name, f in figures.items()},
    }
    write_result(path, found)


def features_of(folder: str) -> tuple[str, ...]:
    """The features that tell events of these timelines apart: durations may be missing."""
    timelines = load_training_data(folder, "evaluation").timelines
    measured = not np.isnan(timelines.duration_s).all()
    return tuple(name for name in FEATURES if name != "duration" or measured)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    until = time.monotonic() + request.budget_s
    folder = os.path.join(request.out, "cells")
    os.makedirs(folder, exist_ok=True)
    measure_baselines(request, os.path.join(request.out, "baselines.json"))
    digest = read_result(os.path.join(request.out, "baselines.json"))["identity"]["timelines"]
    source, size = request.source, request.size
    cells = make_grid(size, features_of(source.timelines))

    def task(cell: Cell, seed: int, rate: float) -> Task:
        key = hashlib.sha256(json.dumps([size.steps, rate]).encode()).hexdigest()[:6]  # other settings, other files
        return Task(cell, seed, rate, size, os.path.join(folder, f"{cell.name}-seed{seed}-{key}.json"))

    # The learning rate first, on the base cell alone, and the same for all: tried per cell, a cell with more tries
    # would look better.
    tried = [task(cells[0], 0, rate) for rate in size.learning_rates]
    left = run_tasks(tried, source, digest, request.workers, until)
    figure = "recall_new" if request.new else "recall"
    rates = {t.learning_rate: read_result(t.path)["choice"]["once"][figure][0] for t in tried if os.path.exists(t.path)}
    if not rates:
        raise InputError(f"--budget: no cell was done within {request.budget_s:.0f} s; give more")
    rate = max(rates, key=lambda r: rates[r])
    # Seed by seed: a study that is cut short has one whole grid, and not three seeds of its first rows.
    tasks = [task(cell, seed, rate) for seed in range(request.seeds) for cell in cells]
    left = run_tasks(tasks, source, digest, request.workers, until)
    write_result(
        os.path.join(request.out, "study.json"),
        {
            "title": request.title,
            "figure": figure,
            "size": dataclasses.asdict(size),
            "seeds": request.seeds,
            "learning_rate": rate,
            "learning_rates": {str(r): v for r, v in rates.items()},
            "cells": [[t.cell.name, t.seed, os.path.relpath(t.path, request.out)] for t in tasks],
            "base": BASE,
        },
    )
    write_page([Study.load(name) for name in [request.out, *request.beside]], request.page)
    if left:
        print(f"{left} of {len(tasks)} cells left out: --budget ran out; run again to go on", file=sys.stderr)
    print(f"page   {request.page}")
    return 0
