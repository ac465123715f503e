"""The logs before a night: partitions, files, columns, rows, words, histories."""

import dataclasses
import datetime
import math
import shlex
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.checking.findings import Finding, Level, Part, count, mending_flags, share
from pipelines.checking.log_rows import LogRows, SizedGroup, count_rows_per_user, sized_groups, unit_of_times
from pipelines.checking.samples import Chosen, CountedIds, Watch, choose
from pipelines.configuration.look import recognise
from stores import locations
from stores.column_names import MAY_BE_ABSENT
from stores.errors import InputError
from stores.logs import COLUMNS, TEXT_COLUMNS, ColumnNames, LogFile, describe_file
from stores.partitions import DataFile, PartitionDays, check_complete, list_data_files, list_partitions
from transforms.gates import Thresholds

SHOWN = 3
MOST_FILES = 5_000  # whose footers are read; of more, a sample
SHOWN_WORDS = 8
PERCENTILES = (50, 90, 99)
HISTORY_FACTOR = 20  # so many times the rows of a sample are counted by user: of those one column is kept in memory
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
CLOCK_SKEW_MS = 15 * MINUTE_MS  # further past the end of a day no clock is fast


@dataclasses.dataclass(frozen=True)
class LogsAsked:
    """What of the logs is looked at, and as what.

    Attributes:
        first, last: The days that the night would read; None: the first, the last there is.
        most_rows: That are read; 0: all.
    """

    logs: str
    columns: ColumnNames
    days: PartitionDays
    min_age_s: float
    first: datetime.date | None
    last: datetime.date | None
    most_rows: int
    thresholds: Thresholds


@dataclasses.dataclass(frozen=True)
class LogsFound:
    """What the other parts ask of the logs.

    Attributes:
        location: Of the logs, absolute.
        columns: As the logs call them, with what the findings mend.
        newest: Partition that was looked at.
        looked_at: The row groups whose rows were read.
        histories: Rows per user, of `counted`.
        counted: Rows; fewer than all of them are of the newest days.
    """

    location: str
    columns: ColumnNames
    partitions: Mapping[datetime.date, str]
    newest: datetime.date
    rows: LogRows
    looked_at: Chosen
    histories: CountedIds
    counted: int


def look_at_logs(asked: LogsAsked, watch: Watch) -> tuple[Part, LogsFound | None]:
    """Looks at partitions, footers and rows; writes nothing.

    Returns:
        The part; None beside it where there is no partition.
    """
    part = Part("logs")
    try:
        partitions = list_partitions(asked.logs)
    except InputError as error:
        part.headline = f"{asked.logs}: cannot be read"
        part.refuse(error)
        return part, None
    last = asked.last or max(partitions)
    first = asked.first or min(min(partitions), last)
    listings = look_at_days(part, asked, partitions, first, last)
    columns, files, chosen_files = look_at_files(part, asked, listings, watch)
    total = sum(file.rows for file in files)
    groups = [group for file in files for group in sized_groups(file)]
    looked_at = choose(groups, lambda one: one.name, lambda one: one.rows, asked.most_rows)
    rows = read_rows(part, looked_at, columns, asked.most_rows, watch)
    histories, counted = histories_of(looked_at, groups, rows, columns, asked.most_rows, watch)
    days = f"{count(len(listings), 'day')}, {min(listings)} to {max(listings)}" if listings else "no day"
    size = sum(file.bytes for listed in listings.values() for file in listed)
    about = "" if chosen_files.is_all else "more than "
    part.headline = f"{days}, {count(chosen_files.total, 'file')}, {about}{count(total, 'row')}, {size / 1e6:,.1f} MB"
    part.figures |= {"days": len(listings), "files": chosen_files.total, "rows": total, "bytes": size}
    describe_rows(part, asked, rows, looked_at, files, columns)
    newest = min(last, max(partitions))
    return part, LogsFound(
        locations.absolute(asked.logs), columns, partitions, newest, rows, looked_at, histories, counted
    )


def look_at_days(
    part: Part,
    asked: LogsAsked,
    partitions: Mapping[datetime.date, str],
    first: datetime.date,
    last: datetime.date,
) -> dict[datetime.date, list[DataFile]]:
    """The files of every day up to the last, with what is missing, not complete or not to be read among those that the
    night would read.
    """
    wanted = [first + datetime.timedelta(n) for n in range((last - first).days + 1)]
    missing = [day for day in wanted if day not in partitions]
    if missing:
        make = [locations.join(locations.absolute(asked.logs), f"ds={day}") for day in missing[:SHOWN]]
        part.find(
            Level.STOPS,
            f"{count(len(missing), 'day')} missing of the {len(wanted):,} from {first} to {last}: {some(missing)}; "
            "write them, or make them empty if there were no rows",
            commands=tuple(
                f"mkdir -p {shlex.quote(path)} && touch {shlex.quote(path + '/_SUCCESS')}"
                for path in make
                if "://" not in path
            ),
        )
    part.figures["missing_days"] = [day.isoformat() for day in missing]
    listings: dict[datetime.date, list[DataFile]] = {}
    open_days: dict[datetime.date, str] = {}
    for day in sorted(day for day in partitions if day <= last):
        try:
            listings[day] = list_data_files(partitions[day])
            if first <= day:
                check_complete(partitions[day], listings[day], asked.min_age_s)
        except InputError as error:
            if day in listings:
                open_days[day] = str(error)
            else:
                part.refuse(error)
    part.figures["incomplete_days"] = [day.isoformat() for day in open_days]
    if open_days:
        newest = max(file.modified_ns for day in open_days for file in listings[day]) if open_days else 0
        age = max(0.0, time.time() - newest / 1e9)
        shorter = f"{int(age // 3600)}h" if age >= 3600 else f"{int(age // 60)}m"
        part.find(
            Level.STOPS,
            f"{count(len(open_days), 'day')} not complete: {next(iter(open_days.values()))}",
            flags=(("min-age", shorter),) if age >= 60 else (),
            commands=tuple(
                f"touch {shlex.quote(locations.join(partitions[day], '_SUCCESS'))}"
                for day in list(open_days)[:SHOWN]
                if "://" not in partitions[day]
            ),
        )
    return listings


def some(things: Sequence[object]) -> str:
    """The first few of some things, and how many more there are."""
    more = f" and {len(things) - SHOWN:,} more" if len(things) > SHOWN else ""
    return ", ".join(map(str, things[:SHOWN])) + more


def look_at_files(
    part: Part, asked: LogsAsked, listings: Mapping[datetime.date, list[DataFile]], watch: Watch
) -> tuple[ColumnNames, list[LogFile], Chosen]:
    """Opens the files as the night does; those that it refuses are found, each kind of refusal once."""
    named = [(day, file) for day, listed in listings.items() for file in listed]
    chosen = choose(named, lambda one: f"{one[0]}/{one[1].name}", lambda one: 1, MOST_FILES)
    columns = asked.columns
    if chosen.things:
        columns, findings = mend_columns(chosen.things[-1][1].path, asked.columns)
        part.findings += findings
    files: list[LogFile] = []
    refused: dict[str, list[str]] = {}
    for day, file in watch.over(chosen.things, "log files"):
        try:
            files.append(describe_file(file, day, columns, asked.days))
        except InputError as error:
            kind = str(error).replace(file.path, "FILE")
            refused.setdefault(kind, []).append(file.path)
    for kind, paths in refused.items():
        text = kind.replace("FILE", paths[0])
        text += f" ({count(len(paths) - 1, 'more file')} like it)" if len(paths) > 1 else ""
        part.find(Level.STOPS, text, sample=tuple(paths[1 : 1 + SHOWN]))
    if not chosen.is_all:
        part.add("files looked at", f"{chosen.rows:,}", f"of {chosen.total:,}; the night opens all that are new to it")
    return columns, files, chosen


def mend_columns(path: str, columns: ColumnNames) -> tuple[ColumnNames, list[Finding]]:
    """The columns of a log under which it can be read, and what has to be said for that: a finding a column.

    What a file cannot be read for otherwise is left to whoever opens it.
    """
    try:
        names = pq.read_schema(locations.open_input(path)).names
    except (pa.ArrowException, OSError, ValueError):
        return columns, []
    findings = []
    taken = {columns.theirs(ours) for ours in COLUMNS}
    left = tuple(name for name in names if name not in taken)
    meant = {ours: theirs for ours, theirs in recognise(left).items() if ours != theirs}
    lacking = [ours for ours in COLUMNS if columns.theirs(ours) not in names and not columns.may_lack(ours)]
    for ours in lacking:
        text = f"no column {columns.theirs(ours)!r}"
        flags: tuple[tuple[str, str], ...] = ()
        if ours in meant:
            text, flags = f"{text}; {meant[ours]!r} looks like it", (("column", f"{ours}={meant[ours]}"),)
        elif ours in MAY_BE_ABSENT:
            text, flags = f"{text}, and none that is called like it", (("absent", ours),)
        else:
            text += (
                f", and none that is called like it (there are {', '.join(names)}); say which with --column {ours}=NAME"
            )
        findings.append(Finding(Level.STOPS, text, flags))
    said = mending_flags(findings)
    more = ColumnNames.parse(*([value for name, value in said if name == flag] for flag in ("column", "absent")))
    mended = dataclasses.replace(
        columns,
        names=tuple(sorted({**dict(columns.names), **dict(more.names)}.items())),
        absent=tuple(sorted((*columns.absent, *more.absent))),
    )
    return mended, findings


def read_rows(part: Part, looked_at: Chosen, columns: ColumnNames, most: int, watch: Watch) -> LogRows:
    """Reads row groups as the night does; what makes it fail is found."""
    rows = LogRows()
    failed: dict[str, int] = {}
    for one in watch.over(looked_at.things, "log rows"):
        try:
            rows.add_group(one.group, columns, most)
        except InputError as error:
            failed[str(error)] = failed.get(str(error), 0) + 1
    for text in list(failed)[:SHOWN]:
        part.find(Level.STOPS, text)
    if len(failed) > SHOWN:
        part.find(Level.STOPS, f"{count(len(failed) - SHOWN, 'more row group')} that cannot be read")
    return rows


def histories_of(
    looked_at: Chosen, groups: Sequence[SizedGroup], rows: LogRows, columns: ColumnNames, most: int, watch: Watch
) -> tuple[CountedIds, int]:
    """How many rows each user has: of all rows, or, of very many, of those of the newest days; and of how many rows."""
    if looked_at.is_all:
        return rows.users, looked_at.total
    newest = sorted(groups, key=lambda one: one.name, reverse=True)
    kept, found = [], 0
    for one in newest:
        if found >= HISTORY_FACTOR * most:
            break
        kept.append(one.group)
        found += one.rows
    users = CountedIds()
    for group in watch.over(kept, "rows by user"):
        try:
            count_rows_per_user(group, columns, users)
        except InputError:
            continue  # found where its rows are read
    return users, found


def describe_rows(
    part: Part,
    asked: LogsAsked,
    rows: LogRows,
    looked_at: Chosen,
    files: Sequence[LogFile],
    columns: ColumnNames,
) -> None:
    """Puts the rows' figures into the part, and what would be dropped."""
    part.figures["rows_looked_at"] = rows.read
    if not rows.read:
        if looked_at.total == 0 and files:
            part.find(Level.NOTE, "no row in any file")
        return
    part.add("rows looked at", f"{rows.read:,}", "every one" if looked_at.is_all else looked_at.remark)
    schema = pq.read_schema(locations.open_input(files[-1].path))
    for name, ids in (("user_id", rows.users), ("pin_id", rows.pins)):
        kind = schema.field(columns.theirs(name)).type
        seen = rows.ids.get(name, ())
        shown = " to ".join(map(str, seen)) if pa.types.is_integer(kind) else ", ".join(map(str, seen))
        least = "" if looked_at.is_all else "at least "
        part.add(name, f"{least}{ids.about}{ids.distinct:,} distinct", f"{kind}, {shown}")
        part.figures[name] = {"type": str(kind), "distinct": ids.distinct, "seen": list(seen)}
    for name in TEXT_COLUMNS:
        words = rows.words[name]
        shown = ", ".join(f"{word} {share(n, rows.good)}" for word, n in words.most_common(SHOWN_WORDS))
        more = f", {len(words) - SHOWN_WORDS:,} more" if len(words) > SHOWN_WORDS else ""
        part.add(name, count(len(words), "word"), shown + more)
        part.figures[name] = {word: n for word, n in words.most_common(1_000)}
    part.add("duration_s", f"{share(rows.good - rows.unmeasured, rows.good)} measured", "")
    part.figures["unmeasured_durations"] = rows.unmeasured
    ignored = [name for name in schema.names if name not in {columns.theirs(ours) for ours in COLUMNS}]
    if ignored:
        part.add("ignored columns", f"{len(ignored):,}", ", ".join(ignored))
    describe_dropped(part, asked, rows, looked_at)


def describe_dropped(part: Part, asked: LogsAsked, rows: LogRows, looked_at: Chosen) -> None:
    """A finding for every reason to drop rows, with what mends it; one for the gate that would close on them."""
    part.figures["dropped"] = dict(rows.dropped)
    for reason, dropped in rows.dropped.most_common():
        text = f"{count(dropped, 'row')} dropped, {share(dropped, rows.read)} of those looked at: {reason}"
        advice, flags = mend_dropped(reason, asked, rows)
        part.find(Level.LOSES, f"{text}{advice}", flags=flags, sample=tuple(rows.examples[reason]))
    dropped = sum(rows.dropped.values())
    most = asked.thresholds.max_dropped_share
    if dropped > most * rows.read:
        part.find(
            Level.CLOSES,
            f"{share(dropped, rows.read)} of the rows would be dropped, and the gate rows_dropped_share closes above "
            f"{share(most, 1)}: mend what is below",
        )


def mend_dropped(reason: str, asked: LogsAsked, rows: LogRows) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What to do about a reason: words for the end of a finding, and flags where some mend it."""
    unit = unit_of_times(rows.odd_times)
    if reason.startswith("timestamp_") and unit:
        return f"; the times look like {unit} since 1970: write milliseconds, or Arrow timestamps", ()
    if reason == "timestamp_after_partition":
        past = rows.past_end_ms
        if past < CLOCK_SKEW_MS:
            seconds = math.ceil((past + 1 + asked.days.max_clock_skew_s * 1000) / MINUTE_MS) * 60
            return "; clocks that are fast?", (("max-clock-skew", str(seconds)),)
        hours, begin = math.ceil(past / HOUR_MS), rows.first_hour()
        if hours <= 14 and abs(hours - begin) <= 1 and not asked.days.day_offset_s:
            return f"; days that begin at {begin:02d}:00 UTC?", (("day-offset", str(-begin)),)
        return f"; up to {past / HOUR_MS:.1f} h past the end of their partition's day: local times written as UTC?", ()
    advice = {
        "null_user_id": "; rows of nobody: leave them out, or give visitors ids",
        "negative_pin_id": "; write ids >= 0: of a 64-bit hash the lower 63 bits",
        "timestamp_too_old": "; more than 366 days before their partition: backfill them under days of their own",
        "negative_duration": "; null where a duration was not measured",
    }
    return advice.get(reason, ""), ()


def percentiles(counts: np.ndarray, at: Sequence[int] = PERCENTILES) -> dict[int, int]:
    """Percentile -> rows of a user, of the rows of each int64 [N]."""
    return {p: int(np.percentile(counts, p, method="inverted_cdf")) for p in at} if len(counts) else {}
