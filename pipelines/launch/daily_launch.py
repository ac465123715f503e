"""Hands a planned night to Beam: to its end, or to an engine that goes on alone."""

from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.launch.detached import note_submitted
from pipelines.launch.engine_hosts import host_check
from pipelines.launch.local_workers import LocalWorkers
from pipelines.launch.progress import Progress
from pipelines.launch.run_pipeline import run_pipeline
from pipelines.launch.stages import Work
from pipelines.planning.daily_plan import DailyPlan, same_model
from pipelines.planning.lacking import say_lacking
from pipelines.planning.rates import Rates, last_releases, users_to_embed
from pipelines.telemetry.facts import facts
from pipelines.telemetry.lines import say
from stores.names import Step
from transforms.release import OUTCOME, STAGED, PublishTarget, read_outcome
from transforms.resume import CompletedPins
from transforms.run import checks_removed

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
    facts().run = run.name
    if taken_over and shown:
        say(f"goes on where {run.name} was cut off; done already: {taken_over}")
    if shown:
        say_lacking(plan.inputs.files, plan.given.columns)
        say_kept_tables(plan.finished.pin_branch)
    # Else an earlier attempt's outcome would be read for this one's, where the engine dies before the barrier.
    run.root.remove(f"{run.staging}/{OUTCOME}")
    plan = plan.launched(lease=lease, hosts=host_check(options, run.root, plan.given.model, target))
    rows = plan.inputs.rows
    by_step, known = work_of(plan, rows)
    work_s = sum(of for step, of in by_step.items() if step != Step.FINISH)
    crew = workers.settle(work_s, run.layout.user_buckets, plan.given.model, known=known)
    if shown and crew.count:
        say(crew.describe(), workers=crew.count)
    wall_s = sum(by_step.values()) / crew.count if known and crew.count else None
    # What nobody measured here is no ground to say when it ends.
    left = work_left(plan, rows, by_step if known else {}, wall_s)
    with Progress(plan.run, left, shown=shown), checks_removed(plan.run):
        run_pipeline(run.name, options, lambda pipeline: define(pipeline, plan), runner=workers.runner(options))
    return read_outcome(run.root, run.name)


def say_kept_tables(done: CompletedPins) -> None:
    """Says that vectors were sorted before, if they were."""
    if done.kept:
        say(f"--pins: the files are those of an earlier run; its sorted tables are kept: {done.kept:,}", kept=done.kept)


def work_of(plan: DailyPlan, rows: int) -> tuple[dict[Step, float], bool]:
    """Seconds of work that the steps of a plan are likely to be, one after the other, as `pinnerformer plan` foretells
    them; whether releases tell."""
    run, given = plan.run, plan.given
    before = last_releases(run.root, run.previous)
    rates, current = Rates.of(before), before[0] if before else None
    everybody, refresh_days = not same_model(current, given), given.settings.ageing.refresh_days
    users = users_to_embed(rates, run.date, rows, current, everybody=everybody, refresh_days=refresh_days)
    return rates.work_by_step(users, rows, given.vectors.rows, current), rates.tell


def work_left(plan: DailyPlan, rows: int, seconds: Mapping[Step, float], wall_s: float | None) -> Work:
    """What is to be done of a night that an earlier attempt has not done."""
    done, buckets, shards = plan.finished, plan.run.layout.user_buckets, plan.run.layout.pin_shards
    pins = plan.given.vectors.rows
    left = {
        Step.UPDATE_HISTORIES: buckets - len(done.histories),
        Step.MERGE_SNAPSHOT: buckets - len(done.snapshots),
        Step.SHARD_PINS: shards - len(done.pin_branch.tables),
        Step.EMBED_PINS: shards - len(done.pin_branch.pins),
        Step.BUILD_INDEXES: shards - len(done.pin_branch.indexes),
        Step.FINISH: 1,
    }
    whole = {Step.SHARD_PINS: pins, Step.EMBED_PINS: pins, Step.BUILD_INDEXES: pins}
    units = {step: of for step, of in whole.items() if left[step] == shards}
    if not done.logs:
        units[Step.READ_LOGS] = rows
    of_steps = {step: of for step, of in seconds.items() if left.get(step, 1)}
    return Work(units, left, of_steps, wall_s)


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
