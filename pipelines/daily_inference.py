"""The daily job: the logs of yesterday in, one release out."""

import dataclasses
import datetime
import hashlib
import json
import sys
import time
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pinnerformer_model.checkpoint import load_config, model_digest
from pinnerformer_model.config import ModelConfig, ModelError
from pipelines.arguments import Parser, date, parse_beam_options, positive, seconds, worker_threads
from pipelines.launch import run_pipeline
from pipelines.progress import Progress
from pipelines.release import refusal
from pipelines.summary import print_summary
from stores.errors import InputError, RefusedError, StoreError, UsageError
from stores.files import Root
from stores.indexes import IndexParameters
from stores.kv import open_store
from stores.layout import open_layout, read_layout
from stores.lease import hold_lease
from stores.logs import ColumnNames, InputSelection, select_inputs
from stores.manifests import Manifest
from stores.pin_vectors import VectorSet, describe_vectors
from stores.releases import chain, next_release_id, read_current
from transforms.embed_users import EmbedUsers
from transforms.gates import Thresholds
from transforms.histories import UpdateHistories
from transforms.model import ModelReference
from transforms.pins import EmbedPins, ShardVectors
from transforms.read_logs import ReadLogs, row_groups
from transforms.release import FAILED, REFUSED, Publication, finish, read_outcome, stage
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
    """Everything a run needs to know, decided before it starts; `bootstrap_from` is the chain's first partition."""

    run: Run
    inputs: InputSelection
    columns: ColumnNames
    vectors: VectorSet
    model: ModelReference
    config: ModelConfig
    settings: Settings
    bootstrap_from: datetime.date


def define_pipeline(pipeline: beam.Pipeline, plan: Plan, target: Publication | None) -> None:
    """The daily job as one graph: user branch and pin branch side by side, then the barrier."""
    run, model = plan.run, plan.model
    groups = [group for file in plan.inputs.files for group in row_groups(file)]
    vector_groups = [(file, index) for file in plan.vectors.files for index in range(file.row_groups)]

    # The pin branch.
    tables = pipeline | "ListVectors" >> beam.Create(vector_groups) | "ShardVectors" >> ShardVectors(run, plan.vectors)
    pin_reports = tables["main"] | "EmbedPins" >> EmbedPins(run, model, plan.vectors.dtype, plan.settings.index)

    # The user branch.
    rows = pipeline | "ListLogs" >> beam.Create(groups) | "ReadLogs" >> ReadLogs(run, plan.columns)
    histories = rows.main | "UpdateHistories" >> UpdateHistories(run)
    joined = histories.main | "JoinPinVectors" >> JoinPinVectors(
        run, plan.config, tables["main"], plan.vectors.dtype, plan.settings.join
    )
    embedded = joined.main | "EmbedUsers" >> EmbedUsers(run, model, plan.settings.token_budget)
    snapshot_reports = embedded.main | "MergeSnapshot" >> MergeSnapshot(run, plan.config.embedding_dim)

    # The barrier: nothing is visible before everything above is done.
    reports = (
        (tables[REPORTS], pin_reports, rows[REPORTS], histories[REPORTS], joined[REPORTS], embedded[REPORTS])
        + (snapshot_reports,)
        | "AllReports" >> beam.Flatten()
        | "MergeReports" >> beam.CombineGlobally(MergeReports())
    )
    _ = (
        pipeline
        | "Barrier" >> beam.Create([run.name])
        | "CheckCommitPublish"
        >> beam.Map(
            finish_run, plan=_manifest_part(plan), run=run, target=target, reports=beam.pvalue.AsSingleton(reports)
        )
    )


def _manifest_part(plan: Plan) -> dict[str, Any]:
    """What the manifest says that is known before the run."""
    return {
        "model_digest": plan.model.digest,
        "inputs": [{"path": file.name, "rows": file.rows, "bytes": file.bytes} for file in plan.inputs.files],
        "settings": {
            **plan.settings.to_json(),
            "bootstrap_from": plan.bootstrap_from.isoformat(),
            "pinsage_version": plan.vectors.version,
            "layout": dataclasses.asdict(plan.run.layout),
        },
    }


def finish_run(
    name: str, plan: dict[str, Any], run: Run, target: Publication | None, reports: dict[str, StageReport]
) -> str:
    """Writes the staged manifest and runs check -> commit -> publish; returns the outcome's one word."""
    tables: dict[str, list] = {"histories": [], "user_embeddings": [], "pin_embeddings": [], "indexes": []}
    for report in reports.values():
        for table, entries in report.files.items():
            if table in tables:
                tables[table] += entries
    manifest = Manifest(
        release=run.release,
        date=run.date.isoformat(),
        previous=run.previous,
        model_digest=plan["model_digest"],
        tables={table: sorted(entries, key=lambda e: (e.part, e.path)) for table, entries in tables.items()},
        inputs=plan["inputs"],
        settings=plan["settings"],
        counters={stage_name: dict(sorted(r.counters.items())) for stage_name, r in sorted(reports.items())},
        gates=[],
        timings={stage_name: r.seconds for stage_name, r in sorted(reports.items())},
        retry_users=[],
    )
    stage(run.root, name, manifest, reports)
    thresholds = Thresholds(**plan["settings"]["thresholds"])
    return finish(run.root, name, thresholds, target)["outcome"]


def make_plan(arguments: Any, options: PipelineOptions) -> Plan:
    """Looks at everything the run was given and refuses what cannot work, before any work starts.

    Raises:
        PinnerFormerError: names the file, row or flag, and what to do.
    """
    root = Root(arguments.root)
    try:
        config, digest = load_config(arguments.model), model_digest(arguments.model)
    except ModelError as error:
        raise InputError(str(error)) from None
    vectors = describe_vectors(arguments.pins, config.pinsage_version)
    columns = ColumnNames.parse(arguments.column)
    asked = {
        name: getattr(arguments, name)
        for name in ("user_buckets", "pin_shards", "history_length")
        if getattr(arguments, name) is not None
    }
    previous = read_current(root)
    found = read_layout(root)
    length = asked.get("history_length") or (found.history_length if found else None) or 256
    if length < config.max_sequence_length:
        flag = f"--history-length {length}" if found is None else f"{root.path('layout.json')}: history_length {length}"
        raise UsageError(
            f"{flag}: shorter than the model's max_sequence_length {config.max_sequence_length}; "
            + ("raise it" if found is None else "start a new root with a longer one, or use a model with a shorter M")
        )
    releases = list(chain(root)) if previous else []
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
        if arguments.date < previous.day:
            raise UsageError(
                f"--date {arguments.date}: the root is at {previous.release} already, and histories only grow; "
                f"give --date {previous.date} or later"
            )
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
    settings = Settings(
        token_budget=arguments.token_budget,
        join=arguments.join,
        index=IndexParameters(m=arguments.index_m, ef_construction=arguments.index_ef_construction),
        thresholds=Thresholds(),
    )
    if settings.join == "auto":
        size = vectors.rows * 256 * (2 if vectors.dtype == "float16" else 4)
        settings = dataclasses.replace(
            settings, join="broadcast" if size <= arguments.broadcast_limit << 30 else "shuffle"
        )
    layout = open_layout(root, asked)
    same_model = previous is not None and previous.model_digest == digest
    same_model = same_model and previous.settings["token_budget"] == settings.token_budget  # type: ignore[union-attr]
    fingerprint = hashlib.sha256(
        json.dumps(
            [previous and previous.release, [f.name for f in inputs.files], settings.to_json(), digest, vectors.version]
        ).encode()
    ).hexdigest()
    run = Run(
        root=root,
        name=f"daily-{arguments.date.isoformat()}-{fingerprint[:12]}",
        date=arguments.date,
        release=next_release_id(root, arguments.date),
        previous=previous.release if previous else None,
        layout=layout,
        everyone_active=not same_model,
    )
    model = ModelReference(arguments.model, digest, arguments.device, worker_threads(options))
    return Plan(run, inputs, columns, vectors, model, config, settings, bootstrap_from)


def make_parser() -> Parser:
    """The flags of `pinnerformer daily`."""
    parser = Parser(prog="pinnerformer daily", description=DESCRIPTION, epilog=EPILOG)
    what = parser.add_argument_group("what to run on")
    what.add_argument("--root", required=True, metavar="DIR", help="where everything the job owns lies")
    what.add_argument("--logs", required=True, metavar="DIR", help="engagement logs, ds=YYYY-MM-DD/*.parquet")
    what.add_argument("--pins", required=True, metavar="DIR", help="PinSage vectors, *.parquet and version.json")
    what.add_argument("--model", required=True, metavar="DIR", help="model.safetensors and config.json")
    what.add_argument("--date", required=True, type=date, metavar="DATE", help="the last UTC day of logs to include")
    what.add_argument("--bootstrap-from", type=date, metavar="DATE", help="first day of logs; only on an empty root")
    where = parser.add_argument_group("where to publish")
    where.add_argument("--kv", metavar="URL", help="lmdb:///DIR, redis://HOST:PORT/DB, rediss://, redis+cluster://")
    where.add_argument("--namespace", default="pinnerformer", help="first part of every key (default %(default)s)")
    where.add_argument("--publish", choices=("store", "none"), default="store", help="none: commit only")
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
        "--join", choices=("auto", "broadcast", "shuffle"), default="auto", help="of histories and vectors"
    )
    how.add_argument(
        "--broadcast-limit", type=positive, default=8, metavar="GIB", help="auto broadcasts up to this (8)"
    )
    how.add_argument("--token-budget", type=positive, default=1024, help="padded tokens a batch (%(default)s)")
    how.add_argument("--index-m", type=positive, default=16, help="HNSW links a node (%(default)s)")
    how.add_argument("--index-ef-construction", type=positive, default=100, help="HNSW build width (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress display, no summary")
    return parser


def run(argv: list[str]) -> int:
    """Runs the job; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    options = parse_beam_options(parser, rest)
    target = None
    if arguments.publish == "store":
        if not arguments.kv:
            raise UsageError("--kv is missing: say where to publish, or --publish none")
        target = Publication(arguments.kv, arguments.namespace)
        with open_store(target.url, target.namespace) as store:
            store.check()
    started = time.perf_counter()
    root = Root(arguments.root)
    with hold_lease(root, f"daily {arguments.date}"):
        plan = make_plan(arguments, options)
        with Progress(
            plan.run, rows=sum(f.rows for f in plan.inputs.files), pins=plan.vectors.rows, shown=not arguments.quiet
        ):
            run_pipeline(plan.run.name, options, lambda pipeline: define_pipeline(pipeline, plan, target))
        outcome = read_outcome(root, plan.run.name)
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
