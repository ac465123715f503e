"""`pinnerformer repair`: after a bad input was corrected, makes everything again for the users whom it touched."""

import dataclasses
import datetime
import sys
import time

import apache_beam as beam

from pipelines.arguments import Parser, add_publish, date
from pipelines.daily_inference import define_pipeline
from pipelines.launch.beam_options import parse_flags
from pipelines.launch.daily_launch import execute
from pipelines.operations.outcomes import open_target, publish_target, raise_for_outcome
from pipelines.operations.summary import print_summary
from pipelines.planning.daily_plan import DailyPlan, read_job_inputs
from pipelines.planning.job_request import JobRequest, add_job_flags, job_request
from pipelines.planning.repair_plan import plan_repair
from stores.lease import hold_lease
from stores.releases import refuse_held
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
    parser = Parser(prog="pinnerformer repair", description=DESCRIPTION, epilog=EPILOG)
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


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    job, target = request.job, request.target
    open_target(target)
    started, root = time.perf_counter(), job.root

    def define(pipeline: beam.Pipeline, plan: DailyPlan) -> None:
        define_pipeline(pipeline, plan, target)

    with hold_lease(root, "repair") as lease:
        refuse_held(root)
        plan = plan_repair(job, read_job_inputs(job), request.users, request.partitions)
        outcome = execute(plan, define, lease, job.beam, shown=not job.quiet)
    outcome = raise_for_outcome(root, plan.run.name, outcome)
    if not job.quiet:
        print_summary(root, outcome, seconds=time.perf_counter() - started, file=sys.stderr)
    return 0
