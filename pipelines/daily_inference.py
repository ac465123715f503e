"""The daily job: the logs of yesterday in, one release out."""

import sys
import time
from collections.abc import Collection, Iterable
from typing import Any

import apache_beam as beam

from pipelines.daily_finish import figures_of, finish_run, manifest_header, measure_releases, publish_committed
from pipelines.launch.daily_launch import Define, execute, submit
from pipelines.launch.local_workers import LocalWorkers, local_workers
from pipelines.launch.waiting import wait_for_day
from pipelines.operations.outcomes import open_target, raise_for_outcome
from pipelines.operations.summary import print_summary
from pipelines.pin_branch import pin_branch
from pipelines.planning.daily_plan import DailyPlan, JobInputs, plan_daily, read_job_inputs
from pipelines.planning.daily_request import DailyRequest, parse
from pipelines.planning.repair_plan import find_changed, plan_repair
from pipelines.telemetry.lines import say
from stores.errors import UsageError
from stores.lease import hold_lease
from stores.manifests import read_manifest
from stores.names import Step
from stores.releases import refuse_held
from stores.rewritten import describe_rewritten, repair_flags
from stores.string_ids import STRING
from stores.tables import PIN_NAMES
from transforms.embed_users import EmbedUsers
from transforms.histories import UpdateHistories
from transforms.pin_names import NamePins
from transforms.publish import PublishTarget
from transforms.publish_step import is_spread
from transforms.read_logs import ReadLogs, row_groups
from transforms.release import check_commit_publish
from transforms.report_outputs import FIGURES, REPORTS, CollectReports, DayReport, Figure, flatten_pairs, with_names
from transforms.run import Run
from transforms.sequences import JoinPinVectors
from transforms.snapshots import MergeSnapshot
from transforms.step_reports import StepReport


def define_pipeline(pipeline: beam.Pipeline, plan: DailyPlan, target: PublishTarget | None) -> None:
    """The daily job as one graph: user branch and pin branch side by side, then the barrier."""
    run, given, done = plan.run, plan.given, plan.finished
    groups = done.logs_to_read([group for file in plan.inputs.files for group in row_groups(file)])
    previous = read_manifest(run.root, run.previous) if run.previous else None
    # Where pins are strings, their names go to the shards; where they are numbers, none of this is in the graph.
    shards = run.layout.pin_shards if run.layout.pin_ids == STRING else 0

    # Needs vectors and model only, so it runs beside the users' branch. Its tables come first: the join below reads
    # them.
    tables, pin_reports = pin_branch(pipeline, run, run.date, run.layout.pin_shards, given, done.pin_branch, previous)

    # The user branch.
    # The one shuffle of log rows, 36 bytes each: from here on a bucket has all of a user, and needs no other bucket.
    read = ReadLogs(
        run, given.columns, run.layout.user_buckets, run.instructions.repair, done.histories, pin_shards=shards
    )
    rows = pipeline | "ListLogs" >> beam.Create(groups) | "ReadLogs" >> read
    named = name_pins(rows, run, tables, done.pin_names.keys()) if shards else None
    # Reads every bucket's histories, 28 bytes per row, and rewrites those that changed. It stands before the join
    # because it says who is active: nobody else's rows travel on.
    histories = rows.main | "UpdateHistories" >> UpdateHistories(
        run, given.config, done.histories.keys(), done.open_buckets(), named.main if named else None
    )
    # A vector of 256 numbers is 512 bytes beside a row of 28. So it is fetched late, for active users only, and not
    # shuffled at all where workers can map the tables.
    joined = histories["main"] | "JoinPinVectors" >> on_embedding_workers(
        JoinPinVectors(run, given.config, tables, given.vectors.dtype, given.settings.join), given
    )
    # The most expensive step of a night. What leaves it are names of files: whatever fails after it, no user is
    # embedded twice.
    embedded = joined | "EmbedUsers" >> on_embedding_workers(
        EmbedUsers(run, given.model, given.settings.token_budget), given
    )
    # Waits for all slices of a bucket, since a file of the snapshot is written once; without a new vector it stays as
    # it is.
    snapshot_reports = embedded.main | "MergeSnapshot" >> MergeSnapshot(
        run, given.config.embedding_dim, done.snapshots.keys(), done.embedded()
    )

    # Everything that is made is named by now. What gates ask of it is measured by bucket and by shard; a night is a
    # range of one day here.
    found = pipeline | "ReportsOfFinished" >> beam.Create(done.reports())
    made = (rows, *((named,) if named else ()), histories, embedded)
    reports = (
        flatten_pairs(*(step[REPORTS] for step in made), snapshot_reports, pin_reports, found)
        | "AllReports" >> beam.Flatten()
        | "OfTheNight" >> beam.Map(lambda of: (0, of))
    )
    measured = measure_releases([run], given, tables, reports, reports)

    # The barrier: nothing is visible before everything above is done. It takes sums, figures, and the names of files a
    # thousand at a time.
    collected = (
        flatten_pairs(reports, measured[REPORTS]) | "AndOfMeasures" >> beam.Flatten() | "Collect" >> CollectReports()
    )
    # Beam computes side inputs before the step that takes them: that, and no lock, is what makes the barrier wait. One
    # element, so that one worker checks and commits.
    spread = is_spread(target)
    ended = (
        pipeline
        | "Barrier" >> beam.Create([run.name])
        | "CheckCommitPublish"
        >> beam.Map(
            finish_night,
            header=manifest_header(plan),
            run=run,
            target=target,
            sums=beam.pvalue.AsDict(collected["sums"]),
            names=beam.pvalue.AsIter(collected["names"]),
            figures=beam.pvalue.AsIter(measured[FIGURES]),
            spread=spread,
        )
    )
    # A server takes what several workers send at the same time; a folder of LMDB has one writer, the step above.
    if target is not None and spread:
        publish_committed(ended | "OfRun" >> beam.Map(lambda outcome: (run.name, outcome)), run, target)


def finish_night(
    name: str,
    header: dict[str, Any],
    run: Run,
    target: PublishTarget | None,
    sums: dict[int, dict[Step, StepReport]],
    names: Iterable[list[DayReport]],
    figures: Iterable[Figure],
    spread: bool,
) -> dict[str, Any]:
    """`finish_run` of what was collected of a night: the day 0 of a range of one."""
    run.check_root()
    return finish_run(name, header, run, target, with_names(sums[0], names, 0), figures_of(figures, 0), spread)


def name_pins(rows: Any, run: Run, tables: beam.PCollection, finished: Collection[int]) -> Any:
    """Merges the names of pins; its main output are the strings that lost their id, which histories wait for.

    Args:
        rows: What `ReadLogs` gave.
        tables: The pin vector tables.
        finished: Shards that are done.
    """
    return rows[PIN_NAMES] | "NamePins" >> NamePins(run, tables, finished)


def on_embedding_workers(step: beam.PTransform, given: JobInputs) -> beam.PTransform:
    """Asks the engine for the machines that embedding needs, if the flags name any.

    Join and tower ask for the same: between steps that ask for different machines, engines write elements down, and a
    slice with its vectors is 16 MB.
    """
    return step.with_resource_hints(**given.embed_on) if given.embed_on else step


def repair_rewritten(request: DailyRequest, define: Define, lease: str, workers: LocalWorkers) -> None:
    """Before a night: does again what log files of its lookback touched that have changed since they were read.

    The result is a release of its own, gated and published like any other; without such files nothing happens.

    Args:
        define: Puts a launched plan on a pipeline.
        lease: Under which the caller holds the root.
        workers: That the job may have.

    Raises:
        PinnerFormerError: names the file, row or flag, and what to do; RefusedError where a gate closed.
    """
    night, job = request.night, request.night.job
    changed = find_changed(night)
    if not changed:
        return
    said = f"{describe_rewritten(job.logs, changed)}: changed since they were read"
    if request.detach:
        raise UsageError(
            f"--detach: {said}, and the repair is a run of its own; first, with these flags: "
            f"pinnerformer repair {repair_flags(changed)}"
        )
    given = read_job_inputs(job, night.join, night.broadcast_limit_gib)
    plan = plan_repair(job, given, None, {one.date for one in changed})
    if not job.quiet:
        say(f"{said}; what they touched is done again first, as release {plan.run.release}")
    outcome = execute(plan, define, lease, job.beam, workers, request.target, shown=not job.quiet)
    raise_for_outcome(job.root, plan.run.name, outcome)


def main(argv: list[str]) -> int:
    """Runs the job; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    request = parse(argv)
    # Workers are forks: what makes them is there before a store, a lease or a thread is.
    with local_workers(request.night.job.workers) as workers:
        return run_night(request, workers)


def run_night(request: DailyRequest, workers: LocalWorkers) -> int:
    """Runs the job with the workers that it may have; returns the exit code."""
    job, target = request.night.job, request.target
    open_target(target)
    if request.wait_s:
        wait_for_day(job.logs, request.night.date, job.min_age_s, request.wait_s, say)
    started, root = time.perf_counter(), job.root

    def define(pipeline: beam.Pipeline, plan: DailyPlan) -> None:
        define_pipeline(pipeline, plan, target)

    with hold_lease(root, f"daily {request.night.date}") as lease:
        # Under the lease: `rollback` takes it too, so that no hold is set between this look and the end of the run.
        refuse_held(root)
        if request.night.repair_rewritten:
            repair_rewritten(request, define, lease, workers)
        plan = plan_daily(request.night)
        outcome: dict[str, Any] | None
        if request.detach and not plan.committed:
            submit(plan, define, job.beam, target)
            return 0
        # The same command after a kill between CURRENT and the store: nothing is computed again, only published.
        if plan.committed:
            outcome = check_commit_publish(root, plan.run.name, plan.given.settings.thresholds, target, lease=lease)
        else:
            outcome = execute(plan, define, lease, job.beam, workers, target, shown=not job.quiet)
    outcome = raise_for_outcome(root, plan.run.name, outcome)
    if not job.quiet:
        print_summary(root, outcome, seconds=time.perf_counter() - started, file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipelines import cli

    sys.exit(cli.main(["daily", *sys.argv[1:]]))
