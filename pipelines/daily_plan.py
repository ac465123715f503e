"""What a daily run is given, and everything that is decided before it starts."""

import dataclasses
import datetime
import hashlib
import json
import os
from typing import Any

import pyarrow as pa
import torch
from apache_beam.options.pipeline_options import PipelineOptions

from pinnerformer_model.checkpoint import load_config, model_digest
from pinnerformer_model.config import ModelConfig, ModelError
from pipelines.arguments import Parser, positive, seconds
from pipelines.beam_options import worker_threads
from stores.errors import InputError, UsageError
from stores.files import Root
from stores.indexes import IndexParameters
from stores.layout import Layout, check_layout, open_layout, read_layout
from stores.logs import ColumnNames, InputSelection, select_inputs
from stores.manifests import Manifest, manifest_path, read_manifest
from stores.pin_vectors import VectorSet, describe_vectors
from stores.releases import chain, next_release_id, read_current
from transforms.ageing import Ageing
from transforms.gates import Thresholds, read_thresholds
from transforms.model import ModelReference, local_model
from transforms.receipts import PARTS_VERSION
from transforms.resume import Finished, find_finished
from transforms.run import Instructions, Run


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the job is told beyond where things are; everything that bears on the result goes into the manifest."""

    token_budget: int
    join: str
    index: IndexParameters
    thresholds: Thresholds
    ageing: Ageing = Ageing()

    def to_json(self) -> dict[str, Any]:
        return {
            "token_budget": self.token_budget,
            "join": self.join,
            "index": dataclasses.asdict(self.index),
            "thresholds": dataclasses.asdict(self.thresholds),
            "ageing": dataclasses.asdict(self.ageing),
        }


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
    found, current = read_layout(root), read_current(root)
    if found is not None and current is not None:
        check_layout(root, found, current.settings, current.release)
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
        ageing=Ageing(arguments.max_history_days, arguments.max_idle_days, arguments.refresh_days),
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
    given: Given
    bootstrap_from: datetime.date
    finished: Finished
    committed: bool

    def launched(self, *, lease: str = "", progress_run: str = "") -> "Plan":
        """The plan with its run as workers get it; see `RunFolder.launched`."""
        return dataclasses.replace(self, run=self.run.launched(lease=lease, progress_run=progress_run))


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
            instructions=Instructions(not same_model(previous, given), given.settings.ageing),
            after=previous.day if previous else None,
        )
        finished = find_finished(run)
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
    where.add_argument(
        "--kv",
        metavar="URL",
        help="lmdb:///DIR, redis://HOST:PORT/DB, rediss://, redis+cluster://; env:NAME if the URL, with its password, "
        "is in an environment variable",
    )
    where.add_argument("--namespace", default="pinnerformer", help="first part of every key (default %(default)s)")
    read = parser.add_argument_group("how to read the logs")
    read.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="e.g. pin_id=item_id")
    read.add_argument(
        "--lookback", type=int, default=7, metavar="DAYS", help="partitions searched for late files (%(default)s)"
    )
    read.add_argument("--min-age", type=seconds, default="6h", metavar="6h", help="of a partition without _SUCCESS")
    kept = parser.add_argument_group(
        "how long things last; part of a run's identity, so give a root the same every night"
    )
    kept.add_argument(
        "--max-history-days", type=positive, default=0, metavar="N", help="rows older than N days leave the histories"
    )
    kept.add_argument(
        "--max-idle-days",
        type=positive,
        default=0,
        metavar="N",
        help="users without a row in N days leave the snapshot",
    )
    kept.add_argument(
        "--refresh-days",
        type=positive,
        default=0,
        metavar="N",
        help="embed every user again within N days, a share a day",
    )
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
