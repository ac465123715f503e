"""What every job that turns logs into releases is asked for: the flags that `daily`, `backfill` and `repair` share."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pinnerformer_model.config import TOKEN_BUDGET
from pipelines.arguments import (
    Flags,
    Parser,
    add_columns,
    add_day_flags,
    add_lookback,
    add_min_age,
    add_quiet,
    add_root,
    add_store,
    column_names,
    positive,
)
from pipelines.launch.crew import WorkersWish, add_workers, workers_wish
from stores.column_names import ColumnNames
from stores.errors import UsageError
from stores.files import Root
from stores.indexes import IndexParameters
from stores.partitions import PartitionDays
from transforms.ageing import Ageing
from transforms.gates import Thresholds, read_thresholds

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


@dataclasses.dataclass(frozen=True)
class JobRequest:
    """The flags that the jobs on the logs share, read.

    Attributes:
        logs, pins, model: Locations of the engagement logs, of the vector set and of the model.
        columns: How logs and vectors call their columns, and what logs may lack.
        lookback: Partitions searched for late files.
        min_age_s: How long a partition without `_SUCCESS` must have been left alone.
        days: Which moments the days of the partitions have.
        ageing: How long rows, users and vectors last.
        requested_layout: Of `Layout`'s fields, those that the flags say.
        file_mode: Of the files of a root that is made now, octal digits; None: what the umask says.
        device: `cpu` or `cuda`.
        embed_on: Beam's resource hints for the steps that embed users; empty where the engine has one kind of worker.
        token_budget: Tokens per batch.
        index: How the index is built.
        reindex: Whether all pins are embedded and indexed anew, whatever the release before has of them.
        thresholds: Where the gates close.
        workers: How many on this machine.
        beam: Beam's own options.
        quiet: Without progress display and summary.
    """

    root: Root
    logs: str
    pins: str
    model: str
    columns: ColumnNames
    lookback: int
    min_age_s: float
    days: PartitionDays
    ageing: Ageing
    requested_layout: Mapping[str, Any]
    file_mode: str | None
    device: str
    embed_on: Mapping[str, str]
    token_budget: int
    index: IndexParameters
    reindex: bool
    thresholds: Thresholds
    workers: WorkersWish
    beam: PipelineOptions
    quiet: bool


class JobFlags(NamedTuple):
    """The groups that `add_job_flags` makes, for a job's own flags."""

    what: Flags
    where: Flags
    read: Flags
    how: Flags


def add_job_flags(parser: Parser) -> JobFlags:
    """Adds the flags of `JobRequest`, and those that name a store; `--publish` is left to the job."""
    what = parser.add_argument_group("what to run on")
    add_root(what)
    what.add_argument("--logs", required=True, metavar="DIR", help="engagement logs, ds=YYYY-MM-DD/*.parquet")
    what.add_argument("--pins", required=True, metavar="DIR", help="PinSage vectors, *.parquet and version.json")
    what.add_argument("--model", required=True, metavar="DIR", help="model.safetensors and config.json")
    where = parser.add_argument_group("where to publish")
    add_store(where)
    read = parser.add_argument_group("how to read the logs")
    add_columns(read)
    add_lookback(read)
    add_min_age(read)
    add_day_flags(read)
    _add_ageing(
        parser.add_argument_group("how long things last; part of a run's identity, so give a root the same every night")
    )
    made = parser.add_argument_group("fixed when the root is made")
    text = "parts of histories and user embeddings (default by the rows of the first release)"
    made.add_argument("--user-buckets", type=positive, metavar="N", help=text)
    text = "parts of pin embeddings and the index (default by the number of pins)"
    made.add_argument("--pin-shards", type=positive, metavar="N", help=text)
    made.add_argument("--history-length", type=positive, metavar="N", help="engagements kept per user (default 256)")
    made.add_argument(
        "--file-mode",
        type=file_mode,
        metavar="0640",
        help="of every file under a local root (default as the umask says)",
    )
    how = parser.add_argument_group("how to compute")
    add_workers(how)
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what the towers run on")
    how.add_argument(
        "--embed-accelerator", metavar="HINT", help="Dataflow: type:nvidia-l4;count:1;install-nvidia-driver"
    )
    how.add_argument("--embed-ram", metavar="SIZE", help="Dataflow: memory of the workers that embed users, e.g. 16GB")
    how.add_argument(
        "--token-budget",
        type=positive,
        metavar="N",
        help=f"tokens per batch; on cuda {TOKEN_BUDGET['cuda']} (default {TOKEN_BUDGET['cpu']})",
    )
    how.add_argument("--index-m", type=positive, default=16, metavar="N", help="HNSW links per node")
    how.add_argument("--index-ef-construction", type=positive, default=100, metavar="N", help="HNSW build width")
    how.add_argument(
        "--reindex",
        choices=("changed", "all"),
        default="changed",
        help="pins to embed and index: those that are not in the release before as they are, or all (default changed)",
    )
    parser.add_argument(
        "--gates", metavar="FILE", help="YAML, where the gates close (default the limits of deploy/gates.yaml)"
    )
    add_quiet(parser)
    return JobFlags(what, where, read, how)


def _add_ageing(kept: Flags) -> None:
    for flag, text in (
        ("--max-history-days", "rows older than N days leave the histories (default never)"),
        ("--max-idle-days", "users without a row in N days leave the snapshot (default never)"),
        ("--refresh-days", "embed every user again within N days, a share per day (default never)"),
    ):
        kept.add_argument(flag, type=positive, default=0, metavar="N", help=text)


def _index_parameters(m: int, ef_construction: int) -> IndexParameters:
    try:
        return IndexParameters(m, ef_construction)
    except ValueError as error:
        raise UsageError(f"--index-m {m}, --index-ef-construction {ef_construction}: {error}") from None


def file_mode(text: str) -> str:
    """A flag's mode of files, as `chmod` takes it, readable and writable by their owner."""
    if not re.fullmatch(r"06[0-7]{2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode of files; write 0640, 0600 or 0644")
    return text


def job_request(found: argparse.Namespace, beam: PipelineOptions) -> JobRequest:
    """What the flags of `add_job_flags` and Beam's say.

    Raises:
        UsageError: they do not go together, or --gates names no file of thresholds.
    """
    layout = {name: getattr(found, name) for name in ("user_buckets", "pin_shards", "history_length")}
    hints = {"accelerator": found.embed_accelerator, "min_ram": found.embed_ram}
    return JobRequest(
        root=Root(found.root),
        logs=found.logs,
        pins=found.pins,
        model=found.model,
        columns=column_names(found),
        lookback=found.lookback,
        min_age_s=found.min_age,
        days=PartitionDays(found.max_clock_skew, found.day_offset),
        ageing=Ageing(found.max_history_days, found.max_idle_days, found.refresh_days),
        requested_layout={name: value for name, value in layout.items() if value is not None},
        file_mode=found.file_mode,
        device=found.device,
        embed_on={name: value for name, value in hints.items() if value},
        token_budget=found.token_budget or TOKEN_BUDGET[found.device],
        index=_index_parameters(found.index_m, found.index_ef_construction),
        reindex=found.reindex == "all",
        thresholds=read_thresholds(found.gates),
        workers=workers_wish(found, beam, found.beam_words),
        beam=beam,
        quiet=found.quiet,
    )
