"""The daily job: the logs of yesterday in, one release out."""

import dataclasses
import datetime
import hashlib
import json
import os
import sys
import time
from typing import Any

import apache_beam as beam
import pyarrow as pa
import torch
from apache_beam.options.pipeline_options import PipelineOptions

from pinnerformer_model.checkpoint import load_config, model_digest
from pinnerformer_model.config import ModelConfig, ModelError
from pipelines.arguments import Parser, date, positive, seconds
from pipelines.beam_options import parse_beam_options, worker_threads
from pipelines.detached import check_detachable, note_submitted
from pipelines.launch import run_pipeline
from pipelines.progress import Progress
from pipelines.release import refusal
from pipelines.summary import print_summary
from stores.errors import InputError, RefusedError, StoreError, UsageError
from stores.files import FileEntry, Root
from stores.indexes import IndexParameters
from stores.kv import open_store
from stores.layout import Layout, open_layout, read_layout
from stores.lease import hold_lease
from stores.logs import ColumnNames, InputSelection, select_inputs
from stores.manifests import Manifest, manifest_path, read_manifest
from stores.pin_vectors import VectorSet, describe_vectors
from stores.releases import chain, next_release_id, read_current, refuse_pinned
from stores.tables import TABLES
from transforms.canaries import STAGE as CANARY_STAGE
from transforms.canaries import CanaryCheck
from transforms.embed_users import EmbedUsers
from transforms.gates import Thresholds, read_thresholds
from transforms.gates.drift import HISTOGRAM
from transforms.histories import UpdateHistories
from transforms.model import ModelReference, local_model
from transforms.pins import EmbedPins, ShardVectors
from transforms.read_logs import ReadLogs, row_groups
from transforms.receipts import PARTS_VERSION
from transforms.release import FAILED, OUTCOME, REFUSED, STAGED, Publication, finish, read_outcome, stage
from transforms.resume import Finished, find_finished
from transforms.run import REPORTS, MergeReports, Run, StageReport
from transforms.sequences import JoinPinVectors
from transforms.snapshots import MergeSnapshot

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


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the job is told beyond where things are; everything that bears on the result goes into the manifest."""

    token_budget: int
    join: str
    index: IndexParameters
    thresholds: Thresholds

    def to_json(self) -> dict[str, Any]:
        return {
            "token_budget": self.token_budget,
            "join": self.join,
            "index": dataclasses.asdict(self.index),
            "thresholds": dataclasses.asdict(self.thresholds),
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything a run needs to know, decided before it starts.

    Attributes:
        bootstrap_from: The chain's first partition.
        finished: What an earlier attempt of the same run has done.
        committed: Whether it got as far as its release; what may be missing is that it is published.
    """

    run: Run
    inputs: InputSelection
    given: "Given"
    bootstrap_from: datetime.date
    finished: Finished
    committed: bool


def pin_branch(
    pipeline: beam.Pipeline, run: Run, given: "Given", done: Finished
) -> tuple[beam.PCollection, beam.PCollection]:
    """Sorts, embeds and indexes the pins; returns the vector tables, one a shard, and the reports."""
    vectors, dtype = given.vectors, given.vectors.dtype
    tables = (
        pipeline
        | "ListVectors" >> beam.Create(done.vectors_to_cut(vectors))
        | "ShardVectors" >> ShardVectors(run, vectors, done.shard_tables(), done.pieces())
    )
    reports = tables["main"] | "EmbedPins" >> EmbedPins(
        run, given.model, dtype, given.settings.index, done.pins.keys(), done.unindexed()
    )
    return tables["main"], (tables[REPORTS], reports) | "PinBranchReports" >> beam.Flatten()


def define_pipeline(pipeline: beam.Pipeline, plan: Plan, target: Publication | None) -> None:
    """The daily job as one graph: user branch and pin branch side by side, then the barrier."""
    run, given, done = plan.run, plan.given, plan.finished
    groups = done.logs_to_read([group for file in plan.inputs.files for group in row_groups(file)])

    tables, pin_reports = pin_branch(pipeline, run, given, done)

    # The user branch.
    rows = pipeline | "ListLogs" >> beam.Create(groups) | "ReadLogs" >> ReadLogs(run, given.columns, done.histories)
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


def on_embedding_workers(step: beam.PTransform, given: "Given") -> beam.PTransform:
    """Asks the engine for the machines that embedding needs, if it was told of any.

    Join and tower ask for the same: between steps that ask for different machines, engines write elements down, and a
    slice with its vectors is 16 MB.
    """
    return step.with_resource_hints(**given.embed_on) if given.embed_on else step


def canary_check(given: "Given") -> CanaryCheck:
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
    reports: dict[str, StageReport],
    canaries: CanaryCheck,
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
    reports = {**reports, CANARY_STAGE: canaries.look(run, tables, reports)}
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
        statistics={HISTOGRAM: reports["merge_snapshot"].histograms.get(HISTOGRAM, [])},
        gates=[],
        timings={stage_name: r.seconds for stage_name, r in sorted(reports.items())},
        retry_users=sorted(user for r in reports.values() for user, _ in r.failures),
    )
    stage(run.root, name, manifest, reports)
    thresholds = Thresholds(**plan["settings"]["thresholds"])
    outcome = finish(run.root, name, thresholds, target, lease=run.lease)["outcome"]
    run.note_progress("finish", 1)
    return outcome


@dataclasses.dataclass(frozen=True)
class Given:
    """What a job is given beside the logs, looked at and found fit.

    Attributes:
        asked: What the flags say of the layout.
        embed_on: Beam's resource hints for the steps that embed users; empty where the engine has one kind of worker.
    """

    root: Root
    columns: ColumnNames
    vectors: VectorSet
    model: ModelReference
    config: ModelConfig
    settings: Settings
    asked: dict[str, Any]
    embed_on: dict[str, str] = dataclasses.field(default_factory=dict)


def read_given(arguments: Any, options: PipelineOptions) -> Given:
    """Looks at the model, the vectors and the flags; writes nothing.

    Raises:
        PinnerFormerError: names the file or flag, and what to do.
    """
    root = Root(arguments.root)
    try:
        model_folder = local_model(arguments.model)
        config, digest = load_config(model_folder), model_digest(model_folder)
    except ModelError as error:
        raise InputError(str(error)) from None
    vectors = describe_vectors(arguments.pins, config.pinsage_version)
    columns = ColumnNames.parse(arguments.column)
    asked = {
        name: getattr(arguments, name)
        for name in ("user_buckets", "pin_shards", "history_length")
        if getattr(arguments, name) is not None
    }
    found = read_layout(root)
    length = asked.get("history_length") or (found.history_length if found else None) or 256
    if length < config.max_sequence_length:
        flag = f"--history-length {length}" if found is None else f"{root.path('layout.json')}: history_length {length}"
        raise UsageError(
            f"{flag}: shorter than the model's max_sequence_length {config.max_sequence_length}; "
            + ("raise it" if found is None else "start a new root with a longer one, or use a model with a shorter M")
        )
    settings = Settings(
        token_budget=arguments.token_budget,
        join=arguments.join,
        index=IndexParameters(m=arguments.index_m, ef_construction=arguments.index_ef_construction),
        thresholds=read_thresholds(arguments.gates),
    )
    if settings.join == "auto":
        size = vectors.rows * 256 * (2 if vectors.dtype == "float16" else 4)
        settings = dataclasses.replace(
            settings, join="broadcast" if size <= arguments.broadcast_limit << 30 else "shuffle"
        )
    model = ModelReference(arguments.model, digest, arguments.device, worker_threads(options))
    hints = {"accelerator": arguments.embed_accelerator, "min_ram": arguments.embed_ram}
    embed_on = {name: value for name, value in hints.items() if value}
    return Given(root, columns, vectors, model, config, settings, asked, embed_on)


def make_plan(arguments: Any, options: PipelineOptions) -> Plan:
    """Looks at everything the run was given and refuses what cannot work, before any work starts.

    Raises:
        PinnerFormerError: names the file, row or flag, and what to do.
    """
    given = read_given(arguments, options)
    root = given.root

    def plan_on(previous: Manifest | None) -> Plan:
        inputs, bootstrap_from = choose_inputs(root, arguments, previous, given.columns)
        layout = open_layout(root, given.asked)
        run = Run(
            root=root,
            name=f"daily-{arguments.date.isoformat()}-" + fingerprint(given, previous, inputs, bootstrap_from, layout),
            date=arguments.date,
            release=next_release_id(root, arguments.date),
            previous=previous.release if previous else None,
            layout=layout,
            everyone_active=not same_model(previous, given),
        )
        finished = find_finished(run, given.vectors)
        return Plan(run, inputs, given, bootstrap_from, finished, committed=False)

    current = read_current(root)
    if current is not None and arguments.date < current.day:
        raise UsageError(
            f"--date {arguments.date}: the root is at {current.release} already, and histories only grow; "
            f"give --date {current.date} or later"
        )
    if current is not None and arguments.date == current.day:
        # The newest release may be what this very command made before it was cut off.
        before = read_manifest(root, current.previous) if current.previous else None
        if before is not None or arguments.bootstrap_from is not None:
            plan = plan_on(before)
            if plan.run.name == current.settings.get("run"):
                return dataclasses.replace(
                    plan, run=dataclasses.replace(plan.run, release=current.release), committed=True
                )
    return plan_on(current)


def choose_inputs(
    root: Root, arguments: Any, previous: Manifest | None, columns: ColumnNames
) -> tuple[InputSelection, datetime.date]:
    """The log files that a run on top of a release reads, and the first partition of the chain.

    Raises:
        UsageError: an empty root, and no word on where to start.
    """
    releases = list(chain(root, previous.release)) if previous else []
    if previous is None:
        if arguments.bootstrap_from is None:
            raise UsageError(
                f"--root {root.url}: no release in it yet; say --bootstrap-from DATE, the first day of logs to build "
                "the histories from"
            )
        if arguments.bootstrap_from > arguments.date:
            raise UsageError(f"--bootstrap-from {arguments.bootstrap_from}: later than --date {arguments.date}")
        first = bootstrap_from = arguments.bootstrap_from
    else:
        first = previous.day + datetime.timedelta(1)
        bootstrap_from = datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    inputs = select_inputs(
        arguments.logs,
        first=first,
        last=arguments.date,
        lookback=arguments.lookback,
        chain_start=bootstrap_from,
        already_read={entry["path"]: None for manifest in releases for entry in manifest.inputs},
        min_age_s=arguments.min_age,
        columns=columns,
    )
    return inputs, bootstrap_from


def same_model(previous: Manifest | None, given: Given) -> bool:
    """Whether vectors of a release may be carried over into one of the model and settings given."""
    if previous is None or previous.model_digest != given.model.digest:
        return False
    return previous.settings["token_budget"] == given.settings.token_budget


def fingerprint(
    given: Given, previous: Manifest | None, inputs: InputSelection, bootstrap_from: datetime.date, layout: Layout
) -> str:
    """12 hex digits for everything that the content of a run's parts depends on: parts of equal runs are equal.

    The gates' thresholds are no part of it: a refused run that is started again with others computes nothing anew.
    """
    root, vectors, model = given.root, given.vectors, given.model
    told = given.settings.to_json()
    del told["thresholds"]
    try:
        erased = root.read_bytes("erased")
    except FileNotFoundError:
        erased = b""
    facts = [
        [PARTS_VERSION, torch.__version__, pa.__version__, model.digest, model.device],
        previous and hashlib.sha256(root.read_bytes(manifest_path(previous.release))).hexdigest(),
        [[f.name, f.rows, f.bytes, f.version] for f in inputs.files],
        [bootstrap_from.isoformat(), given.columns.names, told, dataclasses.asdict(layout)],
        [vectors.version, vectors.dtype, [[os.path.basename(f.path), f.rows, f.version] for f in vectors.files]],
        hashlib.sha256(erased).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def add_shared_flags(parser: Parser) -> dict[str, Any]:
    """Adds the flags that every job on the logs has; returns their groups, for the job's own."""
    what = parser.add_argument_group("what to run on")
    what.add_argument("--root", required=True, metavar="DIR", help="a folder, s3:// or gs://: all that the job owns")
    what.add_argument("--logs", required=True, metavar="DIR", help="engagement logs, ds=YYYY-MM-DD/*.parquet")
    what.add_argument("--pins", required=True, metavar="DIR", help="PinSage vectors, *.parquet and version.json")
    what.add_argument("--model", required=True, metavar="DIR", help="model.safetensors and config.json")
    where = parser.add_argument_group("where to publish")
    where.add_argument("--kv", metavar="URL", help="lmdb:///DIR, redis://HOST:PORT/DB, rediss://, redis+cluster://")
    where.add_argument("--namespace", default="pinnerformer", help="first part of every key (default %(default)s)")
    read = parser.add_argument_group("how to read the logs")
    read.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="e.g. pin_id=item_id")
    read.add_argument(
        "--lookback", type=int, default=7, metavar="DAYS", help="partitions searched for late files (%(default)s)"
    )
    read.add_argument("--min-age", type=seconds, default="6h", metavar="6h", help="of a partition without _SUCCESS")
    made = parser.add_argument_group("fixed when the root is made")
    made.add_argument("--user-buckets", type=positive, help="parts of histories and user embeddings (64)")
    made.add_argument("--pin-shards", type=positive, help="parts of pin embeddings and the index (4)")
    made.add_argument("--history-length", type=positive, help="engagements kept a user (256)")
    how = parser.add_argument_group("how to compute")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    how.add_argument(
        "--embed-accelerator", metavar="HINT", help="Dataflow: type:nvidia-l4;count:1;install-nvidia-driver"
    )
    how.add_argument("--embed-ram", metavar="SIZE", help="Dataflow: memory of the workers that embed users, e.g. 16GB")
    how.add_argument("--token-budget", type=positive, default=1024, help="padded tokens a batch (%(default)s)")
    how.add_argument("--index-m", type=positive, default=16, help="HNSW links a node (%(default)s)")
    how.add_argument("--index-ef-construction", type=positive, default=100, help="HNSW build width (%(default)s)")
    parser.add_argument("--gates", metavar="FILE", help="YAML, where the gates close (defaults: deploy/gates.yaml)")
    parser.add_argument("--quiet", action="store_true", help="no progress display, no summary")
    return {"what": what, "where": where, "read": read, "how": how}


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


def execute(plan: Plan, target: Publication | None, options: PipelineOptions, *, shown: bool) -> dict[str, Any] | None:
    """Runs what is not done yet of a plan; returns how it ended, None if nothing says so.

    Raises:
        PinnerFormerError: in the words of the worker that failed.
    """
    run, taken_over = plan.run, plan.finished.describe()
    if taken_over and shown:
        print(f"goes on where {run.name} was cut off; done already: {taken_over}", file=sys.stderr)
    run.root.remove(f"{run.staging}/{OUTCOME}")
    run = run.leave_token()
    plan = dataclasses.replace(plan, run=run)
    with Progress(run, rows=sum(f.rows for f in plan.inputs.files), pins=plan.given.vectors.rows, shown=shown):
        run_pipeline(run.name, options, lambda pipeline: define_pipeline(pipeline, plan, target))
    return read_outcome(run.root, run.name)


def submit(plan: Plan, target: Publication | None, options: PipelineOptions) -> None:
    """Hands a plan to its engine and prints the run's name; the job's last step writes how it ended.

    The lease ends with the launcher: of two runs on one root the one that moves CURRENT first wins, the other fails.
    """
    run = plan.run.leave_token()
    for name in (OUTCOME, STAGED):  # of an earlier attempt
        run.root.remove(f"{run.staging}/{name}")
    plan = dataclasses.replace(plan, run=run)
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
    target = None
    if arguments.publish == "store":
        if not arguments.kv:
            raise UsageError("--kv is missing: say where to publish, or --publish none")
        target = Publication(arguments.kv, arguments.namespace)
        with open_store(target.url, target.namespace) as store:
            store.check()
    started = time.perf_counter()
    root = Root(arguments.root)
    with hold_lease(root, f"daily {arguments.date}") as lease:
        refuse_pinned(root)
        plan = make_plan(arguments, options)
        outcome: dict[str, Any] | None
        if arguments.detach and not plan.committed:
            submit(plan, target, options)
            return 0
        plan = dataclasses.replace(plan, run=dataclasses.replace(plan.run, lease=lease))
        if plan.committed:
            outcome = finish(root, plan.run.name, plan.given.settings.thresholds, target, lease=lease)
        else:
            outcome = execute(plan, target, options, shown=not arguments.quiet)
    if outcome is None:
        raise StoreError(f"{root.path(plan.run.staging)}: the run ended without an outcome; look into the engine's log")
    if outcome["outcome"] == FAILED:
        raise StoreError(outcome["error"])
    if outcome["outcome"] == REFUSED:
        raise RefusedError(refusal(root, plan.run.name, outcome))
    if not arguments.quiet:
        print_summary(root, outcome, seconds=time.perf_counter() - started, file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipelines.cli import main

    sys.exit(main(["daily", *sys.argv[1:]]))
