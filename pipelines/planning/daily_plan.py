"""What a daily run is given, and everything that is decided before it starts."""

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch

from pinnerformer_model.checkpoint import check_model
from pinnerformer_model.config import ModelConfig, ModelError
from pipelines.launch.beam_options import worker_threads
from pipelines.planning.daily_request import NightRequest
from pipelines.planning.id_kinds import settle_layout
from pipelines.planning.job_request import JobRequest
from pipelines.planning.lacking import refuse_unknown_words
from stores.column_names import ColumnNames
from stores.errors import InputError, UsageError
from stores.files import Root
from stores.indexes import IndexParameters, builder_id
from stores.layout import Layout, check_layout, read_layout
from stores.logs import InputSelection, LogFile, select_inputs
from stores.manifests import Manifest, manifest_path, read_manifest
from stores.partitions import PartitionDays
from stores.pin_vectors import VectorSet, describe_vectors
from stores.releases import chain, next_release_id, read_current
from stores.rewritten import files_read
from transforms.ageing import Ageing
from transforms.gates import Thresholds
from transforms.host_check import HostCheck
from transforms.markers import TASKS_VERSION
from transforms.model import ModelReference, local_model
from transforms.resume import CompletedWork, find_completed
from transforms.run import Instructions, Run
from transforms.sort_vectors import vectors_folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the job computes, and where its gates close; everything that affects the result goes into the manifest.

    Attributes:
        reindex: Whether all pins are embedded and indexed anew, whatever the release before has of them.
    """

    token_budget: int
    join: str
    index: IndexParameters
    thresholds: Thresholds
    ageing: Ageing = Ageing()
    days: PartitionDays = PartitionDays()
    reindex: bool = False

    def to_json(self) -> dict[str, Any]:
        days = self.days.to_json()
        return {
            **({"partition_days": days} if days else {}),
            **({"reindex": "all"} if self.reindex else {}),
            "token_budget": self.token_budget,
            "join": self.join,
            "index": dataclasses.asdict(self.index),
            "thresholds": dataclasses.asdict(self.thresholds),
            "ageing": dataclasses.asdict(self.ageing),
        }


@dataclasses.dataclass(frozen=True)
class JobInputs:
    """What a job is given beside the logs, looked at and found fit.

    Attributes:
        requested_layout: What the flags say of the layout.
        embed_on: Beam's resource hints for the steps that embed users; empty where the engine has one kind of worker.
    """

    root: Root
    columns: ColumnNames
    vectors: VectorSet
    model: ModelReference
    config: ModelConfig
    settings: Settings
    requested_layout: Mapping[str, Any]
    embed_on: Mapping[str, str]

    def refuse_unknown_words(self, inputs: InputSelection) -> None:
        """Refuses logs whose rows the model cannot know, since they lack a column.

        Raises:
            UsageError: names the file.
        """
        vocabularies = self.config.action_vocabulary, self.config.surface_vocabulary
        refuse_unknown_words(inputs.files, self.columns, *vocabularies)

    def settle_layout(
        self,
        files: Sequence[LogFile],
        file_mode: str | None,
        *,
        first: Sequence[LogFile],
        released: bool,
        write: bool = True,
    ) -> Layout:
        """The layout of the root for these logs; see `id_kinds.settle_layout`.

        Args:
            first: Those of them that the first release of the job reads.
        """
        return settle_layout(
            self.root,
            self.requested_layout,
            files,
            self.columns,
            self.vectors,
            first_rows=sum(file.rows for file in first),
            file_mode=file_mode,
            released=released,
            write=write,
        )


def read_job_inputs(request: JobRequest, join: str = "auto", broadcast_limit_gib: int = 8) -> JobInputs:
    """Looks at the model, the vectors and the root; writes nothing.

    Args:
        join: `broadcast`, `shuffle`, or `auto`: the first as far as the vectors are no larger than the limit.

    Raises:
        PinnerFormerError: names the file or flag, and what to do.
    """
    try:
        config, digest = check_model(local_model(request.model))
    except ModelError as error:
        raise InputError(str(error)) from None
    vectors = describe_vectors(request.pins, config.pinsage_version, config.pin_vector_dim, request.columns)
    _check_history_length(request, config)
    # By size alone: what fits a worker's disk is mapped, since mapping shuffles nothing (docs/scale.md says where it
    # ends).
    if join == "auto":
        size = vectors.nbytes
        join = "broadcast" if size <= broadcast_limit_gib << 30 else "shuffle"
    return JobInputs(
        root=request.root,
        columns=request.columns,
        vectors=vectors,
        model=ModelReference(request.model, digest, request.device, worker_threads(request.beam)),
        config=config,
        settings=Settings(
            request.token_budget,
            join,
            request.index,
            request.thresholds,
            request.ageing,
            request.days,
            request.reindex,
        ),
        requested_layout=request.requested_layout,
        embed_on=request.embed_on,
    )


def _check_history_length(request: JobRequest, config: ModelConfig) -> None:
    """Refuses a root whose layout is damaged, or whose histories are shorter than what the model reads."""
    root = request.root
    found, current = read_layout(root), read_current(root)
    if found is not None and current is not None:
        check_layout(root, found, current.settings, current.release)
    requested = request.requested_layout.get("history_length")
    length = requested or (found.history_length if found else None) or 256
    if length < config.max_sequence_length:
        flag = f"--history-length {length}" if found is None else f"{root.path('layout.json')}: history_length {length}"
        raise UsageError(
            f"{flag}: shorter than the model's max_sequence_length {config.max_sequence_length}; "
            + ("raise it" if found is None else "start a new root with a longer one, or use a model with a shorter M")
        )


@dataclasses.dataclass(frozen=True)
class DailyPlan:
    """Everything a run needs to know, decided before it starts.

    Attributes:
        bootstrap_from: The chain's first partition.
        finished: What an earlier attempt of the same run has done.
        committed: Whether it got as far as its release; what may be missing is that it is published.
    """

    run: Run
    inputs: InputSelection
    given: JobInputs
    bootstrap_from: datetime.date
    finished: CompletedWork
    committed: bool

    def launched(self, *, lease: str = "", progress_run: str = "", hosts: HostCheck | None = None) -> "DailyPlan":
        """The plan with its run as workers get it; see `RunFolder.launched`."""
        return dataclasses.replace(self, run=self.run.launched(lease=lease, progress_run=progress_run, hosts=hosts))


def plan_daily(request: NightRequest) -> DailyPlan:
    """Looks at everything the run was given and refuses what cannot work, before any work starts.

    Raises:
        PinnerFormerError: names the file, row or flag, and what to do.
    """
    given = read_job_inputs(request.job, request.join, request.broadcast_limit_gib)
    root = given.root

    def plan_on(previous: Manifest | None) -> DailyPlan:
        # What an earlier attempt was built on is only asked for its name: a repair may have come after it.
        inputs, bootstrap_from = choose_inputs(request, previous, tolerate_rewritten=previous is not current)
        given.refuse_unknown_words(inputs)
        files, released = inputs.files, current is not None
        layout = given.settle_layout(files, request.job.file_mode, first=files, released=released)
        run = Run(
            root=root,
            name=f"daily-{request.date.isoformat()}-" + fingerprint(given, previous, inputs, bootstrap_from, layout),
            date=request.date,
            release=next_release_id(root, request.date),
            previous=previous.release if previous else None,
            layout=layout,
            instructions=Instructions(not same_model(previous, given), given.settings.ageing),
            after=previous.day if previous else None,
            vectors_folder=vectors_folder(given.vectors, layout.pin_shards),
        )
        finished = find_completed(run)
        return DailyPlan(run, inputs, given, bootstrap_from, finished, committed=False)

    current = read_current(root)
    # Rows of later days are in the histories already and cannot be told apart: an earlier night would know the future.
    if current is not None and request.date < current.day:
        raise UsageError(
            f"--date {request.date}: the root is at {current.release} already, and histories only grow; "
            f"give --date {current.date} or later"
        )
    if current is not None and request.date == current.day:
        # The newest release may be what this very command made before it was cut off.
        before = read_manifest(root, current.previous) if current.previous else None
        if before is not None or request.bootstrap_from is not None:
            plan = plan_on(before)
            if plan.run.name == current.settings.get("run"):
                return dataclasses.replace(
                    plan, run=dataclasses.replace(plan.run, release=current.release), committed=True
                )
    return plan_on(current)


def choose_inputs(
    request: NightRequest, previous: Manifest | None, *, tolerate_rewritten: bool = False
) -> tuple[InputSelection, datetime.date]:
    """The log files that a run on top of a release reads, and the first partition of the chain.

    Args:
        tolerate_rewritten: Hand on the files that changed since they were read, as `select_inputs` does.

    Raises:
        UsageError: an empty root, and no word on where to start.
        RewrittenError: files that were read have changed.
    """
    job, root = request.job, request.job.root
    releases = list(chain(root, previous.release)) if previous else []
    if previous is None:
        if request.bootstrap_from is None:
            raise UsageError(
                f"--root {root.url}: no release in it yet; say --bootstrap-from DATE, the first day of logs to build "
                "the histories from"
            )
        if request.bootstrap_from > request.date:
            raise UsageError(f"--bootstrap-from {request.bootstrap_from}: later than --date {request.date}")
        first = bootstrap_from = request.bootstrap_from
    else:
        first = previous.day + datetime.timedelta(1)
        bootstrap_from = datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    inputs = select_inputs(
        job.logs,
        first=first,
        last=request.date,
        lookback=job.lookback,
        chain_start=bootstrap_from,
        # Of the whole chain: a file is late as long as no release has read it, however old its partition is.
        already_read=files_read(releases),
        min_age_s=job.min_age_s,
        columns=job.columns,
        days=job.days,
        tolerate_rewritten=tolerate_rewritten,
    )
    return inputs, bootstrap_from


def same_model(previous: Manifest | None, given: JobInputs) -> bool:
    """Whether vectors of a release may be carried over into one of the model and settings given."""
    if previous is None or previous.model_digest != given.model.digest:
        return False
    return previous.settings["token_budget"] == given.settings.token_budget


def fingerprint(
    given: JobInputs, previous: Manifest | None, inputs: InputSelection, bootstrap_from: datetime.date, layout: Layout
) -> str:
    """12 hex digits for everything that the content of a run's tasks depends on: tasks of equal runs are equal.

    The gates' thresholds are no part of it: a refused run that is started again with others computes nothing again.
    """
    root, vectors, model = given.root, given.vectors, given.model
    # Everything that changes a byte of a task, and nothing else: too little would mix two runs, too much would throw
    # finished work away.
    settings = given.settings.to_json()
    del settings["thresholds"]
    try:
        erased = root.read_bytes("erased")
    except FileNotFoundError:
        erased = b""
    # Of the pin branch's own run, which reads no logs, their words are no part.
    columns = given.columns.in_force(inputs.lacking) if inputs.files else {}
    bytes_of = [file.columns.stored for file in vectors.files if file.columns.form == "binary"]
    facts = [
        [TASKS_VERSION, torch.__version__, pa.__version__, builder_id(), model.digest, model.device],
        # The manifest's bytes and not its name: `erase` and `gc` write it again under the same name.
        previous and hashlib.sha256(root.read_bytes(manifest_path(previous.release))).hexdigest(),
        [[f.name, f.rows, f.bytes, f.version] for f in inputs.files],
        [bootstrap_from.isoformat(), given.columns.names, settings, layout.to_json()],
        [vectors.version, vectors.dtype, [[os.path.basename(f.path), f.rows, f.version] for f in vectors.files]],
        hashlib.sha256(erased).hexdigest(),
        *([columns] if columns else []),
        *([bytes_of] if bytes_of else []),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
