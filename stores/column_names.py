"""How logs and vectors call what is read of them: their columns, the columns that they lack, their words."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from stores.errors import UsageError

# Those of `schemas.ENGAGEMENTS`, by name and not from there: every command line is read without loading Arrow.
LOG_COLUMNS = ("user_id", "pin_id", "timestamp_ms", "action", "surface", "duration_s")
TEXT_COLUMNS = ("action", "surface")
MAY_BE_ABSENT = (*TEXT_COLUMNS, "duration_s")
PINS = "pins."  # in front of a column that the vectors call otherwise than the logs do
VECTOR_COLUMNS = {"vector": "vector", f"{PINS}pin_id": "pin_id"}  # name in a flag -> ours
UNKNOWN = "unknown"  # the word of an action or a surface that nobody wrote


@dataclasses.dataclass(frozen=True)
class ColumnNames:
    """How the logs and the vectors call what is ours; of nothing said, as we do.

    Attributes:
        names: (ours, theirs) of columns, sorted.
        absent: (ours, the value of every row) of columns that files may lack, sorted; the value is None of a duration:
            not measured. A file that has such a column is read as ever.
        values: (ours, their word, our word) of actions and surfaces, sorted.
    """

    names: tuple[tuple[str, str], ...] = ()
    absent: tuple[tuple[str, str | None], ...] = ()
    values: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def parse(cls, names: Iterable[str], absent: Iterable[str] = (), values: Iterable[str] = ()) -> "ColumnNames":
        """Reads flags.

        Args:
            names: `--column pin_id=item_id`.
            absent: `--absent surface`, `--absent surface=app`.
            values: `--value action:purchase=buy`, their word first.

        Raises:
            UsageError: not of the form, not one of our columns, or a word that is to be two.
        """
        words: dict[tuple[str, str], str] = {}
        for column, theirs, ours in map(_parse_value, values):
            if words.setdefault((column, theirs), ours) != ours:
                raise UsageError(
                    f"--value {column}:{theirs}={ours}: by another --value it is {words[column, theirs]!r}; say one"
                )
        return cls(
            tuple(sorted(dict(map(_parse_name, names)).items())),
            tuple(sorted(dict(map(_parse_absent, absent)).items())),
            tuple(sorted((column, theirs, ours) for (column, theirs), ours in words.items())),
        )

    def theirs(self, ours: str) -> str:
        """What the logs call a column, or the vectors theirs."""
        return dict(self.names).get(ours, ours)

    def of_vectors(self, found: Sequence[str]) -> tuple[str, str]:
        """Which of the columns of a file of vectors are the pins' ids and the vectors.

        A file that has our name and not theirs was made by us, as `item-vectors` does it, and is read by ours.

        Raises:
            ValueError: a column may be two of them.
        """
        names = dict(self.names)
        vector = names.get("vector", "vector")
        return self._pins_of_vectors(found), vector if vector in found or "vector" not in found else "vector"

    def _pins_of_vectors(self, found: Sequence[str]) -> str:
        names = dict(self.names)
        own = names.get(f"{PINS}pin_id")
        if own is not None:
            return own if own in found or "pin_id" not in found else "pin_id"
        theirs = names.get("pin_id", "pin_id")  # as the logs call them
        if theirs != "pin_id" and theirs in found and "pin_id" in found:
            raise ValueError(
                f"columns {theirs!r} and 'pin_id' may both be the pins; say which with --column {PINS}pin_id=NAME"
            )
        return theirs if theirs in found else "pin_id"

    def may_lack(self, ours: str) -> bool:
        """Whether files without a column are read."""
        return ours in dict(self.absent)

    def value_of_absent(self, ours: str) -> str | None:
        """What every row of a file without a column has in it."""
        return dict(self.absent)[ours]

    def words(self, ours: str) -> dict[str, str]:
        """Their word -> our word of a column."""
        return {theirs: word for column, theirs, word in self.values if column == ours}

    def in_force(self, lacking: Iterable[str]) -> dict[str, Any]:
        """What of this changes a result and goes into a manifest, beside the names; empty where nothing does.

        Args:
            lacking: Columns that some file that is read does not have.
        """
        words = {name: self.words(name) for name in TEXT_COLUMNS if self.words(name)}
        absent = {name: self.value_of_absent(name) for name in sorted(set(lacking))}
        return {**({"absent": absent} if absent else {}), **({"values": words} if words else {})}


OUR_NAMES = ColumnNames()


def _parse_name(flag: str) -> tuple[str, str]:
    ours, separator, theirs = flag.partition("=")
    known = (*LOG_COLUMNS, *VECTOR_COLUMNS)
    if not separator or ours not in known or not theirs:
        raise UsageError(f"--column {flag}: expected OURS=THEIRS with OURS one of {', '.join(known)}")
    return ours, theirs


def _parse_absent(flag: str) -> tuple[str, str | None]:
    ours, separator, value = flag.partition("=")
    if ours not in MAY_BE_ABSENT:
        raise UsageError(f"--absent {flag}: expected one of {', '.join(MAY_BE_ABSENT)}; no row goes without the others")
    if ours not in TEXT_COLUMNS:
        if separator:
            raise UsageError(f"--absent {flag}: of a column that is not there it is not measured; say --absent {ours}")
        return ours, None
    if separator and not value:
        raise UsageError(f"--absent {flag}: expected --absent {ours} or --absent {ours}=WORD, the word of every row")
    return ours, value or UNKNOWN


def _parse_value(flag: str) -> tuple[str, str, str]:
    column, colon, words = flag.partition(":")
    theirs, separator, ours = words.rpartition("=")
    if column not in TEXT_COLUMNS or not colon or not separator or not ours:
        raise UsageError(
            f"--value {flag}: expected COLUMN:THEIRS=OURS with COLUMN one of {', '.join(TEXT_COLUMNS)}, "
            "e.g. action:purchase=buy"
        )
    return column, theirs, ours
