"""What a backfill will do, decided and said before it starts: its days, what each reads, what it costs."""

import dataclasses
import datetime
import functools
import hashlib
import sys
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.planning.backfill_request import BackfillRequest
from pipelines.planning.daily_plan import DailyPlan, JobInputs, fingerprint, same_model
from pipelines.planning.lacking import describe_lacking
from pipelines.planning.rates import last_releases
from pipelines.telemetry.lines import is_json, say
from stores.errors import InputError, MissingPartitionError, UsageError
from stores.layout import Layout
from stores.logs import InputSelection, LogFile, select_inputs
from stores.manifests import Manifest, read_manifest
from stores.names import Counter, Step
from stores.pin_shards import shards_before
from stores.releases import chain, committed_releases, is_made_by, next_release_id
from stores.rewritten import files_read
from stores.tables import PIN_NAMES
from transforms.resume import NO_COMPLETED_WORK
from transforms.run import Instructions, Run, RunFolder
from transforms.sort_vectors import vectors_folder

DAY = datetime.timedelta(1)
GIB = 1 << 30

PIN_RUN = "backfill-pins-"  # what the runs of pin branches are called

Pass = list[DailyPlan]  # days that one pipeline takes together


@dataclasses.dataclass(frozen=True)
class BackfillPlan:
    """A backfill, decided.

    Attributes:
        days: One daily plan per release, in order; each is built on the one before it.
        start: The release that the first is built on; None if the histories start empty.
        replaces: The release that CURRENT names and whose chain the new one takes the place of once all of it is
            there; None if the new one goes on from CURRENT.
        end: The last day that was asked for, or that has to be done again with it.
        pin_run: The folder of the pin branch: one for all days.
        left: Releases of the range that are there already and stay, in order.
        recompute: Whether released days were asked for again.
        stopped: Why the chain ends before its last day; None if it does not.
        allowed_missing: Partitions that are taken for empty.
    """

    given: JobInputs
    layout: Layout
    days: tuple[DailyPlan, ...]
    start: Manifest | None
    replaces: Manifest | None
    end: datetime.date
    pin_run: RunFolder
    left: tuple[Manifest, ...]
    recompute: bool
    stopped: str | None
    allowed_missing: tuple[datetime.date, ...]

    @functools.cached_property
    def before(self) -> list[Manifest]:
        """The last releases up to `start`, newest first; read once for all passes."""
        return last_releases(self.given.root, self.start.release if self.start else None)


def release_days(start: datetime.date, end: datetime.date, snapshots: str) -> list[datetime.date]:
    """The days that get a release, the last always among them; the days between are caught up by the next one.

    Args:
        snapshots: `every-day`, `weekly` (every seventh day, counted back from the end) or `last`.
    """
    step = {"every-day": 1, "weekly": 7, "last": (end - start).days + 1}[snapshots]
    return sorted(end - DAY * n for n in range(0, (end - start).days + 1, step))


def plan_backfill(request: BackfillRequest, given: JobInputs) -> BackfillPlan:
    """Decides what to do; writes nothing but, on an empty root and unless it is a dry run, its layout.

    Raises:
        PinnerFormerError: names the file or flag, and what to do.
    """
    root, start, end = given.root, request.start, request.end
    if end < start:
        raise UsageError(f"--end {end}: before --start {start}")
    releases = list(chain(root))
    current = releases[0] if releases else None
    left: list[Manifest] = []
    replaced = None
    base = current
    if current is not None and current.day >= start:
        left = [manifest for manifest in reversed(releases) if manifest.day >= start]
        # Days after the range were built on what changes, so they are done again as well.
        if request.recompute:
            replaced, end = current, max(end, current.day)
            base = next((manifest for manifest in releases if manifest.day < start), None)
    dates = [day for day in release_days(start, end, request.snapshots) if base is None or day > base.day]
    bootstrap_from = _bootstrap(request, base, releases)
    if base is None and dates and bootstrap_from > start:
        raise UsageError(f"--bootstrap-from {bootstrap_from}: later than --start {start}")
    selections, stopped = _select_all(request, given, base, dates, bootstrap_from, _first_read_by(releases, replaced))
    files = [file for _, inputs in selections for file in inputs.files]
    first = selections[0][1].files if selections else ()
    released, write = current is not None, not request.dry_run
    layout = given.settle_layout(files, request.job.file_mode, first=first, released=released, write=write)
    days = _plan_days(given, layout, base, selections, bootstrap_from)
    if replaced:
        days, base, left, replaced = _leave_out_equal(days, base, left, replaced)
    return BackfillPlan(
        given=given,
        layout=layout,
        days=tuple(days),
        start=base,
        replaces=replaced,
        end=end,
        pin_run=_pin_run(given, layout, base, end),
        left=tuple(left),
        recompute=request.recompute,
        stopped=stopped,
        allowed_missing=request.allowed_missing,
    )


def _plan_days(
    given: JobInputs,
    layout: Layout,
    base: Manifest | None,
    selections: Sequence[tuple[datetime.date, InputSelection]],
    bootstrap_from: datetime.date,
) -> list[DailyPlan]:
    """A plan per release, each built on the one before it, the first on `base`."""
    taken = committed_releases(given.root)
    days: list[DailyPlan] = []
    previous, before = (base.release, base.day) if base else (None, None)
    for date, inputs in selections:
        given.refuse_unknown_words(inputs)
        everyone = not days and not same_model(base, given)
        # Without the release before: that of a day in the middle is not known yet. The state that a bucket starts from
        # is in the names of its tasks instead.
        print_of_day = fingerprint(given, None, inputs, bootstrap_from, layout)
        refreshed_after = before if given.settings.ageing.refresh_days else None
        name = hashlib.sha256(f"{print_of_day} {everyone} {refreshed_after}".encode()).hexdigest()[:12]
        run = Run(
            root=given.root,
            name=f"backfill-{date}-{name}",
            date=date,
            release=next_release_id(given.root, date, taken),
            previous=previous,
            layout=layout,
            instructions=Instructions(everyone, given.settings.ageing),
            after=before,
        )
        days.append(DailyPlan(run, inputs, given, bootstrap_from, NO_COMPLETED_WORK, committed=False))
        previous, before = run.release, date
    return days


def _leave_out_equal(
    days: list[DailyPlan], base: Manifest | None, there: Sequence[Manifest], replaced: Manifest
) -> tuple[list[DailyPlan], Manifest | None, list[Manifest], Manifest | None]:
    """Leaves out the first days that need not be done again: equal runs on equal states give equal bytes.

    Args:
        days: From the first to do again on.
        base: The release before them.
        there: The releases after it, in order.

    Returns:
        The days left, the release before them, the releases that stay, and the one to take the place of, if any.
    """
    left: list[Manifest] = []
    for day, release in zip(list(days), there, strict=False):
        if release.settings.get("run") != day.run.name:
            break
        base = release
        left.append(release)
        days = days[1:]
    if not days:
        return days, base, left, None
    first = dataclasses.replace(days[0].run, previous=base.release if base else None)
    days = [dataclasses.replace(days[0], run=first), *days[1:]]
    root = first.root
    while days and is_made_by(root, days[0].run.release, days[0].run.name):  # kept by an attempt that was cut off
        base, days = read_manifest(root, days[0].run.release), days[1:]
    return days, base, left, replaced


def _bootstrap(request: BackfillRequest, base: Manifest | None, releases: Sequence[Manifest]) -> datetime.date:
    """The first partition of the chain."""
    if releases and (base is not None or request.bootstrap_from is None):
        return datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    if request.bootstrap_from is None:
        raise UsageError(
            f"--root {request.job.root.url}: no release in it yet; say --bootstrap-from DATE, the first day of logs to "
            "build the histories from (often the same as --start)"
        )
    return request.bootstrap_from


def _first_read_by(releases: Sequence[Manifest], replaced: Manifest | None) -> dict[str, datetime.date]:
    """File -> the day of the release that read it, of the chain that is done again: it had not come before."""
    if replaced is None:
        return {}
    return {entry["path"]: manifest.day for manifest in releases for entry in manifest.inputs}


def _select_all(
    request: BackfillRequest,
    given: JobInputs,
    base: Manifest | None,
    dates: Sequence[datetime.date],
    bootstrap_from: datetime.date,
    first_read_by: dict[str, datetime.date],
) -> tuple[list[tuple[datetime.date, InputSelection]], str | None]:
    """What every release reads, as far as there is no hole; and the hole."""
    before = list(chain(given.root, base.release)) if base else []
    already_read = files_read(before)
    first = base.day + DAY if base else bootstrap_from
    selections: list[tuple[datetime.date, InputSelection]] = []
    later: list[LogFile] = []
    for date in dates:
        try:
            found = select_inputs(
                request.job.logs,
                first=first,
                last=date,
                lookback=request.job.lookback if not selections else 0,
                chain_start=bootstrap_from,
                already_read=already_read,
                min_age_s=request.job.min_age_s,
                columns=given.columns,
                allow_missing=frozenset(request.allowed_missing),
                days=given.settings.days,
            )
        except InputError as error:
            more = ", or say --allow-missing DATE" if isinstance(error, MissingPartitionError) else ""
            if not selections:
                raise type(error)(f"{error}{more}") from None
            return selections, f"{error}{more}"
        # A file that the old chain read on a later day had not come yet on this one.
        files = [*found.files, *later]
        # Done again as it was: a file that came late stays late, or the new chain would know on a day what nobody knew
        # then.
        later = [file for file in files if first_read_by.get(file.name, date) > date]
        files = sorted((file for file in files if file not in later), key=lambda file: file.name)
        selections.append((date, InputSelection(tuple(files), found.late, found.partitions)))
        first = date + DAY
    return selections, None


def _pin_run(given: JobInputs, layout: Layout, base: Manifest | None, date: datetime.date) -> RunFolder:
    """The run of the pin branch: one for the vectors, the model, the index's parameters and the pins of the release
    that it starts from, whatever the days."""
    nothing = InputSelection((), (), ())
    digest = fingerprint(given, None, nothing, date, layout)
    # A vector whose string has the id of one of these names is left out.
    known = [entry.checksum for entry in base.tables.get(PIN_NAMES, ())] if base else []
    before = {} if given.settings.reindex else shards_before(base, given.model.digest)
    if known or before:
        digest = hashlib.sha256(f"{digest} {known} {sorted(before.items())}".encode()).hexdigest()[:12]
    folder = vectors_folder(given.vectors, layout.pin_shards)
    return RunFolder(given.root, f"{PIN_RUN}{date}-{digest}", vectors_folder=folder)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a backfill takes, estimated from what is known before: upper bounds where nothing better is.

    Attributes:
        rows: Log rows to read.
        staged_bytes: Disk for the rows while it runs.
        history_bytes: Disk for the histories of all releases, if every bucket changes in each.
        snapshot_bytes: Disk for the snapshots, likewise; of the users of the starting release only, others are not
            known yet.
        shuffled_bytes: Memory per day for what the local runner holds until the pass is over.
        bucket_bytes: Memory per worker for the largest bucket that it holds.
    """

    rows: int
    staged_bytes: int
    history_bytes: int
    snapshot_bytes: int
    shuffled_bytes: int
    bucket_bytes: int


# Measured on the local runner: a (bucket, file) name and a bucket's reports of a day, with all the copies it keeps.
NAME_BYTES, REPORT_BYTES, ROW_BYTES, COPIES = 2_000, 24_000, 32, 6


def estimate(plan: BackfillPlan) -> Cost:
    """Estimates what a plan takes."""
    buckets, days = plan.layout.user_buckets, max(1, len(plan.days))
    rows = sum(file.rows for day in plan.days for file in day.inputs.files)
    # A file is shuffled as one name per row group and bucket; 1 << 20 rows is what writers put into a row group at
    # most.
    units = sum(max(1, -(-file.rows // (1 << 20))) for day in plan.days for file in day.inputs.files)
    kept = (plan.start.rows("histories") if plan.start else 0) + rows
    users = plan.start.rows("user_embeddings") if plan.start else 0
    user_bytes = 2 * plan.given.config.embedding_dim + 24
    return Cost(
        rows=rows,
        staged_bytes=rows * ROW_BYTES,
        history_bytes=days * kept * ROW_BYTES,
        snapshot_bytes=days * users * user_bytes,
        shuffled_bytes=buckets * (NAME_BYTES * -(-units // days) + REPORT_BYTES),
        bucket_bytes=COPIES * -(-kept // buckets) * ROW_BYTES + 3 * -(-users // buckets) * user_bytes,
    )


def split_into_passes(days: Sequence[DailyPlan], a_day: int, budget: int | None, at_most: int | None) -> list[Pass]:
    """Cuts the days into runs of a pipeline of their own, each of which fits into memory.

    Args:
        a_day: Bytes that each day adds.
        budget: Bytes a pass may take; None: no bound.
        at_most: Days per pass, if the operator says so.
    """
    # At least one day: a pass that does not fit is still better than none.
    fits = len(days) if budget is None else max(1, budget // max(1, a_day))
    size = max(1, min(fits, at_most or fits))
    return [list(days[at : at + size]) for at in range(0, len(days), size)]


def print_plan(plan: BackfillPlan, passes: Sequence[Pass], workers: int, publish: str, file: TextIO) -> None:
    """Says what will be done, and what it will cost."""
    if is_json() and file is sys.stderr:
        said = [f"{name}: {text}" for name, text in describe(plan, passes, workers, publish)]
        say(f"backfill of {plan.given.root.url}", plan=said)
        return
    table = Table(box=box.SIMPLE, show_header=False, title=f"backfill of {plan.given.root.url}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in describe(plan, passes, workers, publish):
        table.add_row(name, text)
    console = Console(file=file, width=None if file.isatty() else 120)
    console.print(table, highlight=False)


def describe(plan: BackfillPlan, passes: Sequence[Pass], workers: int, publish: str) -> list[tuple[str, str]]:
    """The lines of the plan: (what, in words)."""
    lines: list[tuple[str, str]] = []
    days, start = plan.days, plan.start
    if start:
        lines.append(("starts from", f"release {start.release}, {start.rows('user_embeddings'):,} users"))
    elif days:
        lines.append(("starts from", f"nothing; histories are built from {days[0].bootstrap_from} on"))
    if plan.left:
        names = [manifest.release for manifest in plan.left]
        why = "the same inputs, model and settings" if plan.recompute else "--recompute does them again"
        lines.append(("left as is", f"{_span(names)}, released already; {why}"))
    if not days:
        return [*lines, ("to do", f"CURRENT moves to {start.release}" if plan.replaces and start else "nothing")]
    lines.append(("releases", f"{len(days):,}: {_span([day.run.release for day in days])}"))
    first, *later = [len(day.inputs.partitions) for day in days]
    if first > 1:
        lines.append(("", f"the first reads {first:,} days of logs, up to its own"))
    if sum(later) > len(later):
        lines.append(("", f"later ones up to {max(later):,}: days without a release are caught up by the next"))
    if plan.replaces:
        again = f"the chain from {days[0].run.date} to {plan.replaces.date} is done again; CURRENT stays on"
        then = f"{plan.replaces.release} until all of it is done, then moves to {days[-1].run.release}"
        lines.append(("recompute", f"{again} {then}"))
    if start and days[0].run.instructions.everyone_active:
        lines.append(("model", f"not {start.release}'s: everybody is embedded again on {days[0].run.date}"))
    if aged := plan.given.settings.ageing.describe(days[-1].run.date):
        lines.append(("growing old", f"on {days[-1].run.date}: {aged}"))
    if plan.stopped:
        lines.append(("stops", f"after {days[-1].run.date}: {plan.stopped}"))
    if plan.allowed_missing:
        lines.append(("taken for empty", ", ".join(day.isoformat() for day in plan.allowed_missing)))
    cost = estimate(plan)
    files, late = (sum(len(getattr(day.inputs, name)) for day in days) for name in ("files", "late"))
    lines.append(("logs", f"{cost.rows:,} rows in {files:,} files" + (f", {late:,} of them came late" if late else "")))
    read = [file for day in days for file in day.inputs.files]
    lacking = describe_lacking(read, plan.given.columns)
    lines += [("absent", f"{column}: {where}; {instead}") for column, where, instead in lacking]
    speed = _speed(start)
    if speed and start:
        users = start.count(Step.UPDATE_HISTORIES, Counter.USERS_ACTIVE)
        time = f"{users * len(days) / speed / 3600:,.1f} h of one worker's inference"
        lines.append(
            ("time", f"{time}, were {users:,} users active per day at {speed:,.0f} users/s, as on {start.date}")
        )
    pins = f"{plan.given.vectors.rows:,}, embedded and indexed once; every release names the same files"
    lines.append(("pins", pins))
    kept = _size(cost.history_bytes + cost.snapshot_bytes)
    unknown = "" if start else ", and the snapshots of users not known yet"
    lines.append(("disk", f"up to {kept} of histories and snapshots{unknown}; {_size(cost.staged_bytes)} staged"))
    held = _size(cost.shuffled_bytes * max(map(len, passes)))
    lines.append(
        ("memory", f"{held} per pass that the local runner holds, {_size(cost.bucket_bytes)} for a worker's bucket")
    )
    buckets, longest = plan.layout.user_buckets, max(map(len, passes))
    in_days = f" of at most {longest:,} days" if len(passes) > 1 else ""
    lines.append(("passes", f"{len(passes):,}{in_days}; {buckets:,} buckets on {workers:,} worker{'s'[: workers > 1]}"))
    if buckets < workers:
        idle = f"{workers - buckets} of {workers} workers will be idle: one worker takes a bucket through all days, and"
        lines.append(("WARNING", f"{idle} the root was made with {buckets}; several per worker are best"))
    return [*lines, ("publishes", publish)]


def _speed(release: Manifest | None) -> float:
    """Users a second and worker that a release embedded; 0 if that is not known."""
    if release is None or not release.timings.get(Step.EMBED_USERS):
        return 0.0
    return release.count(Step.EMBED_USERS, Counter.USERS_EMBEDDED) / release.timings[Step.EMBED_USERS]


def _span(releases: Sequence[str]) -> str:
    if len(releases) == 1:
        return releases[0]
    return f"{releases[0]} .. {releases[-1]}"


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB // 10 else f"{count / (1 << 20):.1f} MiB"
