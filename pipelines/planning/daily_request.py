"""What `pinnerformer daily` is asked for, and `pinnerformer plan` with it: its flags, read into one request."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from typing import TYPE_CHECKING

from pipelines.arguments import Parser, add_publish, date, night, positive, seconds
from pipelines.launch.beam_options import parse_flags
from pipelines.launch.detached import check_detachable
from pipelines.operations.outcomes import publish_target
from pipelines.planning.job_request import JobRequest, add_job_flags, job_request
from transforms.release import PublishTarget

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DESCRIPTION = """\
Turns the engagement logs up to a date into one release: a fresh embedding per user in the key-value store and a fresh
embedding per pin in the HNSW index.

The first run on an empty root builds the histories from --bootstrap-from on and embeds everybody seen; every later one
reads what came in since, embeds the users whose history changed, and keeps everybody else's vector. A night that was
missed is caught up. Nothing is visible before every gate is passed.
"""

EPILOG = """\
Beam's own options pass through, for example:
  --runner=FlinkRunner --flink_master=HOST:8081                     an engine of your own

exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by a gate (what was served before is still served)

example:
  pinnerformer daily --root ROOT --logs WORLD/logs --pins WORLD/pins --model MODEL \\
    --date 2026-11-23 --bootstrap-from 2026-11-01 --kv lmdb:///var/lib/pinnerformer
"""


@dataclasses.dataclass(frozen=True)
class NightRequest:
    """What a night is to be computed from, and how: what `plan` foretells, and `daily` does.

    Attributes:
        date: The last UTC day of logs to include.
        bootstrap_from: The first day of logs; None if the flags do not say, as they must on an empty root.
        join: `auto`, `broadcast` or `shuffle`.
        broadcast_limit_gib: Up to where `auto` broadcasts.
        repair_rewritten: Whether log files that changed since they were read are repaired first; else the night is
            refused.
    """

    job: JobRequest
    date: datetime.date
    bootstrap_from: datetime.date | None
    join: str
    broadcast_limit_gib: int
    repair_rewritten: bool


@dataclasses.dataclass(frozen=True)
class DailyRequest:
    """What `pinnerformer daily` is asked for.

    Attributes:
        target: Where to publish; None: nowhere.
        detach: Whether the engine is left alone with the job.
        wait_s: How long to wait for the day to be complete.
    """

    night: NightRequest
    target: PublishTarget | None
    detach: bool
    wait_s: float


def make_parser(
    prog: str = "pinnerformer daily", description: str = DESCRIPTION, epilog: str | None = EPILOG
) -> Parser:
    """A parser with the flags of `pinnerformer daily`."""
    parser = Parser(prog=prog, description=description, epilog=epilog, takes_beam=True)
    flags = add_job_flags(parser)
    flags.what.add_argument(
        "--date", required=True, type=night, metavar="DATE", help="the last UTC day of logs to include, or yesterday"
    )
    flags.what.add_argument(
        "--bootstrap-from", type=date, metavar="DATE", help="first day of logs; only on an empty root"
    )
    add_publish(flags.where)
    flags.read.add_argument(
        "--wait",
        type=seconds,
        metavar="6h",
        help="for the logs of --date to be complete (_SUCCESS, or --min-age old), so long at most, before anything "
        "is done; says what it waits for (default 0s: an incomplete day is refused)",
    )
    flags.read.add_argument(
        "--rewritten-partitions",
        choices=("refuse", "repair"),
        default="refuse",
        help="log files of the lookback that were read and have changed or gone since: refuse the night, or first do "
        "again what they touched, as a release of its own, as `repair --partition` does",
    )
    flags.how.add_argument(
        "--join",
        choices=("auto", "broadcast", "shuffle"),
        default="auto",
        help="of histories and vectors",
    )
    flags.how.add_argument(
        "--broadcast-limit", type=positive, default=8, metavar="GIB", help="auto broadcasts up to this"
    )
    parser.add_argument(
        "--detach", action="store_true", help="hand the job to the engine, print the run's name for `release`, return"
    )
    return parser


def night_request(found: argparse.Namespace, beam: PipelineOptions) -> NightRequest:
    """What the flags of `make_parser` and Beam's say of the night itself."""
    return NightRequest(
        job=job_request(found, beam),
        date=found.date,
        bootstrap_from=found.bootstrap_from,
        join=found.join,
        broadcast_limit_gib=found.broadcast_limit,
        repair_rewritten=found.rewritten_partitions == "repair",
    )


def parse(argv: list[str]) -> DailyRequest:
    """Reads the flags of `pinnerformer daily`.

    Raises:
        UsageError: with the line to show.
    """
    found, beam = parse_flags(make_parser(), argv)
    if found.detach:
        check_detachable(beam)
    target = publish_target(found.kv, found.namespace, found.publish)
    return DailyRequest(night_request(found, beam), target, found.detach, found.wait or 0.0)
