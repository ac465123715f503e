"""Rows of other people's tables as engagements: each is converted by DuckDB, or dropped with a reason."""

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores import duck
from stores.errors import InputError
from stores.partitions import PartitionDays
from stores.schemas import STRING_CODES
from stores.sources import Chosen, Part
from stores.string_ids import INT64, STRING
from transforms.import_times import TimeFlags, time_expression

COLUMNS = ("user_id", "pin_id", "timestamp_ms", "action", "surface", "duration_s")
# A row is dropped for the first of these that holds; those that a night knows have its words.
REASONS = (
    "broken",
    "null_user_id",
    "null_pin_id",
    "empty_user_id",
    "empty_pin_id",
    "user_id_not_int64",
    "pin_id_not_int64",
    "negative_pin_id",
    "null_timestamp",
    "timestamp_not_understood",
    "timestamp_before_start",
    "timestamp_after_end",
    "timestamp_in_future",
    "null_action",
    "null_surface",
    "negative_duration",
)
SAMPLES = 3  # rows shown of each reason
_WHOLE_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
DURATION_UNITS = {"s": 1.0, "ms": 1e-3, "min": 60.0}


@dataclasses.dataclass(frozen=True)
class RowRequest:
    """How rows are to be read.

    Attributes:
        names: Ours -> theirs, of every column that is there.
        absent: Ours -> the value of every row, of columns that are not; None: not measured.
        values: (ours, their word) -> our word, of actions and surfaces.
        user_ids, pin_ids: `int64` or `string`; None: as the column has them, text where a format has no types.
        duration_unit: Of `s`, `ms`, `min`.
        start, end: Days outside are dropped; None: no bound.
        now: Rows of later days are of the future.
    """

    names: Mapping[str, str]
    absent: Mapping[str, str | None]
    now: datetime.date
    values: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    user_ids: str | None = None
    pin_ids: str | None = None
    times: TimeFlags = TimeFlags()
    duration_unit: str = "s"
    start: datetime.date | None = None
    end: datetime.date | None = None
    days: PartitionDays = PartitionDays()


@dataclasses.dataclass(frozen=True)
class RowQuery:
    """One part, ready to be read.

    Attributes:
        sql: Gives user_id, pin_id, timestamp_ms, action, surface, duration_s, reason, shown.
        user_ids, pin_ids: What the ids are.
        renew: To be called before every reading.
    """

    part: Part
    sql: str
    user_ids: str
    pin_ids: str
    renew: Callable[[], object]


@dataclasses.dataclass
class Counts:
    """What became of rows.

    Attributes:
        rows_in: Read, those that are no rows included.
        dropped: Reason -> rows.
        samples: Reason -> the first of them, with their place.
        durations_unknown: Rows whose duration is no number, taken as not measured.
        longest_s: The longest duration, in s; None where none was measured.
        words: Column -> word -> rows, of actions and surfaces.
    """

    rows_in: int = 0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    samples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    durations_unknown: int = 0
    longest_s: float | None = None
    words: dict[str, dict[str, int]] = dataclasses.field(default_factory=lambda: {"action": {}, "surface": {}})

    @property
    def rows_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def rows_out(self) -> int:
        return self.rows_in - self.rows_dropped

    def drop(self, reason: str, shown: list[str], rows: int | None = None) -> None:
        """Counts rows that are dropped for a reason, and keeps some to show."""
        self.dropped[reason] = self.dropped.get(reason, 0) + (len(shown) if rows is None else rows)
        kept = self.samples.setdefault(reason, [])
        kept += shown[: SAMPLES - len(kept)]


def schema_of(user_ids: str, pin_ids: str) -> pa.Schema:
    """Of the files that are written."""
    kinds = {INT64: pa.int64(), STRING: pa.string()}
    return pa.schema(
        [
            ("user_id", kinds[user_ids]),
            ("pin_id", kinds[pin_ids]),
            ("timestamp_ms", pa.int64()),
            ("action", STRING_CODES),
            ("surface", STRING_CODES),
            ("duration_s", pa.float32()),
        ]
    )


def make_query(connection: Any, part: Part, request: RowRequest) -> RowQuery:
    """The query that converts a part.

    Raises:
        InputError: a column is missing or of a type that cannot be what it is named for; says the flag.
    """
    present = [name for name in COLUMNS if name in request.names]
    chosen = part.choose(connection, [request.names[name] for name in present])
    cell = {name: f"c{number}" for number, name in enumerate(present)}
    types = dict(zip(present, chosen.types, strict=True))
    asked = {"user_id": request.user_ids, "pin_id": request.pin_ids}
    (user_ids, user), (pin_ids, pin) = (
        id_expression(part.name, name, request.names[name], cell[name], types[name], asked[name], chosen.as_text, flag)
        for name, flag in (("user_id", "--user-id"), ("pin_id", "--pin-id"))
    )
    time = time_expression(
        connection,
        part.name,
        request.names["timestamp_ms"],
        chosen,
        cell["timestamp_ms"],
        types["timestamp_ms"],
        request.times,
    )
    texts = {name: _word_expression(part, request, name, cell, types) for name in ("action", "surface")}
    duration = _duration_expression(request, cell)
    converted = (
        f"SELECT {user} AS user_id, {pin} AS pin_id, {time} AS timestamp_ms, {texts['action']} AS action, "
        f"{texts['surface']} AS surface, {duration} AS duration_s, * FROM {chosen.sql}"
    )
    reason = _reason_expression(request, chosen, cell, user_ids, pin_ids)
    shown = _shown_expression(request, chosen, cell)
    unknown = "false"
    if "duration_s" in cell:
        unknown = f"duration_s IS NULL AND trim(CAST({cell['duration_s']} AS VARCHAR)) <> ''"
    sql = (
        f"SELECT {', '.join(COLUMNS)}, reason, {unknown} AS unknown, CASE WHEN reason >= 0 THEN {shown} END AS shown "
        f"FROM (SELECT *, {reason} AS reason FROM ({converted}))"
    )
    return RowQuery(part, sql, user_ids, pin_ids, chosen.renew)


def id_expression(
    part: str, ours: str, theirs: str, value: str, kind: str, asked: str | None, as_text: bool, flag: str
) -> tuple[str, str]:
    """(what ids of a column are, SQL that makes them): null of what cannot be one.

    Args:
        part: The file or table, for messages.
        value: SQL of the column.
        kind: DuckDB's type of the values.
        asked: `int64`, `string`, or None: as the column has them.
        as_text: Whether numbers come as text.
        flag: That names the column.

    Raises:
        InputError: it is of a type that is no id.
    """
    where = f"{part}: column {theirs!r} is {kind}"
    kinds_flag = f"--{ours.replace('_', '-')}s"
    whole = kind in _WHOLE_TYPES
    fraction = kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL")
    if not (whole or fraction or kind in ("VARCHAR", "UUID") or kind.startswith("ENUM")):
        raise InputError(f"{where}; ids are whole numbers or strings: name another with {flag}, or write a query")
    found = asked or (INT64 if whole or fraction else STRING)
    if found == STRING:
        if fraction and not as_text:
            raise InputError(
                f"{where}: as strings these would be like 17.0; cast them in a query, or {kinds_flag} int64"
            )
        return STRING, f"CAST({value} AS VARCHAR)"
    if kind in ("FLOAT", "DOUBLE") and not as_text:
        # What pandas makes of whole numbers beside a missing one; past 2**53 a double has not all of them.
        return (
            INT64,
            f"CASE WHEN {value} = floor({value}) AND abs({value}) < 9007199254740992 THEN CAST({value} AS BIGINT) END",
        )
    if whole and not as_text:
        return INT64, f"TRY_CAST({value} AS BIGINT)"
    letters = f"trim(CAST({value} AS VARCHAR))"
    # A cast alone takes 1.5 for 2 and 1e3 for 1000.
    return INT64, f"CASE WHEN regexp_matches({letters}, '^[+-]?[0-9]+([.]0*)?$') THEN TRY_CAST({letters} AS BIGINT) END"


def _word_expression(
    part: Part, request: RowRequest, name: str, cell: Mapping[str, str], types: Mapping[str, str]
) -> str:
    if name not in cell:
        return duck.text(request.absent[name] or "")
    if types[name].endswith("[]") or types[name].startswith(("STRUCT", "MAP", "BLOB")):
        raise InputError(f"{part.name}: column {request.names[name]!r} is {types[name]}; --{name} needs words")
    value = f"nullif(trim(CAST({cell[name]} AS VARCHAR)), '')"
    words = {theirs: ours for (column, theirs), ours in request.values.items() if column == name}
    if not words:
        return value
    branches = " ".join(f"WHEN {duck.text(theirs)} THEN {duck.text(ours)}" for theirs, ours in words.items())
    return f"CASE {value} {branches} ELSE {value} END"


def _duration_expression(request: RowRequest, cell: Mapping[str, str]) -> str:
    if "duration_s" not in cell:
        return "CAST(NULL AS FLOAT)"
    number = f"TRY_CAST({cell['duration_s']} AS DOUBLE)"
    return (
        f"CASE WHEN isfinite({number}) THEN TRY_CAST({number} * {DURATION_UNITS[request.duration_unit]} AS FLOAT) END"
    )


def _reason_expression(
    request: RowRequest, chosen: Chosen, cell: Mapping[str, str], user_ids: str, pin_ids: str
) -> str:
    """SQL of a row's reason, an index into `REASONS`; -1 of a good row."""

    def bound(date: datetime.date | None, shift: int) -> int | None:
        return None if date is None else request.days.start_ms(date + datetime.timedelta(shift))

    start, end, future = bound(request.start, 0), bound(request.end, 1), bound(request.now, 1)
    tests = {
        "broken": chosen.broken or "false",
        "timestamp_before_start": "false" if start is None else f"timestamp_ms < {start}",
        "timestamp_after_end": "false" if end is None else f"timestamp_ms >= {end}",
        "timestamp_in_future": f"timestamp_ms >= {future}",
        "null_timestamp": _is_empty(cell["timestamp_ms"]),
        "timestamp_not_understood": "timestamp_ms IS NULL",
        "null_action": "action IS NULL",
        "null_surface": "surface IS NULL",
        "negative_duration": "duration_s < 0",
        "negative_pin_id": "pin_id < 0" if pin_ids == INT64 else "false",
    }
    for name, kind in (("user_id", user_ids), ("pin_id", pin_ids)):
        tests[f"null_{name}"] = f"{cell[name]} IS NULL"
        tests[f"empty_{name}"] = f"CAST({cell[name]} AS VARCHAR) = ''"
        tests[f"{name}_not_int64"] = f"{name} IS NULL" if kind == INT64 else "false"
    branches = " ".join(f"WHEN {tests[reason]} THEN {index}" for index, reason in enumerate(REASONS))
    return f"CAST(CASE {branches} ELSE -1 END AS TINYINT)"


def _is_empty(value: str) -> str:
    return f"{value} IS NULL OR trim(CAST({value} AS VARCHAR)) = ''"


def _shown_expression(request: RowRequest, chosen: Chosen, cell: Mapping[str, str]) -> str:
    cells = [
        f"{duck.text(request.names[name] + '=')} || coalesce(CAST({value} AS VARCHAR), 'null')"
        for name, value in cell.items()
    ]
    row = f"concat_ws(', ', {', '.join(cells)})"
    if chosen.broken is None:
        return f"left({row}, 200)"
    return f"left(CASE WHEN {chosen.broken} THEN {chosen.line} ELSE {row} END, 200)"


def read_rows(connection: Any, query: RowQuery, counts: Counts) -> Iterator[pa.RecordBatch]:
    """Yields the good rows of a part, in their order, of schema `schema_of`; counts the others.

    Raises:
        InputError: the part cannot be read to its end.
    """
    schema, first = schema_of(query.user_ids, query.pin_ids), 0
    if query.part.rejects:
        connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
    query.renew()
    with duck.explain_errors(query.part.name):
        for batch in duck.stream(connection, query.sql):
            counts.rows_in += batch.num_rows
            reason = batch["reason"].to_numpy()
            _count_dropped(batch, reason, first, query.part.name, counts)
            first += batch.num_rows
            good = batch if (reason < 0).all() else batch.filter(pa.array(reason < 0))
            counts.durations_unknown += pc.sum(good["unknown"]).as_py() or 0
            rows = pa.record_batch([_as(good[field.name], field.type) for field in schema], schema=schema)
            _count_words(rows, counts)
            longest = pc.max(rows["duration_s"]).as_py()
            if longest is not None:
                counts.longest_s = max(longest, counts.longest_s or 0.0)
            if rows.num_rows:
                yield rows
    if query.part.rejects:
        _count_rejected(connection, query.part.name, counts)


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column.dictionary_encode() if kind == STRING_CODES else column.cast(kind)


def _count_dropped(batch: pa.RecordBatch, reason: np.ndarray, first: int, part: str, counts: Counts) -> None:
    bad = np.flatnonzero(reason >= 0)
    for index in np.unique(reason[bad]):
        rows = np.flatnonzero(reason == index)
        shown = [
            f"{part}, row {first + row + 1}: {batch['shown'][int(row)].as_py()}" for row in rows[:SAMPLES].tolist()
        ]
        counts.drop(REASONS[index], shown, len(rows))


def _count_words(rows: pa.RecordBatch, counts: Counts) -> None:
    for name, found in counts.words.items():
        column = rows[name]
        numbers = np.bincount(column.indices.to_numpy(), minlength=len(column.dictionary))
        for word, count in zip(column.dictionary.to_pylist(), numbers.tolist(), strict=True):
            found[word] = found.get(word, 0) + count


def _count_rejected(connection: Any, part: str, counts: Counts) -> None:
    """Counts rows of a CSV that have too many or too few cells, a quote that does not end, or bytes that are no UTF-8.

    Raises:
        InputError: a quote that does not end has swallowed lines, nobody knows how many.
    """
    grouped = "SELECT line, min(error_message) AS why, any_value(csv_line) AS shown FROM reject_errors GROUP BY line"
    swallowed = "error_type = 'UNQUOTED VALUE' AND regexp_matches(trim(csv_line, E'\\r\\n'), '[\\r\\n]')"
    for line, text in duck.rows_of(
        connection, f"SELECT line, csv_line FROM reject_errors WHERE {swallowed} ORDER BY line LIMIT 1"
    ):
        raise InputError(
            f"{part}, row {line - 1}: a quote opens in it and does not end, so that the rows after it are inside it; "
            f"mend or remove the line: {text.strip().splitlines()[0][:100]}"
        )
    total = duck.rows_of(connection, "SELECT count(DISTINCT line) FROM reject_errors")[0][0]
    if total:
        rows = duck.rows_of(connection, f"{grouped} ORDER BY line LIMIT {SAMPLES}")
        shown = [f"{part}, row {line - 1}: {why.rstrip('.')}: {(text or '').strip()[:200]}" for line, why, text in rows]
        counts.rows_in += total
        counts.drop("broken", shown, total)
