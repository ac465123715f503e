"""Times of other people's tables as ms since 1970: how a column has them is asked, never guessed.

A moment needs a zone, a number needs a unit. Both are looked for in a sample, and where one is missing the flag that
says it is named, for a number with the unit that would give plausible days.
"""

import dataclasses
import datetime
import difflib
import re
from collections.abc import Sequence
from typing import Any

from stores import duck
from stores.errors import InputError, UsageError
from stores.partitions import DAY_MS
from stores.table_parts import Chosen

UNITS = {"s": 1_000, "ms": 1, "us": -1_000, "ns": -1_000_000}  # ms in one; negative: how many in a ms
PLAUSIBLE = (datetime.date(1990, 1, 1), datetime.date(2100, 1, 1))
SAMPLE_ROWS = 1_000
_DAY = r"\d{4}-\d{1,2}-\d{1,2}"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?"
# A zone may stand apart, and be a name: 2026-11-01 12:00:00 Europe/Berlin.
ZONED = rf"^{_DAY}[ T]{_CLOCK} ?([zZ]|UTC|GMT|[+-]\d{{2}}(:?\d{{2}})?| [A-Za-z_]+(/[A-Za-z_+-]+)+)$"
NAIVE = rf"^{_DAY}([ T]{_CLOCK})?$"
NUMBER = r"^[+-]?\d{1,20}(\.\d+)?([eE][+]?\d{1,2})?$"
_NAIVE_TYPES = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP_US", "DATE")
_ZONED_TYPES = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS", "TIMESTAMP_NS WITH TIME ZONE")
_NUMBER_TYPES = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*")


@dataclasses.dataclass(frozen=True)
class TimeFlags:
    """What was said of times.

    Attributes:
        timezone: Of moments without one, `Europe/Berlin`.
        unit: Of numbers since 1970.
        format: Of texts, as `strptime` takes it.
    """

    timezone: str | None = None
    unit: str | None = None
    format: str | None = None


def check_flags(connection: Any, flags: TimeFlags) -> None:
    """Refuses a zone that nobody knows.

    Raises:
        UsageError: with the nearest one.
    """
    if flags.timezone is None:
        return
    names = [name for (name,) in duck.rows_of(connection, "SELECT name FROM pg_timezone_names()")]
    if flags.timezone not in names:
        near = difflib.get_close_matches(flags.timezone, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "write one like Europe/Berlin, America/New_York or UTC"
        raise UsageError(f"--timezone {flags.timezone}: no such zone; {hint}")


def time_expression(
    connection: Any, part: str, column: str, chosen: Chosen, value: str, kind: str, flags: TimeFlags
) -> str:
    """SQL that makes ms since 1970 of a column: BIGINT, null of what is no time.

    Args:
        part: The file or table, for messages.
        column: Its name for it.
        chosen: The columns of the part, of which a sample is read.
        value: SQL of the column.
        kind: DuckDB's type of the values; of a format without types, text.

    Raises:
        InputError: a zone or a unit is missing, or a type that is no time; says the flag.
    """
    where = f"{part}: column {column!r}"
    if kind in _ZONED_TYPES:
        return f"epoch_ms(CAST({value} AS TIMESTAMPTZ))"
    if kind in _NAIVE_TYPES:
        if flags.timezone is None:
            raise InputError(f"{where} is {kind}, without a zone; {_zone_hint()}")
        return _in_zone(f"CAST({value} AS TIMESTAMP)", flags.timezone)
    if _NUMBER_TYPES.fullmatch(kind):
        _check_unit(where, _sample(connection, part, chosen, f"TRY_CAST({value} AS DOUBLE)"), flags)
        return _of_number(value, flags.unit)
    if kind != "VARCHAR":
        raise InputError(f"{where} is {kind}, which is no time; name another with --time, or write a query")
    return _of_text(connection, part, where, chosen, value, flags)


def _of_text(connection: Any, part: str, where: str, chosen: Chosen, value: str, flags: TimeFlags) -> str:
    if flags.format is not None:
        parsed = f"try_strptime({value}, {duck.text(flags.format)})"
        if "%z" in flags.format.lower():
            return f"epoch_ms({parsed})"
        if flags.timezone is None:
            raise InputError(f"{where}: --time-format {flags.format} has no zone (%z) in it; {_zone_hint()}")
        return _in_zone(parsed, flags.timezone)
    looks = {name: f"regexp_matches(v, {duck.text(sort)})" for name, sort in _SORTS.items()}
    asked = ", ".join(f"count(*) FILTER ({look}), any_value(v) FILTER ({look})" for look in looks.values())
    sample = f"SELECT trim({value}) AS v FROM {chosen.sql} WHERE trim({value}) <> '' LIMIT {SAMPLE_ROWS}"
    chosen.renew()
    with duck.explain_errors(part):
        found = duck.rows_of(connection, f"SELECT count(*), any_value(v), {asked} FROM ({sample})")[0]
    total, first, counts = found[0], found[1], dict(zip(looks, found[2::2], strict=True))
    examples = dict(zip(looks, found[3::2], strict=True))
    if counts["naive"] and flags.timezone is None:
        raise InputError(f"{where} has times without a zone, like {examples['naive']!r}; {_zone_hint()}")
    if counts["number"]:
        numbers = f"TRY_CAST(v AS DOUBLE) FROM ({sample}) WHERE {looks['number']}"
        chosen.renew()
        with duck.explain_errors(part):
            _check_unit(where, [n for (n,) in duck.rows_of(connection, f"SELECT {numbers}")], flags)
    if total and not any(counts.values()):
        raise InputError(
            f"{where} has no times that are known, but like {first!r}; say --time-format, like %d.%m.%Y %H:%M"
        )
    return _of_any_text(f"trim({value})", flags)


_SORTS = {"zoned": ZONED, "naive": NAIVE, "number": NUMBER}


def _of_any_text(value: str, flags: TimeFlags) -> str:
    """SQL of a text that is a zoned time, one without a zone, or a number: by its looks, row by row."""
    numbers = f"TRY_CAST({value} AS DOUBLE)" if flags.unit else "NULL"
    # As a whole number where it is one: a double has no room for the nanoseconds of today.
    whole = f"TRY_CAST({value} AS BIGINT)"
    number = (
        f"CASE WHEN regexp_matches({value}, '^[+-]?\\d+$') THEN {_of_number(whole, flags.unit)} "
        f"ELSE {_of_number(numbers, flags.unit)} END"
        if flags.unit
        else "NULL"
    )
    naive = "NULL" if flags.timezone is None else _in_zone(f"TRY_CAST({value} AS TIMESTAMP)", flags.timezone)
    # Between clock and offset no space: so DuckDB reads it.
    zoned = rf"TRY_CAST(regexp_replace({value}, ' ([+-]\d)', '\1') AS TIMESTAMPTZ)"
    return (
        f"CASE WHEN regexp_matches({value}, {duck.text(ZONED)}) THEN epoch_ms({zoned}) "
        f"WHEN regexp_matches({value}, {duck.text(NAIVE)}) THEN {naive} "
        f"WHEN regexp_matches({value}, {duck.text(NUMBER)}) THEN {number} END"
    )


def _in_zone(moment: str, timezone: str) -> str:
    """A clock's reading in a zone: of an hour that is there twice the second, of one that is not the next."""
    return f"epoch_ms(timezone({duck.text(timezone)}, {moment}))"


def _of_number(value: str, unit: str | None) -> str:
    factor = UNITS[unit or "ms"]
    scaled = f"CAST({value} AS DOUBLE) * {factor}" if factor > 0 else f"CAST({value} AS DOUBLE) / {-factor}"
    return f"TRY_CAST(floor({scaled} + 0.0005) AS BIGINT)"


def _sample(connection: Any, part: str, chosen: Chosen, value: str) -> list[float]:
    chosen.renew()
    with duck.explain_errors(part):
        rows = duck.rows_of(
            connection, f"SELECT v FROM (SELECT {value} AS v FROM {chosen.sql}) WHERE v IS NOT NULL LIMIT 1000"
        )
    return [float(value) for (value,) in rows]


def _check_unit(where: str, sample: Sequence[float], flags: TimeFlags) -> None:
    """Refuses numbers whose unit nobody said, or whose said unit gives days that cannot be while another would."""
    if not sample:
        if flags.unit is None:
            raise InputError(f"{where} has numbers; say --time-unit, one of {', '.join(UNITS)}")
        return
    value = sorted(sample)[len(sample) // 2]
    fitting = [unit for unit in UNITS if _plausible(value, unit)]
    if flags.unit is None:
        likely = (
            f"as {fitting[0]} it is {_day(value, fitting[0])}: --time-unit {fitting[0]}"
            if fitting
            else ("no unit makes a day of our years of it; say --time-unit, or --time-format where it is a date")
        )
        raise InputError(f"{where} has numbers, like {value:.0f}; {likely}")
    if fitting and flags.unit not in fitting:
        raise InputError(
            f"{where} has numbers, like {value:.0f}, which as {flags.unit} would be {_day(value, flags.unit)} and as "
            f"{fitting[0]} {_day(value, fitting[0])}; say --time-unit {fitting[0]}"
        )


def _plausible(value: float, unit: str) -> bool:
    first, last = ((day - datetime.date(1970, 1, 1)).days for day in PLAUSIBLE)
    return first <= _ms(value, unit) / DAY_MS < last


def _ms(value: float, unit: str) -> float:
    factor = UNITS[unit]
    return value * factor if factor > 0 else value / -factor


def _day(value: float, unit: str) -> str:
    days = _ms(value, unit) / DAY_MS
    if not -700_000 < days < 2_900_000:
        return "no day of the calendar"
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days // 1)).isoformat()


def _zone_hint() -> str:
    return "say which they are in, --timezone UTC or --timezone Europe/Berlin"
