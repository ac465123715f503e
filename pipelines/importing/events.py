"""Engagements of other people's tables, read, sorted by day on the disk, and moved into place."""

import dataclasses
import datetime
import functools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipelines.importing.progress import Progress, check_dropped, counts_of, digest_of
from pipelines.importing.request import FIRST_DAY, FLAGS, EventsRequest, ImportRequest
from stores.column_names import MAY_BE_ABSENT
from stores.day_runs import DayRuns
from stores.errors import InputError
from stores.import_folder import ImportFolder, refuse_other_ids, staged_root
from stores.partitions import DAY_MS
from stores.sources import Part, open_source
from transforms.import_rows import (
    COLUMNS,
    Counts,
    RowQuery,
    RowRequest,
    make_query,
    read_rows,
    schema_of,
)
from transforms.import_times import check_flags

EPOCH = datetime.date(1970, 1, 1)


@dataclasses.dataclass(frozen=True)
class EventsImport:
    """An import of engagements whose columns are known and fit.

    Attributes:
        queries: One a part, in the order in which they are read.
        constant: Columns that some part lacks -> the value of every row of it.
        digest: Of the request and of the files as they are; None where they are not known.
    """

    connection: Any
    request: ImportRequest
    wanted: EventsRequest
    folder: ImportFolder
    queries: tuple[RowQuery, ...]
    constant: dict[str, str | None]
    digest: str | None

    @classmethod
    def prepare(cls, connection: Any, request: ImportRequest) -> "EventsImport":
        """Opens the parts and checks their columns; reads a sample of each.

        Raises:
            UsageError, InputError: a column, a zone or a unit is missing; says the flag.
        """
        wanted = request.events
        assert wanted is not None  # the caller asked
        check_flags(connection, wanted.times)
        queries, constant = [], {}
        for part in open_source(connection, wanted.source):
            absent = _absent_columns(connection, part, wanted)
            constant.update(absent)
            queries.append(make_query(connection, part, _row_request(wanted, absent)))
        for query in queries[1:]:
            for name in ("user_ids", "pin_ids"):
                if getattr(query, name) != getattr(queries[0], name):
                    raise InputError(
                        f"{query.part.name}: {name.replace('_', ' ')} are {getattr(query, name)} here and "
                        f"{getattr(queries[0], name)} in {queries[0].part.name}; say --{name.replace('_', '-')} string"
                    )
        folder = ImportFolder(wanted.logs)
        refuse_other_ids(folder, queries[0].user_ids, queries[0].pin_ids)
        digest = digest_of(wanted.source, wanted)
        return cls(connection, request, wanted, folder, tuple(queries), constant, digest)

    @property
    def pin_ids(self) -> str:
        return self.queries[0].pin_ids

    def stage(self) -> dict[str, Any]:
        """Reads everything and writes the days below `_import`; returns the report.

        Raises:
            UsageError: days are there already, and nobody said what to do with them.
            InputError: no row is left, or too many were dropped.
        """
        before = self.folder.read_report()
        if self.digest is not None and before.get("digest") == self.digest:
            days = [datetime.date.fromisoformat(before[name]) for name in ("first", "last")]
            if set(_days_between(*days)) <= self.folder.existing_days():
                return {**before, "already": True}
        counts = Counts()
        runs = DayRuns(self.folder.path("runs"), schema_of(self.queries[0].user_ids, self.pin_ids))
        progress = Progress(self.request.quiet)
        offset_ms = self.wanted.days.day_offset_s * 1000
        for query in self.queries:
            for rows in read_rows(self.connection, query, counts):
                day = (rows["timestamp_ms"].to_numpy() + offset_ms) // DAY_MS
                if runs.empty:  # those of the first rows: rather now than after an hour of reading
                    self.folder.refuse_existing(set(map(_date_of, np.unique(day).tolist())), self.request.mode)
                runs.add(rows, day)
                progress.say(counts)
        asked_for = {"timestamp_before_start": self.wanted.start, "timestamp_after_end": self.wanted.end}
        check_dropped(counts, self.request.max_dropped, [reason for reason, day in asked_for.items() if day])
        with_rows = [_date_of(day) for day in runs.days().tolist()]
        first, last = self.wanted.start, self.wanted.end
        if first is None or last is None:
            if not with_rows:
                raise InputError("no row is left to import; to make empty days, say --start and --end")
            first, last = with_rows[0], with_rows[-1]
        days = _days_between(first, last)
        self.folder.refuse_existing(set(days), self.request.mode)
        written = self._write_days(runs, days)
        return {
            "digest": self.digest,
            "mode": self.request.mode,
            "logs": self.folder.logs,
            "first": first.isoformat(),
            "last": last.isoformat(),
            "days": len(days),
            "empty_days": len(days) - len(with_rows),
            "files": written,
            "user_ids": self.queries[0].user_ids,
            "pin_ids": self.pin_ids,
            "constant": self.constant,
            **counts_of(counts),
        }

    def _write_days(self, runs: DayRuns, days: list[datetime.date]) -> int:
        """Writes the folder of every day, the empty ones too; returns how many files."""
        root, with_rows, files = staged_root(self.folder), set(runs.days().tolist()), 0
        for day in days:
            self.folder.stage_day(day)
            number = (day - EPOCH).days
            if number in with_rows:
                write = functools.partial(runs.write_day, number)
                root.write_named_by_content(f"ds={day.isoformat()}", "part-00000", ".parquet", 0, 0, write)
                files += 1
        return files

    def commit(self, report: dict[str, Any]) -> dict[str, Any]:
        """Moves the staged days into place."""
        if not report.get("already"):
            first, last = (datetime.date.fromisoformat(report[name]) for name in ("first", "last"))
            self.folder.commit(_days_between(first, last), self.request.mode, report)
        return report


def _date_of(day: int) -> datetime.date:
    return EPOCH + datetime.timedelta(day)


def _days_between(first: datetime.date, last: datetime.date) -> list[datetime.date]:
    return [first + datetime.timedelta(number) for number in range((last - first).days + 1)]


def _absent_columns(connection: Any, part: Part, wanted: EventsRequest) -> dict[str, str | None]:
    """Columns that a part lacks -> what every row has in their place.

    Raises:
        InputError: a column is not there and no flag says that it may be.
    """
    lacking = part.missing(connection, [wanted.names[name] for name in COLUMNS])
    missing = [name for name in COLUMNS if wanted.names[name] in lacking]
    unsaid = [name for name in missing if name not in wanted.absent]
    if unsaid:
        columns = part.columns(connection)
        nested = [name for name, kind in columns.items() if kind == "OBJECT" or kind.startswith("STRUCT")]
        known = ", ".join(columns) + (f"; a field of {nested[0]} is {nested[0]}.NAME" if nested else "")
        ways = [f"{FLAGS[name]} NAME" + (f" or --absent {name}" if name in MAY_BE_ABSENT else "") for name in unsaid]
        raise InputError(
            f"{part.name}: no column {', '.join(repr(wanted.names[name]) for name in unsaid)} (it has {known}); say "
            f"{', '.join(ways)}{_without_header(part, columns)}"
        )
    return {name: wanted.absent[name] for name in missing}


def _without_header(part: Part, columns: Iterable[str]) -> str:
    """What to do where the names of a text file's columns look like a row of it; empty where they do not."""
    if not any(re.fullmatch(r"[-+]?[0-9.]+", name) for name in columns):
        return ""
    query = f"SELECT * FROM read_csv('{part.name}', header = false)"
    return f'; if its first line is a row already: --sql "{query}" in place of the file, its columns are column0, ...'


def _row_request(wanted: EventsRequest, absent: dict[str, str | None]) -> RowRequest:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=wanted.days.day_offset_s)
    return RowRequest(
        names={ours: theirs for ours, theirs in wanted.names.items() if ours not in absent},
        absent=absent,
        now=now.date(),
        values=wanted.values,
        user_ids=wanted.user_ids,
        pin_ids=wanted.pin_ids,
        times=wanted.times,
        duration_unit=wanted.duration_unit,
        start=wanted.start or FIRST_DAY,
        end=wanted.end,
        days=wanted.days,
    )
