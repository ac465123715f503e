"""Engagements as numpy columns: their order, what equals what, and the way from Arrow and back."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from stores.schemas import ENGAGEMENTS


@dataclasses.dataclass(frozen=True)
class Engagements:
    """Rows as numpy columns: strings are codes into sorted vocabularies, so that codes order as strings do.

    Attributes:
        user_id, pin_id, timestamp_ms: int64 [N].
        action, surface: int32 [N].
        duration_s: float32 [N]; NaN = not measured.
    """

    user_id: np.ndarray
    pin_id: np.ndarray
    timestamp_ms: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    duration_s: np.ndarray

    def __len__(self) -> int:
        return len(self.user_id)

    def take(self, rows: np.ndarray) -> "Engagements":
        """The rows at `rows`: positions int64 [K], a mask bool [N], or a slice."""
        return Engagements(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    @staticmethod
    def concat(parts: list["Engagements"]) -> "Engagements":
        names = [f.name for f in dataclasses.fields(Engagements)]
        return Engagements(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})

    def order(self) -> np.ndarray:
        """The order of the histories: by user, newest first, ties by the remaining columns, nulls last. Stable."""
        # Two keys order nearly everything: a sort by all seven would be seven passes over all rows for the few that
        # tie.
        order = np.lexsort((-self.timestamp_ms, self.user_id))
        user, at = self.user_id[order], self.timestamp_ms[order]
        same = np.zeros(len(order) + 1, bool)
        same[1:-1] = (user[1:] == user[:-1]) & (at[1:] == at[:-1])
        tied = np.flatnonzero(same[1:] | same[:-1])  # few as a rule: only they are compared column by column
        if len(tied):
            rows = order[tied]
            missing = np.isnan(self.duration_s[rows])
            duration = np.where(missing, 0, self.duration_s[rows])
            columns = (duration, missing, self.surface[rows], self.action[rows], self.pin_id[rows])
            order[tied] = rows[np.lexsort((*columns, -self.timestamp_ms[rows], self.user_id[rows]))]
        return order

    def equals_previous(self) -> np.ndarray:
        """bool [N]: whether a row equals the one before it in every column; null equals null."""
        equal = np.zeros(len(self), bool)
        equal[1:] = True
        for field in dataclasses.fields(self):
            column = getattr(self, field.name)
            same = column[1:] == column[:-1]
            if field.name == "duration_s":
                same |= np.isnan(column[1:]) & np.isnan(column[:-1])
            equal[1:] &= same
        return equal


def _codes(column: pa.ChunkedArray, vocabulary: dict[str, int]) -> np.ndarray:
    """int32 [N] codes of a dictionary column in a vocabulary that has all its strings."""
    parts = [np.empty(0, np.int32)]
    for chunk in column.chunks:
        mapping = np.array([vocabulary[value] for value in chunk.dictionary.to_pylist()], np.int32)
        parts.append(mapping[chunk.indices.to_numpy()] if len(chunk) else np.empty(0, np.int32))
    return np.concatenate(parts)


def sorted_vocabulary(columns: Iterable[pa.ChunkedArray]) -> list[str]:
    """The strings of dictionary columns, in order."""
    return sorted({value for column in columns for chunk in column.chunks for value in chunk.dictionary.to_pylist()})


def to_engagements(table: pa.Table, actions: list[str], surfaces: list[str]) -> Engagements:
    """Arrow rows of schema `ENGAGEMENTS`, nulls in `duration_s` only, as numpy columns."""
    return Engagements(
        table["user_id"].to_numpy(),
        table["pin_id"].to_numpy(),
        table["timestamp_ms"].to_numpy(),
        _codes(table["action"], {value: code for code, value in enumerate(actions)}),
        _codes(table["surface"], {value: code for code, value in enumerate(surfaces)}),
        table["duration_s"].to_numpy(),
    )


def to_table(rows: Engagements, actions: list[str], surfaces: list[str]) -> pa.Table:
    """The inverse of `to_engagements`; vocabularies are cut to what occurs, so that equal rows give equal bytes."""
    strings = []
    for codes, vocabulary in ((rows.action, actions), (rows.surface, surfaces)):
        # A vocabulary depends on what else was in the table; cut to what occurs, a bucket's bytes depend on its rows
        # alone.
        used = np.flatnonzero(np.bincount(codes, minlength=len(vocabulary))) if len(codes) else np.empty(0, np.int64)
        recode = np.zeros(len(vocabulary), np.int32)
        recode[used] = np.arange(len(used), dtype=np.int32)
        words = pa.array([vocabulary[u] for u in used], pa.string())
        strings.append(pa.DictionaryArray.from_arrays(pa.array(recode[codes] if len(codes) else codes), words))
    duration = pa.array(rows.duration_s, pa.float32(), mask=np.isnan(rows.duration_s))
    return pa.table([rows.user_id, rows.pin_id, rows.timestamp_ms, *strings, duration], schema=ENGAGEMENTS)
