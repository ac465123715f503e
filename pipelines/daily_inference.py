"""The daily job: the logs of yesterday in, one release out."""

import dataclasses
import datetime
import sys
import time
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.arguments import Parser, date, positive
from pipelines.beam_options import parse_beam_options
from pipelines.daily_plan import Given, Plan, add_shared_flags, make_plan
from pipelines.detached import check_detachable, note_submitted
from pipelines.launch import run_pipeline
from pipelines.outcomes import conclude, open_target
from pipelines.progress import Progress
from pipelines.summary import print_summary
from stores.files import FileEntry, Root
from stores.lease import hold_lease
from stores.manifests import Manifest
from stores.names import Step
from stores.releases import refuse_pinned
from stores.tables import TABLES
from transforms.canaries import CanaryCheck, OneLook
from transforms.embed_users import EmbedUsers
from transforms.gates import Thresholds
from transforms.gates.drift import HISTOGRAM
from transforms.histories import UpdateHistories
from transforms.pins import EmbedPins, ShardVectors
from transforms.read_logs import ReadLogs, row_groups
from transforms.release import OUTCOME, STAGED, Publication, finish, read_outcome, stage
from transforms.report_outputs import REPORTS, MergeReports
from transforms.resume import CompletedPins
from transforms.run import Run, RunFolder
from transforms.sequences import JoinPinVectors
from transforms.snapshots import MergeSnapshot
from transforms.step_reports import StageReport

DESCRIPTION = """\
Turns the engagement logs up to a date into one release: a fresh embedding a user in the key-value store and a fresh
embedding a pin in the HNSW index.

The first run on an empty root builds the histories from --bootstrap-from on and embeds everybody seen; every later one
reads what came in since, embeds the users whose history changed, and keeps everybody else's vector. A night that was
missed is caught up. Nothing is visible before every gate is passed.
"""

EPILOG = """\
Beam's own options pass through, for example:
  --direct_running_mode=multi_processing --direct_num_workers=2     two worker processes on this machine
  --runner=FlinkRunner --flink_master=HOST:8081                     an engine of your own

exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by a gate (what was served before is still served)

example:
  pinnerformer daily --root ROOT --logs WORLD/logs --pins WORLD/pins --model MODEL \\
    --date 2026-11-23 --bootstrap-from 2026-11-01 --kv lmdb:///var/lib/pinnerformer
"""


def pin_branch(
    pipeline: beam.Pipeline, run: RunFolder, date: datetime.date, shards: int, given: Given, done: CompletedPins
) -> tuple[beam.PCollection, beam.PCollection]:
    """Sorts, embeds and indexes the pins; returns the vector tables, one a shard, and the reports."""
    vectors, dtype = given.vectors, given.vectors.dtype
    tables = (
        pipeline
        | "ListVectors" >> beam.Create(done.vectors_to_cut(vectors))
        | "ShardVectors" >> ShardVectors(run, shards, vectors, done.shard_tables(), done.pieces())
    )
    reports = tables["main"] | "EmbedPins" >> EmbedPins(
        run, date, given.model, dtype, given.settings.index, done.pins.keys(), done.unindexed()
    )
    return tables["main"], (tables[REPORTS], reports) | "PinBranchReports" >> beam.Flatten()


def define_pipeline(pipeline: beam.Pipeline, plan: Plan, target: Publication | None) -> None:
    """The daily job as one graph: user branch and pin branch side by side, then the barrier."""
    run, given, done = plan.run, plan.given, plan.finished
    groups = done.logs_to_read([group for file in plan.inputs.files for group in row_groups(file)])

    tables, pin_reports = pin_branch(pipeline, run, run.date, run.layout.pin_shards, given, done.pin_branch)

    # The user branch.
    read = ReadLogs(run, given.columns, run.layout.user_buckets, run.instructions.repair, done.histories)
    rows = pipeline | "ListLogs" >> beam.Create(groups) | "ReadLogs" >> read
    histories = rows.main | "UpdateHistories" >> UpdateHistories(run, done.histories.keys(), done.open_buckets())
    joined = histories["main"] | "JoinPinVectors" >> on_embedding_workers(
        JoinPinVectors(run, given.config, tables, given.vectors.dtype, given.settings.join), given
    )
    embedded = joined | "EmbedUsers" >> on_embedding_workers(
        EmbedUsers(run, given.model, given.settings.token_budget), given
    )
    snapshot_reports = embedded.main | "MergeSnapshot" >> MergeSnapshot(
        run, given.config.embedding_dim, done.snapshots.keys(), done.embedded()
    )

    # The barrier: nothing is visible before everything above is done.
    found = pipeline | "ReportsOfFinished" >> beam.Create(done.reports())
    reports = (
        (pin_reports, rows[REPORTS], histories[REPORTS], embedded[REPORTS], snapshot_reports, found)
        | "AllReports" >> beam.Flatten()
        | "MergeReports" >> beam.CombineGlobally(MergeReports())
    )
    _ = (
        pipeline
        | "Barrier" >> beam.Create([run.name])
        | "CheckCommitPublish"
        >> beam.Map(
            finish_run,
            plan=manifest_part(plan),
            run=run,
            target=target,
            reports=beam.pvalue.AsSingleton(reports),
            canaries=canary_check(given),
            tables=beam.pvalue.AsList(tables),
        )
    )


def on_embedding_workers(step: beam.PTransform, given: Given) -> beam.PTransform:
    """Asks the engine for the machines that embedding needs, if it was told of any.

    Join and tower ask for the same: between steps that ask for different machines, engines write elements down, and a
    slice with its vectors is 16 MB.
    """
    return step.with_resource_hints(**given.embed_on) if given.embed_on else step


def canary_check(given: Given) -> CanaryCheck:
    return CanaryCheck(given.model, given.vectors.dtype, given.settings.token_budget)


def manifest_part(plan: Plan) -> dict[str, Any]:
    """What the manifest says that is known before the run."""
    given = plan.given
    return {
        "model_digest": given.model.digest,
        "inputs": [{"path": file.name, "rows": file.rows, "bytes": file.bytes} for file in plan.inputs.files],
        "settings": {
            **given.settings.to_json(),
            "run": plan.run.name,
            "bootstrap_from": plan.bootstrap_from.isoformat(),
            "pinsage_version": given.vectors.version,
            "layout": dataclasses.asdict(plan.run.layout),
        },
    }


def finish_run(
    name: str,
    plan: dict[str, Any],
    run: Run,
    target: Publication | None,
    reports: dict[Step, StageReport],
    canaries: CanaryCheck | OneLook,
    tables: list[FileEntry],
) -> str:
    """Looks at the canaries, writes the staged manifest and runs check -> commit -> publish.

    Args:
        plan: From `manifest_part`.
        tables: Tonight's pin vectors, one table a shard.

    Returns:
        The outcome's one word.
    """
    run.check_root()
    reports = {**reports, Step.CHECK_CANARIES: canaries.look(run, tables, reports)}
    files: dict[str, list] = {table: [] for table in TABLES}
    for report in reports.values():
        for table, entries in report.files.items():
            if table in files:
                files[table] += entries
    manifest = Manifest(
        release=run.release,
        date=run.date.isoformat(),
        previous=run.previous,
        model_digest=plan["model_digest"],
        tables={table: sorted(entries, key=lambda e: (e.part, e.path)) for table, entries in files.items()},
        inputs=plan["inputs"],
        settings=plan["settings"],
        counters={stage_name: dict(sorted(r.counters.items())) for stage_name, r in sorted(reports.items())},
        statistics={HISTOGRAM: reports[Step.MERGE_SNAPSHOT].histograms.get(HISTOGRAM, [])},
        gates=[],
        timings={stage_name: r.seconds for stage_name, r in sorted(reports.items())},
        retry_users=sorted(user for r in reports.values() for user, _ in r.failures),
    )
    stage(run.root, name, manifest, reports)
    thresholds = Thresholds.from_manifest(plan["settings"]["thresholds"])
    outcome = finish(run.root, name, thresholds, target, lease=run.launch.lease)["outcome"]
    run.note_progress(Step.FINISH, 1)
    return outcome


def make_parser() -> Parser:
    """The flags of `pinnerformer daily`."""
    parser = Parser(prog="pinnerformer daily", description=DESCRIPTION, epilog=EPILOG)
    groups = add_shared_flags(parser)
    what, where, how = groups["what"], groups["where"], groups["how"]
    what.add_argument("--date", required=True, type=date, metavar="DATE", help="the last UTC day of logs to include")
    what.add_argument("--bootstrap-from", type=date, metavar="DATE", help="first day of logs; only on an empty root")
    where.add_argument("--publish", choices=("store", "none"), default="store", help="none: commit only")
    how.add_argument(
        "--join", choices=("auto", "broadcast", "shuffle"), default="auto", help="of histories and vectors"
    )
    how.add_argument(
        "--broadcast-limit", type=positive, default=8, metavar="GIB", help="auto broadcasts up to this (8)"
    )
    parser.add_argument(
        "--detach", action="store_true", help="hand the job to the engine, print the run's name for `release`, return"
    )
    return parser


def execute(
    plan: Plan, lease: str, target: Publication | None, options: PipelineOptions, *, shown: bool
) -> dict[str, Any] | None:
    """Runs what is not done yet of a plan; returns how it ended, None if nothing says so.

    Args:
        lease: Who must still hold the root when the release is committed.

    Raises:
        PinnerFormerError: in the words of the worker that failed.
    """
    run, taken_over = plan.run, plan.finished.describe()
    if taken_over and shown:
        print(f"goes on where {run.name} was cut off; done already: {taken_over}", file=sys.stderr)
    run.root.remove(f"{run.staging}/{OUTCOME}")
    plan = plan.launched(lease=lease)
    rows, pins = sum(f.rows for f in plan.inputs.files), plan.given.vectors.rows
    with Progress(plan.run, run.layout.user_buckets, rows=rows, pins=pins, shown=shown):
        run_pipeline(run.name, options, lambda pipeline: define_pipeline(pipeline, plan, target))
    return read_outcome(run.root, run.name)


def submit(plan: Plan, target: Publication | None, options: PipelineOptions) -> None:
    """Hands a plan to its engine and prints the run's name; the job's last step writes how it ended.

    The lease ends with the launcher: of two runs on one root the one that moves CURRENT first wins, the other fails.
    """
    run = plan.run
    for name in (OUTCOME, STAGED):  # of an earlier attempt
        run.root.remove(f"{run.staging}/{name}")
    plan = plan.launched()
    result = run_pipeline(run.name, options, lambda pipeline: define_pipeline(pipeline, plan, target), wait=False)
    note_submitted(run.root, run.name, options, result)
    print(run.name, flush=True)


def run(argv: list[str]) -> int:
    """Runs the job; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    options = parse_beam_options(parser, rest)
    if arguments.detach:
        check_detachable(options)
    target = open_target(arguments)
    started = time.perf_counter()
    root = Root(arguments.root)
    with hold_lease(root, f"daily {arguments.date}") as lease:
        refuse_pinned(root)
        plan = make_plan(arguments, options)
        outcome: dict[str, Any] | None
        if arguments.detach and not plan.committed:
            submit(plan, target, options)
            return 0
        if plan.committed:
            outcome = finish(root, plan.run.name, plan.given.settings.thresholds, target, lease=lease)
        else:
            outcome = execute(plan, lease, target, options, shown=not arguments.quiet)
    outcome = conclude(root, plan.run.name, outcome)
    if not arguments.quiet:
        print_summary(root, outcome, seconds=time.perf_counter() - started, file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipelines.cli import main

    sys.exit(main(["daily", *sys.argv[1:]]))
