"""What `pinnerformer import` is asked for, and its flags."""

import argparse
import dataclasses
import datetime
import re
from collections.abc import Mapping

from pipelines.arguments import Flags, Parser, add_json, add_quiet, date, positive, share, utc_offset
from stores.column_names import MAY_BE_ABSENT, UNKNOWN, ColumnNames
from stores.errors import UsageError
from stores.import_folder import MODES
from stores.partitions import PartitionDays
from stores.sources import KINDS, SourceRequest
from stores.string_ids import KINDS as ID_KINDS
from transforms.import_rows import COLUMNS, DURATION_UNITS
from transforms.import_times import UNITS, TimeFlags
from transforms.import_vectors import BYTES, VectorRequest

DESCRIPTION = """\
Turns tables that you have (CSV, JSON lines, Parquet, DuckDB, SQLite, Delta, Iceberg, or a query that DuckDB runs) into
the inputs of a night: a partition a day with _SUCCESS under --logs, and a vector set under --pins.

  pinnerformer import --events shop.csv --user-id customer --pin-id sku --time created_at --action event \\
      --absent surface --absent duration_s --logs world/logs \\
      --vectors items.parquet --id sku --vector embedding --pins world/pins

What a table does not say is asked, not guessed: the zone of a time without one, the unit of a number, the columns that
are not there. Every row is written or counted with the reason; nothing is visible before all of it is.
"""
FLAGS = {
    "user_id": "--user-id",
    "pin_id": "--pin-id",
    "timestamp_ms": "--time",
    "action": "--action",
    "surface": "--surface",
    "duration_s": "--duration",
}
FIRST_DAY = datetime.date(1990, 1, 1)


@dataclasses.dataclass(frozen=True)
class EventsRequest:
    """What is asked for of engagements.

    Attributes:
        names: Ours -> their column.
        named: Those that a flag names: they must be there.
        absent: Ours -> the value of every row, of columns that may not be there.
        values: (ours, their word) -> our word.
        user_ids, pin_ids: `int64`, `string` or None.
        start, end: Days outside are dropped; all of them are made where both are said.
    """

    source: SourceRequest
    logs: str
    names: Mapping[str, str]
    named: tuple[str, ...]
    absent: Mapping[str, str | None]
    values: Mapping[tuple[str, str], str]
    user_ids: str | None
    pin_ids: str | None
    times: TimeFlags
    duration_unit: str
    start: datetime.date | None
    end: datetime.date | None
    days: PartitionDays


@dataclasses.dataclass(frozen=True)
class VectorsRequest:
    """What is asked for of vectors.

    Attributes:
        version: Of the vector set; None: one made of its content.
    """

    source: SourceRequest
    pins: str
    vectors: VectorRequest
    version: str | None


@dataclasses.dataclass(frozen=True)
class ImportRequest:
    """What `pinnerformer import` is asked for; at least one of events and vectors.

    Attributes:
        mode: What happens to days that are there: of `MODES`.
        max_dropped: Share of rows that may be dropped.
        memory: That DuckDB may hold.
    """

    events: EventsRequest | None
    vectors: VectorsRequest | None
    mode: str
    max_dropped: float
    memory: str
    as_json: bool
    quiet: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer import`."""
    parser = Parser(prog="pinnerformer import", description=DESCRIPTION)
    _add_events(parser.add_argument_group("engagements"))
    _add_columns(parser.add_argument_group("their columns"))
    _add_times(parser.add_argument_group("their times"))
    _add_vectors(parser.add_argument_group("vectors of pins"))
    both = parser.add_argument_group("both")
    for name in ("user", "pin"):
        both.add_argument(
            f"--{name}-ids", choices=ID_KINDS, help=f"what ids of {name}s are (default: as the column has them)"
        )
    mode = both.add_mutually_exclusive_group()
    mode.add_argument("--append", action="store_true", help="add files to partitions that are there")
    mode.add_argument("--replace", action="store_true", help="put the imported days, and vectors, in place of others")
    both.add_argument(
        "--max-dropped",
        type=share,
        default=0.1,
        metavar="SHARE",
        help="import nothing if more of the rows than this have to be dropped (default %(default)s)",
    )
    both.add_argument("--memory", type=_memory, default="1GB", help="that DuckDB may hold (default %(default)s)")
    add_json(both)
    add_quiet(both)
    return parser


def _memory(text: str) -> str:
    """A flag's amount of memory, as DuckDB takes it."""
    if not re.fullmatch(r"(?i)\d+(\.\d+)? ?([kmgt]i?b|%)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 1GB, 512MB or 1.5GiB")
    return text


def _character(text: str) -> str:
    if len(text) != 1 or text in '\r\n"':
        raise argparse.ArgumentTypeError(f"{text!r} is not one character that can stand between cells")
    return text


def _add_source(group: Flags, prefix: str, what: str) -> None:
    group.add_argument(f"--{prefix}table", metavar="NAME", help=f"of a database, the one with the {what}")
    group.add_argument(f"--{prefix}sql", metavar="SELECT", help="a query that DuckDB runs, in place of a table")
    text = f"{', '.join(KINDS)} (default: by the file's name)"
    group.add_argument(f"--{prefix}format", choices=KINDS, metavar="KIND", help=text)


def _add_events(group: Flags) -> None:
    text = "a file, a folder of files or a pattern; may be repeated"
    group.add_argument("--events", action="append", default=[], metavar="FILE", help=text)
    group.add_argument("--logs", metavar="DIR", help="where the partitions go; the --logs of every other command")
    _add_source(group, "", "engagements")
    group.add_argument(
        "--delimiter", type=_character, metavar="CHAR", help="of a CSV (default: as its first line has it)"
    )
    group.add_argument("--start", type=date, metavar="DATE", help=f"drop rows of before (default {FIRST_DAY})")
    group.add_argument(
        "--end",
        type=date,
        metavar="DATE",
        help="drop rows of after; with --start, every day from one to the other is made (default: none)",
    )


def _add_columns(group: Flags) -> None:
    for ours, flag in FLAGS.items():
        group.add_argument(flag, metavar="COLUMN", help=f"their name of {ours}; nested: user.id (default {ours})")
    group.add_argument(
        "--absent",
        action="append",
        default=[],
        metavar="COLUMN[=WORD]",
        help=f"there is no such column ({', '.join(MAY_BE_ABSENT)}): no duration was measured, action or surface is "
        f"WORD in every row ({UNKNOWN}); may be repeated",
    )
    group.add_argument(
        "--value",
        action="append",
        default=[],
        metavar="COLUMN:THEIRS=OURS",
        help="an action or a surface that they call otherwise, e.g. action:purchase=buy; may be repeated",
    )
    text = "of durations that are numbers (default %(default)s)"
    group.add_argument("--duration-unit", choices=sorted(DURATION_UNITS), default="s", help=text)


def _add_times(group: Flags) -> None:
    group.add_argument("--timezone", metavar="ZONE", help="of times without one: UTC, Europe/Berlin")
    group.add_argument("--time-unit", choices=list(UNITS), help="of times that are numbers, since 1970")
    group.add_argument("--time-format", metavar="FORMAT", help="of texts that are not ISO 8601: %%d.%%m.%%Y %%H:%%M")
    group.add_argument(
        "--day-offset",
        type=utc_offset,
        default=0,
        metavar="HOURS",
        help="make partitions of days of another zone, -8: UTC-8; give other commands the same (default %(default)s)",
    )


def _add_vectors(group: Flags) -> None:
    text = "a file, a folder of files or a pattern; may be repeated"
    group.add_argument("--vectors", action="append", default=[], metavar="FILE", help=text)
    group.add_argument("--pins", metavar="DIR", help="where the vector set goes; the --pins of every other command")
    _add_source(group, "vectors-", "vectors")
    group.add_argument("--id", metavar="COLUMN", default="pin_id", help="of the pin (default %(default)s)")
    text = "a list of numbers, a text of one, or bytes (default %(default)s)"
    group.add_argument("--vector", metavar="COLUMN", default="vector", help=text)
    group.add_argument("--width", type=positive, metavar="N", help="of every vector (default: that of the first)")
    text = "of what numbers bytes are (default %(default)s)"
    group.add_argument("--bytes-of", choices=list(BYTES), default="float32", help=text)
    text = "name of their space; keep it while their encoder stays (default: made of the content)"
    group.add_argument("--vectors-version", metavar="NAME", help=text)


def parse(argv: list[str]) -> ImportRequest:
    """Reads the flags of `pinnerformer import`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    events = _parse_events(found) if found.events or found.sql else None
    vectors = _parse_vectors(found) if found.vectors or found.vectors_sql else None
    if events is None and vectors is None:
        raise UsageError(
            "nothing to import: say --events FILE, --vectors FILE, or both; see pinnerformer import --help"
        )
    mode = "append" if found.append else "replace" if found.replace else MODES[0]
    return ImportRequest(events, vectors, mode, found.max_dropped, found.memory, found.json, found.quiet)


def _parse_events(found: argparse.Namespace) -> EventsRequest:
    if found.logs is None:
        raise UsageError("--logs is missing: say where the partitions go")
    if found.start and found.end and found.end < found.start:
        raise UsageError(f"--end {found.end} is before --start {found.start}")
    said = {ours: getattr(found, flag.strip("-").replace("-", "_")) for ours, flag in FLAGS.items()}
    names = ColumnNames.parse((), found.absent, found.value)
    return EventsRequest(
        SourceRequest("--events", tuple(found.events), found.format, found.table, found.sql, found.delimiter),
        found.logs,
        {ours: said[ours] or ours for ours in COLUMNS},
        tuple(ours for ours in COLUMNS if said[ours]),
        dict(names.absent),
        {(column, theirs): ours for column, theirs, ours in names.values},
        found.user_ids,
        found.pin_ids,
        TimeFlags(found.timezone, found.time_unit, found.time_format),
        found.duration_unit,
        found.start,
        found.end,
        PartitionDays(day_offset_s=found.day_offset),
    )


def _parse_vectors(found: argparse.Namespace) -> VectorsRequest:
    if found.pins is None:
        raise UsageError("--pins is missing: say where the vector set goes")
    source = SourceRequest(
        "--vectors",
        tuple(found.vectors),
        found.vectors_format,
        found.vectors_table,
        found.vectors_sql,
        prefix="--vectors-",
    )
    vectors = VectorRequest(found.id, found.vector, found.pin_ids, found.width, found.bytes_of)
    return VectorsRequest(source, found.pins, vectors, found.vectors_version)
