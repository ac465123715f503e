"""`pinnerformer repair`: after a bad input was corrected, makes everything again for the users whom it touched."""

import dataclasses
import datetime
import hashlib
import os
import sys
import time

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pinnerformer_model.days import DAY_MS, midnight_ms
from pipelines.arguments import Parser, add_publish, date
from pipelines.daily_inference import define_pipeline
from pipelines.launch.beam_options import parse_flags
from pipelines.launch.daily_launch import execute
from pipelines.operations.outcomes import open_target, publish_target, raise_for_outcome
from pipelines.operations.summary import print_summary
from pipelines.planning.daily_plan import DailyPlan, fingerprint, read_job_inputs, same_model
from pipelines.planning.job_request import JobRequest, add_job_flags, job_request
from stores.erasure import read_user_list, write_ids
from stores.errors import InputError, StoreError, UsageError
from stores.files import Root
from stores.layout import require_layout
from stores.lease import hold_lease
from stores.logs import ColumnNames, InputSelection, describe_files, list_partitions
from stores.manifests import Manifest
from stores.releases import chain, next_release_id, read_current, refuse_held
from stores.tables import read_files
from transforms.release import PublishTarget
from transforms.resume import find_completed
from transforms.run import Instructions, Repair, Run

DESCRIPTION = """\
After a bad input was corrected: builds the histories of the users whom it touched again, from the logs that are still
there, embeds them, and releases the result as the newest date's next release (2026-11-24.2). Everybody else stays.

--users FILE names them, one id per line. --partition DATE takes everybody who has a row in that partition as it is now,
or a row of that day in the histories; whom bad rows of other days reached has to be named.

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
        users: A file that lists those to build again; None: those whom `partition` touched.
        partition: The partition that was corrected; None where `users` says whom.
        target: Where to publish; None: nowhere.
    """

    job: JobRequest
    users: str | None
    partition: datetime.date | None
    target: PublishTarget | None


def make_parser() -> Parser:
    """The flags of `pinnerformer repair`."""
    parser = Parser(prog="pinnerformer repair", description=DESCRIPTION, epilog=EPILOG)
    flags = add_job_flags(parser)
    whom = flags.what.add_mutually_exclusive_group(required=True)
    whom.add_argument("--users", metavar="FILE", help="one user id per line")
    whom.add_argument("--partition", type=date, metavar="DATE", help="the partition that was corrected")
    add_publish(flags.where)
    return parser


def parse(argv: list[str]) -> RepairRequest:
    """Reads the flags of `pinnerformer repair`.

    Raises:
        UsageError: with the line to show.
    """
    found, beam = parse_flags(make_parser(), argv)
    target = publish_target(found.kv, found.namespace, found.publish)
    return RepairRequest(job_request(found, beam), found.users, found.partition, target)


def touched_by(root: Root, manifest: Manifest, files: list[str], column: str, partition: datetime.date) -> np.ndarray:
    """Sorted ids of the users with a row in some log files, or a row of a day in the histories."""
    begin = midnight_ms(partition)
    found = [pq.read_table(path, columns=[column])[column].drop_null().cast(pa.int64()).to_numpy() for path in files]
    for entries in manifest.parts("histories").values():
        rows = read_files(root, entries, ["user_id", "timestamp_ms"])
        at = rows["timestamp_ms"]
        of_day = pc.and_(pc.greater_equal(at, begin), pc.less(at, begin + DAY_MS))
        found.append(rows.filter(of_day)["user_id"].to_numpy())
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def users_to_repair(request: RepairRequest, manifest: Manifest, inputs: InputSelection) -> np.ndarray:
    """Sorted ids of the users that the flags name, or that the corrected partition touched."""
    if request.users is not None:
        return read_user_list(request.users)
    if request.partition is None:
        raise UsageError("--users or --partition: say whom to repair")
    paths = [file.path for file in inputs.files if file.date == request.partition]
    return touched_by(request.job.root, manifest, paths, request.job.columns.theirs("user_id"), request.partition)


def select_again(
    logs: str, releases: list[Manifest], partition: datetime.date | None, columns: ColumnNames
) -> InputSelection:
    """The files that the chain has read and that are still there, and all of `partition`.

    Raises:
        InputError: a partition between the oldest that is there and the newest that was read is missing.
    """
    read = {entry["path"] for manifest in releases for entry in manifest.inputs}
    first = datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    last = releases[0].day
    there = {day: folder for day, folder in list_partitions(logs).items() if first <= day <= last}
    if not there:
        raise InputError(f"--logs {logs}: none of the partitions {first} to {last} is there any more")
    if partition is not None and partition not in there:
        raise InputError(f"--partition {partition}: not in {logs}, or not between {first} and {last}")
    oldest = min(there)
    missing = [d for n in range((last - oldest).days + 1) if (d := oldest + datetime.timedelta(n)) not in there]
    if missing:
        raise InputError(f"{os.path.join(logs, f'ds={missing[0]}')}: missing, and older ones are there; restore it")
    files = [
        file
        for day, folder in sorted(there.items())
        for file in describe_files(folder, day, columns)
        if file.name in read or day == partition
    ]
    return InputSelection(tuple(files), (), tuple(sorted(there)))


def plan_repair(request: RepairRequest) -> DailyPlan:
    """Looks at everything and refuses what cannot work; writes the list of users under the root.

    Raises:
        PinnerFormerError: names the file, row or flag, and what to do.
    """
    job = request.job
    given = read_job_inputs(job)
    root = given.root
    layout = require_layout(root)
    current = read_current(root)
    if current is None:
        raise StoreError(f"--root {root.url}: no release in it, nothing to repair")
    if not same_model(current, given):
        raise UsageError(
            f"--model {job.model}: {current.release} is of model {current.model_digest[:12]}; repair with the "
            "same model and token budget, or let `daily` embed everybody with another"
        )
    releases = list(chain(root))
    inputs = select_again(job.logs, releases, request.partition, given.columns)
    users = users_to_repair(request, current, inputs)
    # Part of the run's name: another list of users is another run, whose finished tasks are not these.
    listed = hashlib.sha256(users.astype("<i8").tobytes()).hexdigest()
    start = datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    digest = hashlib.sha256((fingerprint(given, current, inputs, start, layout) + listed).encode()).hexdigest()[:12]
    name = f"repair-{current.date}-{digest}"
    repair = Repair(
        users=f"staging/{name}/users",
        rebuilt_from_ms=midnight_ms(min(inputs.partitions)),
    )
    # A file and not a field of the run: workers get the run with every bundle, and the list may be millions.
    write_ids(root, repair.users, users)
    run = Run(
        root=root,
        name=name,
        date=current.day,
        release=next_release_id(root, current.day),
        previous=current.release,
        layout=layout,
        instructions=Instructions(everyone_active=False, ageing=given.settings.ageing, repair=repair),
        after=current.day,
    )
    return DailyPlan(run, inputs, given, start, find_completed(run), committed=False)


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
        plan = plan_repair(request)
        outcome = execute(plan, define, lease, job.beam, shown=not job.quiet)
    outcome = raise_for_outcome(root, plan.run.name, outcome)
    if not job.quiet:
        print_summary(root, outcome, seconds=time.perf_counter() - started, file=sys.stderr)
    return 0
