"""The backfill: many days of logs in, one release per day out, every bucket replayed through all days by one worker."""

import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from rich.console import Console

from pipelines.daily_finish import figures_of, finish_run, manifest_header, measure_releases, publish_committed
from pipelines.launch.beam_options import is_local
from pipelines.launch.crew import Crew, choose_crew
from pipelines.launch.daily_launch import say_kept_tables
from pipelines.launch.engine_hosts import host_check
from pipelines.launch.local_workers import LocalWorkers, local_workers
from pipelines.launch.progress import Progress
from pipelines.launch.run_pipeline import run_pipeline
from pipelines.operations.outcomes import open_target, raise_for_outcome, warn
from pipelines.operations.status import describe_release, release_table
from pipelines.pin_branch import pin_branch
from pipelines.planning.backfill_plan import (
    PIN_RUN,
    BackfillPlan,
    Pass,
    estimate,
    plan_backfill,
    print_plan,
    split_into_passes,
)
from pipelines.planning.backfill_request import BackfillRequest, parse
from pipelines.planning.backfill_work import work_left, work_of
from pipelines.planning.daily_plan import DailyPlan, read_job_inputs
from pipelines.report.range import range_reported
from pipelines.report.write import Seen
from pipelines.telemetry.lines import is_json, say
from stores.errors import InputError
from stores.files import FileEntry
from stores.kv import open_store
from stores.lease import check_lease, hold_lease
from stores.manifests import read_manifest
from stores.memory import available_memory
from stores.names import Step
from stores.releases import current_release, move_current, read_current, refuse_held
from stores.tables import PIN_NAMES
from transforms.backfill import ReplayBuckets, Replayed, find_replayed, initial_states
from transforms.backfill_rows import SpoolRowsByBucket
from transforms.markers import discard_staged, read_markers
from transforms.pin_names import NamePinsOfDays
from transforms.pin_reuse import kept_whole
from transforms.publish import PublishTarget, publish
from transforms.publish_step import is_spread
from transforms.read_logs import RowGroup, row_groups
from transforms.release import COMMITTED, OUTCOME, read_outcome
from transforms.report_outputs import FIGURES, REPORTS, CollectReports, DayReport, Figure, flatten_pairs, with_names
from transforms.resume import CompletedPins, find_completed_pins
from transforms.run import Run, RunFolder, checks_removed
from transforms.sort_vectors import remove_other_tables
from transforms.step_reports import StepReport

NO_DAY = -1  # whose reports are those of the pins
GOES_ON = "The releases before it stand; then this command again: it goes on from there."


@dataclasses.dataclass(frozen=True)
class ReadGroups:
    """The row groups of a pass, each with the number of its day: those to read, and what was read before.

    Attributes:
        staged: The files of those that an earlier attempt read.
        reports: (step, report) of them.
    """

    to_read: list[tuple[int, RowGroup]]
    staged: list[tuple[int, FileEntry]]
    reports: list[tuple[int, tuple[Step, StepReport]]]


def find_read(days: Sequence[DailyPlan]) -> ReadGroups:
    """Looks which row groups of some days an earlier attempt read."""
    found = ReadGroups([], [], [])
    for n, day in enumerate(days):
        markers = read_markers(day.run.root, day.run.staging, Step.READ_LOGS)
        for group in (group for file in day.inputs.files for group in row_groups(file)):
            marker = markers.get(group.task)
            if marker is None:
                found.to_read.append((n, group))
            else:
                found.staged.extend((n, entry) for entry in marker.staged)
                found.reports.extend((n, (step, report)) for step, report in marker.reports.items())
    return found


def define_pipeline(
    pipeline: beam.Pipeline,
    plan: BackfillPlan,
    days: Sequence[DailyPlan],
    pin_run: RunFolder,
    pins_done: CompletedPins,
    replayed: Replayed,
    target: PublishTarget | None,
) -> None:
    """One pass as one graph: rows staged by bucket, buckets replayed through the days, releases committed in order."""
    given, runs = plan.given, [day.run for day in days]
    # Once for the whole range: vectors and model are the same on every day, so that of the first is that of all.
    tables, pin_reports = pin_branch(pipeline, pin_run, plan.end, plan.layout.pin_shards, given, pins_done, plan.start)

    # A row group is read once, whatever number of passes and attempts: what was staged before is named, not read again.
    groups = find_read(days)
    # Rows go to files and only their names are shuffled: the local runner keeps every shuffled byte until the pipeline
    # ends.
    rows = (
        pipeline
        | "ListLogs" >> beam.Create(groups.to_read)
        | "SpoolRows" >> SpoolRowsByBucket(runs, given.columns, groups.staged)
    )
    # Day after day too: what a string lost its id to on a day, it has lost it to on all that follow.
    named = rows[PIN_NAMES] | "NamePins" >> NamePinsOfDays(runs, tables) if PIN_NAMES in rows else None
    # Nearly all of the work. One worker has a bucket from the first day to the last, so its histories and snapshot are
    # read once and not once per day; more workers than buckets are idle here.
    replayed_now = rows["main"] | "ReplayBuckets" >> ReplayBuckets(
        runs,
        replayed.starts,
        given.model,
        given.config,
        tables,
        given.vectors.dtype,
        given.settings.token_budget,
        named.main if named else None,
    )

    # The day stays the key up to the end: each release has counters of its own.
    found = pipeline | "ReportsOfFinished" >> beam.Create([*groups.reports, *replayed.reports()])
    of_days = (
        flatten_pairs(
            rows[REPORTS],
            *((named[REPORTS],) if named else ()),
            replayed_now,
            found,
        )
        | "AllReports" >> beam.Flatten()
    )
    pins_before = pipeline | "ReportsOfFinishedPins" >> beam.Create(pins_done.reports())
    # The pins' reports have no day: they are given to all of them by `finish_days`.
    of_pins = (
        flatten_pairs(pin_reports, pins_before)
        | "AllPinReports" >> beam.Flatten()
        | "OfNoDay" >> beam.Map(lambda of: (NO_DAY, of))
    )
    # A shard is opened once for all days.
    measured = measure_releases(runs, given, tables, of_days, of_pins)

    # The barrier: no day is visible before everything above is done.
    every = flatten_pairs(of_days, measured[REPORTS], of_pins) | "AndOfMeasures" >> beam.Flatten()
    collected = every | "Collect" >> CollectReports()
    # One element and one worker for all days: they are committed in order, and each is compared with the one before.
    spread = is_spread(target)
    ended = (
        pipeline
        | "Barrier" >> beam.Create([tuple(runs)])
        | "CheckCommitPublish"
        >> beam.Map(
            finish_days,
            target=target,
            sums=beam.pvalue.AsDict(collected["sums"]),
            names=beam.pvalue.AsIter(collected["names"]),
            figures=beam.pvalue.AsIter(measured[FIGURES]),
            compared_with=None if given.settings.reindex else plan.start.release if plan.start else "",
            spread=spread,
        )
    )
    if target is not None and spread:
        last = ended | "OfLastDay" >> beam.FlatMap(lambda of: [of] if of[0] == runs[-1].name else [])
        publish_committed(last, runs[-1], target)


def planned(run: Run) -> str:
    """Where what a manifest says of its inputs waits for the barrier: too much for a pipeline's graph."""
    return f"{run.staging}/planned.json"


def day_header(day: DailyPlan, replaces: str | None) -> dict[str, Any]:
    """What a day's manifest says that is known before; `replaces` is the release whose chain it takes the place of."""
    header = manifest_header(day)
    return {**header, "settings": {**header["settings"], **({"over": replaces} if replaces else {})}}


def finish_days(
    runs: Sequence[Run],
    target: PublishTarget | None,
    sums: dict[int, dict[Step, StepReport]],
    names: Iterable[list[DayReport]],
    figures: Iterable[Figure],
    compared_with: str | None,
    spread: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Checks and commits the days in order, and publishes the last; stops at the first that is not committed.

    The pin branch was one for all days: each names its files, the last its time.

    Args:
        sums, names: As `CollectReports` gives them; those of pins of the day `NO_DAY`.
        figures: What was measured, of all days.
        compared_with: The release that the pin branch kept files of, "" for none: on top of any other, a night keeps
            them all. None: nights keep none.
        spread: Publishing is left to steps that follow.

    Returns:
        The run that it came to, and its outcome.
    """
    # What was planned is read next: in a folder of the same name on another machine it would be missing, and its error
    # misleading.
    runs[0].check_root()  # before what was planned is read there
    outcome: dict[str, Any] = {}
    pins = with_names(sums[NO_DAY], names, NO_DAY)
    for n, run in enumerate(runs):
        last = n == len(runs) - 1
        first = compared_with is None or compared_with == (run.previous or "")
        found = pins if first else kept_whole(pins)
        # A sum of the days' times is then the time of the range; the work was done once.
        of_pins = {
            step: of if last else dataclasses.replace(of, seconds=0.0, began=None, ended=None)
            for step, of in found.items()
        }
        header, now = run.root.read_json(planned(run)), target if last else None
        later = spread and last
        of_day = {**with_names(sums[n], names, n), **of_pins}
        outcome = finish_run(run.name, header, run, now, of_day, figures_of(figures, n), later)
        if outcome["outcome"] != COMMITTED:
            break
    return run.name, outcome


def worker_count(options: PipelineOptions) -> int:
    """Local worker processes or threads; 1 where an engine decides."""
    workers = options.view_as(DirectOptions).direct_num_workers
    return workers or (os.cpu_count() or 1) if is_local(options) else 1


def run_pass(
    plan: BackfillPlan,
    days: Sequence[DailyPlan],
    target: PublishTarget | None,
    options: PipelineOptions,
    lease: str,
    workers: LocalWorkers,
    shown: bool,
    seen: Seen,
) -> None:
    """Runs what is not done yet of some days and sees them committed.

    Args:
        lease: Who must still hold the root whenever a day is committed.
        workers: That the job may have.
        seen: As `write_run_report` takes it.

    Raises:
        PinnerFormerError: a worker failed, a release was refused, or the last one could not be published.
    """
    root, runs = plan.given.root, [day.run for day in days]
    before = read_manifest(root, runs[0].previous) if runs[0].previous else None
    buckets = plan.layout.user_buckets
    replayed = find_replayed(runs, initial_states(before, buckets))
    if replayed.finished and shown:
        say(f"goes on: {len(replayed.finished):,} of {buckets * len(runs):,} bucket-days are done already")
    for day in days:
        # An outcome of an earlier attempt would be taken for this one's if the engine died before the barrier.
        root.remove(f"{day.run.staging}/{OUTCOME}")
        root.write_json(planned(day.run), day_header(day, plan.replaces.release if plan.replaces else None))
    hosts = host_check(options, root, plan.given.model, target)
    days = [day.launched(lease=lease, progress_run=runs[-1].name, hosts=hosts) for day in days]
    # One display for all days: the workers note their progress in one folder.
    pin_run = plan.pin_run.launched(progress_run=runs[-1].name, hosts=hosts)
    pins_done = find_completed_pins(plan.pin_run, plan.layout.pin_shards)
    if shown:
        say_kept_tables(pins_done)
    rows = sum(day.inputs.rows for day in days)
    work = work_left(plan, len(runs), rows, buckets * len(runs) - len(replayed.finished), pins_done)
    with Progress(runs[-1], work, shown=shown), checks_removed(pin_run, *(day.run for day in days)):
        run_pipeline(
            f"backfill-{runs[0].date}",
            options,
            lambda pipeline: define_pipeline(pipeline, plan, days, pin_run, pins_done, replayed, target),
            runner=workers.runner(options),
        )
    for run in runs:
        ended = read_outcome(root, run.name)
        raise_for_outcome(root, run.name, ended, publish="--publish none", advice=GOES_ON, seen=seen)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    request = parse(argv)
    if request.dry_run:
        open_target(request.target)
        plan = plan_backfill(request, read_job_inputs(request.job, join="broadcast"))
        work_s, known = work_of(plan)
        crew = choose_crew(request.job.workers, work_s, plan.layout.user_buckets, request.job.device, known=known)
        announce(plan, request, crew, file=sys.stdout)
        return 0
    # Workers are forks: what makes them is there before a store, a lease or a thread is.
    with local_workers(request.job.workers) as workers:
        return run_backfill(request, workers)


def run_backfill(request: BackfillRequest, workers: LocalWorkers) -> int:
    """Runs the job with the workers that it may have; returns the exit code."""
    open_target(request.target)
    given = read_job_inputs(request.job, join="broadcast")
    started, shown = time.perf_counter(), not request.job.quiet
    root, target = request.job.root, request.target
    with hold_lease(root, f"backfill {request.start} .. {request.end}") as lease:
        refuse_held(root)
        plan = plan_backfill(request, given)
        # Printed before anything is removed, so that whoever reads it can still stop.
        work_s, known = work_of(plan)
        crew = workers.settle(work_s, plan.layout.user_buckets, given.model, known=known)
        passes = announce(plan, request, crew, file=sys.stderr if shown else None)
        clear_up(plan)
        made = [day.run.release for day in plan.days]
        with range_reported(root, made, plan.start, (request.start, plan.end), plan.stopped, shown) as seen:
            for number, days in enumerate(passes):
                last = number == len(passes) - 1 and not plan.replaces
                run_pass(plan, days, target if last else None, request.job.beam, lease, workers, shown, seen)
        tip = plan.days[-1].run.release if plan.days else plan.start.release if plan.start else None
        # The new chain becomes visible at once and whole, after its last day: before, readers have the old one.
        if plan.replaces and tip and not plan.stopped:
            check_lease(root, lease)
            move_current(root, plan.replaces.release, tip)
        current = read_current(root)
        if target and current and current.release == tip and current.day <= plan.end:
            warn(publish(root, tip, target, unless_overtaken=True))  # done already, unless it was cut off before
        if plan.days:
            remove_other_tables(plan.pin_run)
        for run in root.list("staging"):
            if run.startswith(PIN_RUN):  # of earlier attempts too, which had another release to start from
                discard_staged(root, f"staging/{run}")
        if shown and plan.days:
            print_releases(plan, time.perf_counter() - started)
    if plan.stopped:
        raise InputError(f"the chain stops after {plan.days[-1].run.date}: {plan.stopped}")
    return 0


def clear_up(plan: BackfillPlan) -> None:
    """Removes what attempts that were cut off left of days that are committed, and of releases that are not."""
    root = plan.given.root
    for manifest in plan.left:
        if "run" in manifest.settings:
            discard_staged(root, f"staging/{manifest.settings['run']}")
    for day in plan.days:
        root.remove(f"releases/{day.run.release}")


def print_releases(plan: BackfillPlan, seconds: float) -> None:
    """Prints what was released, a line per day."""
    root = plan.given.root
    made = [describe_release(root, read_manifest(root, day.run.release)) for day in reversed(plan.days)]
    title = f"{len(made):,} release{'s'[: len(made) > 1]} in {seconds:,.1f} s (* CURRENT)"
    if is_json():
        say(title, releases=[{"release": one["release"], "users": one["users"]} for one in made])
        return
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    console.print(release_table(made, current_release(root), title))


def announce(plan: BackfillPlan, request: BackfillRequest, crew: Crew, file: TextIO | None) -> list[Pass]:
    """Cuts a plan into passes and prints it, if there is somewhere to."""
    beam_options, budget = request.job.beam, None
    if is_local(beam_options):
        budget = request.memory_gib << 30 if request.memory_gib else available_memory() // 2
    passes = split_into_passes(plan.days, estimate(plan).shuffled_bytes, budget, request.days_per_pass)
    if file is not None:
        print_plan(plan, passes, crew.count or worker_count(beam_options), where_to(request), file)
    return passes


def where_to(request: BackfillRequest) -> str:
    """What is published, and where, in words."""
    if not request.publish:
        return "nothing"
    if request.target is None:
        return "the last release"
    with open_store(request.target.url, request.target.namespace) as store:
        return f"the last release to {store.url_shown}"


if __name__ == "__main__":
    from pipelines import cli

    sys.exit(cli.main(["backfill", *sys.argv[1:]]))
