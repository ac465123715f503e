"""What `pinnerformer repair` is asked for: its flags, read into one request."""

import dataclasses
import datetime

from pipelines.arguments import Parser, add_publish, date
from pipelines.launch.beam_options import parse_flags
from pipelines.operations.outcomes import publish_target
from pipelines.planning.job_request import JobRequest, add_job_flags, job_request
from transforms.release import PublishTarget

DESCRIPTION = """\
After a bad input was corrected: builds the histories of the users whom it touched again, from the logs that are still
there, embeds them, and releases the result as the newest date's next release (2026-11-24.2). Everybody else stays.

--users FILE names them, one id per line. --partition DATE takes everybody who has a row in that partition as it is now,
or a row of that day in the histories; whom bad rows of other days reached has to be named. It may be repeated, and has
to name every partition with files that were read and have changed or gone since.

Again means: rows older than the oldest partition that is still there are kept, all others are read again, from the
files that were read before and from --partition as it is now.
"""

EPILOG = """\
example:
  pinnerformer repair --root ROOT --logs WORLD/logs --pins WORLD/pins --model MODEL --kv URL --partition 2026-11-21
"""


@dataclasses.dataclass(frozen=True)
class RepairRequest:
    """What `pinnerformer repair` is asked for.

    Attributes:
        users: A file that lists those to build again; None: those whom `partitions` touched.
        partitions: That were corrected; sorted, each once; empty where `users` says whom.
        target: Where to publish; None: nowhere.
    """

    job: JobRequest
    users: str | None
    partitions: tuple[datetime.date, ...]
    target: PublishTarget | None


def make_parser() -> Parser:
    """The flags of `pinnerformer repair`."""
    parser = Parser(prog="pinnerformer repair", description=DESCRIPTION, epilog=EPILOG, takes_beam=True)
    flags = add_job_flags(parser)
    whom = flags.what.add_mutually_exclusive_group(required=True)
    whom.add_argument("--users", metavar="FILE", help="one user id per line, as the logs have them")
    whom.add_argument(
        "--partition",
        action="append",
        type=date,
        metavar="DATE",
        help="a partition that was corrected; may be repeated",
    )
    add_publish(flags.where)
    return parser


def parse(argv: list[str]) -> RepairRequest:
    """Reads the flags of `pinnerformer repair`.

    Raises:
        UsageError: with the line to show.
    """
    found, beam = parse_flags(make_parser(), argv)
    target = publish_target(found.kv, found.namespace, found.publish)
    partitions = tuple(sorted(set(found.partition or ())))
    return RepairRequest(job_request(found, beam), found.users, partitions, target)
