"""What a repair will do, decided before it starts: whom it touches, and what it reads again for them."""

import datetime
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from pipelines.planning.daily_plan import DailyPlan, JobInputs, choose_inputs, fingerprint, same_model
from pipelines.planning.daily_request import NightRequest
from pipelines.planning.id_kinds import refuse_other_kinds, refuse_other_vectors
from pipelines.planning.job_request import JobRequest
from stores.column_names import ColumnNames
from stores.errors import InputError, StoreError, UsageError
from stores.files import Root
from stores.layout import require_layout
from stores.logs import InputSelection, LogFile, describe_file
from stores.manifests import Manifest
from stores.partitions import DataFile, PartitionDays, list_data_files, list_partitions
from stores.releases import chain, next_release_id, read_current
from stores.rewritten import (
    FileRead,
    Rewritten,
    RewrittenError,
    describe_rewritten,
    files_read,
    find_rewritten,
)
from stores.tables import read_files
from stores.user_lists import read_user_list, write_ids
from transforms.read_logs import read_batches, row_groups
from transforms.resume import find_completed
from transforms.run import Instructions, Repair, Run
from transforms.sort_vectors import vectors_folder


def touched_by(
    root: Root,
    manifest: Manifest,
    files: Sequence[LogFile],
    columns: ColumnNames,
    partitions: Collection[datetime.date],
    days: PartitionDays,
) -> np.ndarray:
    """Sorted ids of the users with a row in some log files, or a row of some days in the histories."""
    batches = (batch for file in files for group in row_groups(file) for batch in read_batches(group, columns))
    found = [np.unique(batch["user_id"].drop_null().to_numpy()) for batch in batches]
    for entries in manifest.parts("histories").values():
        rows = read_files(root, entries, ["user_id", "timestamp_ms"])
        at = rows["timestamp_ms"].to_numpy()
        of_days = np.zeros(len(at), bool)
        for partition in partitions:
            of_days |= (at >= days.start_ms(partition)) & (at < days.end_ms(partition))
        found.append(rows["user_id"].to_numpy()[of_days])
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def select_again(
    logs: str,
    releases: Sequence[Manifest],
    partitions: Collection[datetime.date],
    columns: ColumnNames,
    days: PartitionDays,
    lookback: int,
) -> InputSelection:
    """The files that the chain has read and that are still there, and all of some partitions.

    Raises:
        RewrittenError: a file of another partition has changed since it was read: nobody else would hear of it again.
        InputError: a partition between the oldest that is there and the newest that was read is missing.
    """
    read = files_read(releases)
    first = datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    last = releases[0].day
    there = {day: folder for day, folder in list_partitions(logs).items() if first <= day <= last}
    if not there:
        raise InputError(f"--logs {logs}: none of the partitions {first} to {last} is there any more")
    for partition in sorted(partitions):
        if partition not in there:
            raise InputError(f"--partition {partition}: not in {logs}, or not between {first} and {last}")
    oldest = min(there)
    missing = [d for n in range((last - oldest).days + 1) if (d := oldest + datetime.timedelta(n)) not in there]
    if missing:
        raise InputError(f"{os.path.join(logs, f'ds={missing[0]}')}: missing, and older ones are there; restore it")
    listings = {day: list_data_files(folder) for day, folder in there.items()}
    others = [one for one in _changed(listings, read, last, lookback) if one.date not in partitions]
    if others:
        dates = sorted({*partitions, *(one.date for one in others)})
        flags = " ".join(f"--partition {date}" for date in dates)  # all: `daily` may have named the first itself
        raise RewrittenError(
            f"{describe_rewritten(logs, others)}: changed since they were read; name their partitions too: "
            f"pinnerformer repair {flags}"
        )
    files = [
        describe_file(file, day, columns, days)
        for day, listed in sorted(listings.items())
        for file in listed
        if day in partitions or f"ds={day.isoformat()}/{file.name}" in read
    ]
    return InputSelection(tuple(files), (), tuple(sorted(there)))


def _changed(
    listings: Mapping[datetime.date, Collection[DataFile]],
    read: Mapping[str, FileRead],
    last: datetime.date,
    lookback: int,
) -> list[Rewritten]:
    """What the chain read of some partitions and is not what it was: by the times of files in the lookback, by their
    footers in all.
    """
    times_from = last + datetime.timedelta(1) - datetime.timedelta(lookback)
    return find_rewritten(listings, read, min(listings), last, thorough=True, times_from=times_from)


def plan_repair(
    job: JobRequest, given: JobInputs, users_file: str | None, partitions: Collection[datetime.date] = ()
) -> DailyPlan:
    """Looks at everything and refuses what cannot work; writes the list of users under the root.

    Args:
        users_file: Lists those to build again; None: those whom `partitions` touched.
        partitions: That were corrected.

    Raises:
        PinnerFormerError: names the file, row or flag, and what to do.
    """
    root, days = given.root, given.settings.days
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
    inputs = select_again(job.logs, releases, partitions, given.columns, days, job.lookback)
    given.refuse_unknown_words(inputs)
    refuse_other_kinds(root, layout, inputs.files, given.columns)
    refuse_other_vectors(given.vectors, layout.pin_ids)
    if users_file is not None:
        users = read_user_list(users_file, layout.user_ids)
    else:
        files = [file for file in inputs.files if file.date in partitions]
        users = touched_by(root, current, files, given.columns, partitions, days)
    # Part of the run's name: another list of users is another run, whose finished tasks are not these.
    listed = hashlib.sha256(users.astype("<i8").tobytes()).hexdigest()
    start = datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    digest = hashlib.sha256((fingerprint(given, current, inputs, start, layout) + listed).encode()).hexdigest()[:12]
    name = f"repair-{current.date}-{digest}"
    repair = Repair(
        users=f"staging/{name}/users",
        # A row of the partition before may lie so far past its end, and that partition is gone.
        rebuilt_from_ms=days.start_ms(min(inputs.partitions)) + days.max_clock_skew_s * 1000,
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
        vectors_folder=vectors_folder(given.vectors, layout.pin_shards),
    )
    return DailyPlan(run, inputs, given, start, find_completed(run), committed=False)


def find_changed(request: NightRequest) -> tuple[Rewritten, ...]:
    """The log files that were read and have changed since, where a night's lookback has some: all that a repair would
    ask for, which reaches further back; none on a root that is past the night.

    Raises:
        PinnerFormerError: the night's logs cannot be read.
    """
    current = read_current(request.job.root)
    if current is None or request.date < current.day:
        return ()
    inputs, _ = choose_inputs(request, current, tolerate_rewritten=True)
    if not inputs.rewritten:
        return ()
    releases = list(chain(request.job.root))
    first = datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    there = list_partitions(request.job.logs).items()
    listings = {day: list_data_files(folder) for day, folder in there if first <= day <= current.day}
    return tuple(_changed(listings, files_read(releases), current.day, request.job.lookback))
