"""`where=`: conditions on the columns of a catalogue, as text, and as a mask of its rows.

    topic=shoes,in_stock=true,price<=20
    topic=shoes|boots,name!="a, b"

A comma is `and`, a bar is `or` between the values of one column. Operators are `=`, `!=`, `<`, `<=`, `>` and `>=`. A
value with one of `,|"` in it stands in double quotes, in which a backslash takes the next character as it is. The word
null, without quotes, is what is missing; a missing value meets no other condition. Of a column of lists, `=` asks
whether the value is in the list.
"""

import dataclasses
import operator
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.errors import UsageError

MAX_TEXT = 2000  # letters of an expression
OPERATORS: dict[str, Callable] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
ORDERED = ("<", "<=", ">", ">=")
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_COLUMN = re.compile(rf"\s*({_QUOTED}|[^=!<>,|\"]+?)\s*(!=|<=|>=|=|<|>)", re.DOTALL)
_VALUE = re.compile(rf"\s*({_QUOTED}|[^,|\"]*?)\s*(?=[,|]|$)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Value:
    """One value as it was written; `quoted` says that the word null is meant as a word."""

    text: str
    quoted: bool

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.text == "null"


@dataclasses.dataclass(frozen=True)
class Condition:
    """One column compared with one or several values."""

    column: str
    operator: str
    values: tuple[Value, ...]


def parse_where(text: str) -> tuple[Condition, ...]:
    """The conditions of an expression, all of which are to hold; none of an empty one.

    Raises:
        UsageError: not of the form above; says where.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"where: {len(text):,} letters, at most {MAX_TEXT:,} are read")
    found, at = [], 0
    while text[at:].strip():
        column = _COLUMN.match(text, at)
        if column is None:
            raise UsageError(
                f"where: {text[at : at + 40]!r} is no condition; write COLUMN=VALUE (also !=, <, <=, >, >=), and a "
                "comma between two"
            )
        values, at = _read_values(text, column.end())
        if column[2] in ORDERED and (len(values) > 1 or values[0].is_null):
            raise UsageError(f"where: {column[1]}{column[2]} takes one value, and null has no place in an order")
        found.append(Condition(_unquoted(column[1]).text, column[2], values))
    return tuple(found)


def _read_values(text: str, at: int) -> tuple[tuple[Value, ...], int]:
    """The values from one place on, and the place after the comma behind them."""
    values = []
    while True:
        value = _VALUE.match(text, at)
        if value is None:
            raise UsageError(
                f"where: {text[at : at + 40]!r} is no value; put one with a comma, a bar or quotes into double quotes"
            )
        values.append(_unquoted(value[1]))
        at = value.end() + 1
        if text[value.end() : at] != "|":
            return tuple(values), at


def _unquoted(text: str) -> Value:
    if text.startswith('"') and len(text) > 1:
        return Value(re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL), True)
    return Value(text, False)


def mask_of(conditions: tuple[Condition, ...], rows: pa.Table) -> np.ndarray:
    """Which rows of a table meet all conditions: bool [N].

    Raises:
        UsageError: a column that is not there or cannot be compared, a value that is none of its kind.
    """
    masks = [_mask_of_condition(condition, rows) for condition in conditions]
    return np.logical_and.reduce([np.ones(rows.num_rows, bool), *masks])


def _mask_of_condition(condition: Condition, rows: pa.Table) -> np.ndarray:
    if condition.column not in rows.schema.names:
        raise UsageError(f"where: no column {condition.column!r}; there are {', '.join(sorted(rows.schema.names))}")
    column = rows[condition.column]
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    any_of = [_compare(condition, column, kind, value) for value in condition.values]
    # Not equal to a or b: to neither. Equal to a or b: to one of them.
    together = operator.and_ if condition.operator == "!=" else operator.or_
    found = any_of[0]
    for one in any_of[1:]:
        found = together(found, one)
    return found


def _compare(condition: Condition, column: pa.ChunkedArray, kind: pa.DataType, value: Value) -> np.ndarray:
    if value.is_null:
        missing = column.is_null().to_numpy()
        return missing if condition.operator == "=" else ~missing
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _compare_lists(condition, column, kind, value)
    wanted = _typed(condition, kind, value)
    return pc.fill_null(OPERATORS[condition.operator](column, wanted), False).to_numpy()


def _compare_lists(condition: Condition, column: pa.ChunkedArray, kind: pa.DataType, value: Value) -> np.ndarray:
    if condition.operator in ORDERED:
        raise UsageError(f"where: {condition.column} holds lists, which have no order; = asks what is in them")
    wanted = _typed(condition, kind.value_type, value)
    lists = column.combine_chunks()
    held = np.zeros(len(lists), bool)
    hit = pc.fill_null(pc.equal(pc.list_flatten(lists), wanted), False).to_numpy(zero_copy_only=False)
    held[pc.list_parent_indices(lists).to_numpy()[hit]] = True
    return held if condition.operator == "=" else ~held & lists.is_valid().to_numpy(zero_copy_only=False)


def _typed(condition: Condition, kind: pa.DataType, value: Value) -> pa.Scalar:
    """A value as one of a column's kind. Text is cast as Arrow casts it: numbers, true and false, ISO dates."""
    if not (pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UsageError(f"where: column {condition.column!r} is {kind}, which nothing is compared with")
    try:
        if pa.types.is_timestamp(kind) and kind.tz:
            return pa.scalar(value.text).cast(pa.timestamp(kind.unit, "UTC")).cast(kind)
        return pa.scalar(value.text).cast(kind)
    except pa.ArrowException:
        raise UsageError(f"where: {value.text!r} is no {kind}, which column {condition.column!r} is") from None
