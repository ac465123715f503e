"""A catalogue: what the pins are called, look like and are about, as somebody else's table has it."""

import dataclasses
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.serving.where import mask_of, parse_where
from stores.errors import InputError, UsageError
from stores.id_columns import id_kind, inner_column
from stores.ids import find_sorted
from stores.string_ids import INT64

PIN_ID = "pin_id"


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """Rows of pins, in memory.

    Attributes:
        path: Of the file.
        stamp: Modification time in nanoseconds and bytes of the file, as it was read.
        kind: Of the ids in it: "int64" or "string".
        pin_ids: int64 [N], ascending, each once: inner ids.
        rows: [N], in the order of `pin_ids`, with `pin_id` as the file has it.
    """

    path: str
    stamp: tuple[int, int]
    kind: str
    pin_ids: np.ndarray
    rows: pa.Table

    @property
    def columns(self) -> list[str]:
        return list(self.rows.schema.names)

    def matching(self, where: str) -> np.ndarray:
        """The pins that meet an expression: int64, ascending.

        Raises:
            UsageError: as `parse_where` and `mask_of`.
        """
        return self.pin_ids[mask_of(parse_where(where), self.rows)]

    def rows_of(self, pin_ids: np.ndarray, columns: list[str] | None = None) -> list[dict[str, Any] | None]:
        """Rows of pins, int64 [P], in their order; None of one that the catalogue lacks.

        Raises:
            UsageError: a column that is not there.
        """
        wanted = self.columns if columns is None else columns
        unknown = sorted(set(wanted) - set(self.columns))
        if unknown:
            raise UsageError(f"no column {unknown[0]!r} in the catalogue; there are {', '.join(sorted(self.columns))}")
        at, found = find_sorted(self.pin_ids, pin_ids)
        rows = iter(self.rows.select(wanted).take(pa.array(at[found])).to_pylist())
        return [next(rows) if one else None for one in found.tolist()]


def stamp_of(path: str) -> tuple[int, int]:
    """What changes when a file is replaced.

    Raises:
        InputError: it is not there.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise InputError(f"--catalogue {path}: {error.strerror}; name a Parquet file with a column pin_id") from None
    return found.st_mtime_ns, found.st_size


def read_catalogue(path: str) -> Catalogue:
    """Reads a Parquet file of pins; of a pin with several rows the last counts.

    Raises:
        InputError: it is not there, no Parquet, or has no usable column `pin_id`.
    """
    stamp = stamp_of(path)
    try:
        rows = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"--catalogue {path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    if PIN_ID not in rows.schema.names:
        found = ", ".join(rows.schema.names)
        raise InputError(f"--catalogue {path}: no column {PIN_ID}; it has {found}: call the column of ids so")
    kind = id_kind(rows.schema.field(PIN_ID).type)
    if kind is None or rows[PIN_ID].null_count:
        what = "nulls" if kind else str(rows.schema.field(PIN_ID).type)
        raise InputError(f"--catalogue {path}: {PIN_ID} holds {what}; ids are whole numbers or strings, as the logs'")
    ids = inner_column(rows[PIN_ID]).to_numpy()
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    last = np.append(ids[1:] != ids[:-1], True)[: len(ids)]  # of equal ids
    return Catalogue(path, stamp, kind or INT64, ids[last], rows.take(pa.array(order[last])).combine_chunks())
