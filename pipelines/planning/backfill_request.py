"""What `pinnerformer backfill` is asked for: its flags, read into one request."""

import dataclasses
import datetime

from pipelines.arguments import Parser, add_publish, date, positive
from pipelines.launch.beam_options import parse_flags
from pipelines.operations.outcomes import publish_target
from pipelines.planning.job_request import JobRequest, add_job_flags, job_request
from transforms.release import PublishTarget

DESCRIPTION = """\
Runs the daily job over a range of days at once: the same releases, tables and bytes as one `daily` per day, without the
start-up, the barriers and the re-reading of every history in between.

Every bucket of users is taken through all days by one worker, which keeps its state; then the releases are checked and
committed in order. The index of the pins is built once, since --pins are the same on every day, and every release names
it, so that each can be searched.

What will be done, and what it costs, is said before it starts; --dry-run says it and stops. Run it again after it was
cut off, or after a hole in the logs was mended, and it goes on where it stopped.
"""

EPILOG = """\
A release of day D reads what had been ingested by D: rows that came late count on the day of the partition they came
in, never earlier.

Beam's own options pass through, for example:
  --runner=FlinkRunner --flink_master=HOST:8081                     an engine of your own

exit codes: 0 done, 1 failed or stopped at a hole, 2 wrong use, 3 refused by a gate (the releases before it stand)

examples:
  pinnerformer backfill --root ROOT --logs WORLD/logs --pins WORLD/pins --model MODEL \\
    --start 2026-08-25 --end 2026-11-23 --bootstrap-from 2026-08-01 --kv lmdb:///var/lib/pinnerformer
  pinnerformer backfill ... --start 2026-11-10 --end 2026-11-23 --recompute --publish none     # a log was mended
"""


@dataclasses.dataclass(frozen=True)
class BackfillRequest:
    """What `pinnerformer backfill` is asked for.

    Attributes:
        start, end: The first and the last UTC day to release.
        bootstrap_from: The first day of logs; None if the flags do not say.
        snapshots: The days that get a release: `every-day`, `weekly` or `last`.
        recompute: Whether days that are released already are done again.
        dry_run: Whether to say what would be done, and stop.
        publish: Whether the last release is published.
        target: Where; None: nowhere, as on a dry run.
        allowed_missing: Partitions taken for empty; sorted, each once.
        memory_gib: What a pass may hold; None: half of what is free.
        days_per_pass: At most; None: as many as fit into the memory.
    """

    job: JobRequest
    start: datetime.date
    end: datetime.date
    bootstrap_from: datetime.date | None
    snapshots: str
    recompute: bool
    dry_run: bool
    publish: bool
    target: PublishTarget | None
    allowed_missing: tuple[datetime.date, ...]
    memory_gib: int | None
    days_per_pass: int | None


def make_parser() -> Parser:
    """The flags of `pinnerformer backfill`."""
    parser = Parser(prog="pinnerformer backfill", description=DESCRIPTION, epilog=EPILOG, takes_beam=True)
    what, where, read, how = add_job_flags(parser)
    what.add_argument("--start", required=True, type=date, metavar="DATE", help="first UTC day to release")
    what.add_argument("--end", required=True, type=date, metavar="DATE", help="last UTC day to release, inclusive")
    what.add_argument(
        "--bootstrap-from", type=date, metavar="DATE", help="first day of logs; only where no release is before --start"
    )
    what.add_argument(
        "--snapshots",
        choices=("every-day", "weekly", "last"),
        default="every-day",
        help="days that get a release; the next one catches up the days between",
    )
    what.add_argument(
        "--recompute", action="store_true", help="do days again that are released already, and all days after them"
    )
    what.add_argument("--dry-run", action="store_true", help="say what would be done and what it costs, and stop")
    add_publish(where, "last")
    read.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        type=date,
        metavar="DATE",
        help="take a missing partition for empty; without it the chain stops there; may be repeated",
    )
    how.add_argument(
        "--memory", type=positive, metavar="GIB", help="what a pass may hold (default half of what is free)"
    )
    how.add_argument(
        "--days-per-pass", type=positive, metavar="N", help="at most (default as many as fit into the memory)"
    )
    return parser


def parse(argv: list[str]) -> BackfillRequest:
    """Reads the flags of `pinnerformer backfill`.

    Raises:
        UsageError: with the line to show.
    """
    found, beam = parse_flags(make_parser(), argv)
    return BackfillRequest(
        job=job_request(found, beam),
        start=found.start,
        end=found.end,
        bootstrap_from=found.bootstrap_from,
        snapshots=found.snapshots,
        recompute=found.recompute,
        dry_run=found.dry_run,
        publish=found.publish != "none",
        target=None if found.dry_run else publish_target(found.kv, found.namespace, found.publish),
        allowed_missing=tuple(sorted(set(found.allow_missing))),
        memory_gib=found.memory,
        days_per_pass=found.days_per_pass,
    )
