"""Hands a planned night to Beam: to its end, or to an engine that goes on alone."""

import itertools
import sys
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.launch.detached import note_submitted
from pipelines.launch.engine_hosts import host_check
from pipelines.launch.local_workers import LocalWorkers
from pipelines.launch.progress import Progress
from pipelines.launch.run_pipeline import run_pipeline
from pipelines.planning.daily_plan import DailyPlan, same_model
from pipelines.planning.lacking import say_lacking
from pipelines.planning.rates import Rates, users_to_embed
from stores.releases import chain
from transforms.gates.trends import WEEK
from transforms.release import OUTCOME, STAGED, PublishTarget, read_outcome

Define = Callable[[beam.Pipeline, DailyPlan], None]


def execute(
    plan: DailyPlan,
    define: Define,
    lease: str,
    options: PipelineOptions,
    workers: LocalWorkers,
    target: PublishTarget | None,
    *,
    shown: bool,
) -> dict[str, Any] | None:
    """Runs what is not done yet of a plan; returns how it ended, None if nothing says so.

    Args:
        define: Puts a launched plan on a pipeline.
        lease: Who must still hold the root when the release is committed.
        workers: That the job may have.
        target: Where the release is published.

    Raises:
        PinnerFormerError: in the words of the worker that failed.
    """
    run, taken_over = plan.run, plan.finished.describe()
    if taken_over and shown:
        print(f"goes on where {run.name} was cut off; done already: {taken_over}", file=sys.stderr)
    if shown:
        say_lacking(plan.inputs.files, plan.given.columns)
    # Else an earlier attempt's outcome would be read for this one's, where the engine dies before the barrier.
    run.root.remove(f"{run.staging}/{OUTCOME}")
    plan = plan.launched(lease=lease, hosts=host_check(options, run.root, plan.given.model, target))
    rows, pins = sum(f.rows for f in plan.inputs.files), plan.given.vectors.rows
    work_s, known = work_of(plan, rows)
    crew = workers.settle(work_s, run.layout.user_buckets, plan.given.model, known=known)
    if shown and crew.count:
        print(crew.describe(), file=sys.stderr)
    with Progress(plan.run, run.layout.user_buckets, rows=rows, pins=pins, shown=shown):
        run_pipeline(run.name, options, lambda pipeline: define(pipeline, plan), runner=workers.runner(options))
    return read_outcome(run.root, run.name)


def work_of(plan: DailyPlan, rows: int) -> tuple[float, bool]:
    """Seconds of work that a plan is likely to be, one after the other, as `pinnerformer plan` foretells it; whether
    releases tell."""
    run, given = plan.run, plan.given
    before = list(itertools.islice(chain(run.root, run.previous), WEEK)) if run.previous else []
    rates, current = Rates.of(before), before[0] if before else None
    everybody, refresh_days = not same_model(current, given), given.settings.ageing.refresh_days
    users = users_to_embed(rates, run.date, rows, current, everybody=everybody, refresh_days=refresh_days)
    return rates.work_s(users, rows, given.vectors.rows), rates.tell


def submit(plan: DailyPlan, define: Define, options: PipelineOptions, target: PublishTarget | None) -> None:
    """Hands a plan to its engine and prints the run's name; the job's last step writes how it ended.

    The lease ends with the launcher: of two runs on one root the one that moves CURRENT first wins, the other fails.
    """
    run = plan.run
    say_lacking(plan.inputs.files, plan.given.columns)
    for name in (OUTCOME, STAGED):  # of an earlier attempt
        run.root.remove(f"{run.staging}/{name}")
    plan = plan.launched(hosts=host_check(options, run.root, plan.given.model, target))
    result = run_pipeline(run.name, options, lambda pipeline: define(pipeline, plan), wait=False)
    note_submitted(run.root, run.name, options, result)
    print(run.name, flush=True)
