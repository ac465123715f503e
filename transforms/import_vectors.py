"""Vectors of other people's tables as a vector set: each row is converted, or dropped with a reason."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores import duck
from stores.errors import InputError
from stores.sources import Part
from stores.string_ids import INT64
from transforms.import_rows import SAMPLES, Counts, id_expression

BATCH_ROWS = 1 << 13
REASONS = (
    "broken",
    "null_pin_id",
    "empty_pin_id",
    "pin_id_not_int64",
    "negative_pin_id",
    "null_vector",
    "other_width",
    "not_finite",
    "repeated_pin_id",
)
BYTES = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}


@dataclasses.dataclass(frozen=True)
class VectorRequest:
    """How vectors are to be read.

    Attributes:
        id: Their column of the pin's id.
        vector: Their column of the vector: a list of numbers, a text of one, or bytes.
        pin_ids: `int64` or `string`; None: as the column has them.
        width: Of every vector; None: that of the first.
        stored: Of what numbers bytes are, of `BYTES`.
    """

    id: str
    vector: str
    pin_ids: str | None = None
    width: int | None = None
    stored: str = "float32"


@dataclasses.dataclass(frozen=True)
class VectorQuery:
    """One part, ready to be read: `pin_id`, `vector`, `raw_id`."""

    part: Part
    sql: str
    pin_ids: str
    as_bytes: bool
    renew: Callable[[], object]


def make_query(connection: Any, part: Part, request: VectorRequest) -> VectorQuery:
    """The query that converts a part.

    Raises:
        InputError: a column is missing or of a type that cannot be what it is named for; says the flag.
    """
    chosen = part.choose(connection, [request.id, request.vector])
    kinds = {"pin_id": chosen.types[0]}
    pin_ids, pin = id_expression(
        part.name, "pin_id", request.id, "c0", kinds["pin_id"], request.pin_ids, chosen.as_text, "--id"
    )
    kind = chosen.types[1]
    as_bytes = kind == "BLOB"
    if not (as_bytes or kind == "VARCHAR" or "[" in kind):
        raise InputError(
            f"{part.name}: column {request.vector!r} is {kind}; expected a list of numbers, a text like [0.1, 0.2] or "
            "bytes; name another with --vector, or write a query"
        )
    vector = "c1" if as_bytes else "TRY_CAST(c1 AS FLOAT[])"
    broken = chosen.broken or "false"
    columns = f"{pin} AS pin_id, {vector} AS vector, CAST(c0 AS VARCHAR) AS raw_id, {broken} AS broken"
    sql = f"SELECT {columns} FROM {chosen.sql}"
    return VectorQuery(part, sql, pin_ids, as_bytes, chosen.renew)


def find_repeated(connection: Any, queries: Sequence[VectorQuery]) -> dict[Any, bool]:
    """Ids that more than one row has, as keys; False until one of their rows was taken.

    A pass over the ids alone; DuckDB puts on the disk what it cannot hold.
    """
    name = queries[0].part.name
    ids = " UNION ALL ".join(f"SELECT pin_id FROM ({query.sql})" for query in queries)
    for query in queries:
        query.renew()
    with duck.explain_errors(name):
        found = duck.rows_of(
            connection, f"SELECT pin_id FROM ({ids}) WHERE pin_id IS NOT NULL GROUP BY pin_id HAVING count(*) > 1"
        )
    return {pin: False for (pin,) in found}


@dataclasses.dataclass
class VectorReader:
    """Reads parts one after the other.

    Attributes:
        repeated: What `find_repeated` gave: of such a pin the first row is taken.
        width: Of the vectors; 0 before the first.
    """

    connection: Any
    request: VectorRequest
    counts: Counts
    repeated: dict[Any, bool]
    width: int = 0

    def read(self, query: VectorQuery) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Yields (ids, float32 [N, width]) of a part's good rows, in their order; counts the others.

        Raises:
            InputError: the part cannot be read to its end, or nothing in it says how wide vectors are.
        """
        self.width = self.width or self.request.width or 0
        first = 0
        query.renew()
        with duck.explain_errors(query.part.name):
            for batch in duck.stream(self.connection, query.sql, BATCH_ROWS):
                self.counts.rows_in += batch.num_rows
                reason = np.full(batch.num_rows, -1, np.int64)
                vectors = self._vectors(query, batch, reason)
                self._find_bad_ids(query, batch, reason)
                self._find_repeated(batch, reason)
                self._count(query, batch, reason, first)
                first += batch.num_rows
                good = reason < 0
                if good.any():
                    yield batch["pin_id"].filter(pa.array(good)), vectors[good]

    def _vectors(self, query: VectorQuery, batch: pa.RecordBatch, reason: np.ndarray) -> np.ndarray:
        """float32 [N, width], of rows that have a whole vector; marks the others."""
        column = batch["vector"]
        item = np.dtype(BYTES[self.request.stored]).itemsize if query.as_bytes else 1
        lengths = (
            (pc.binary_length(column) if query.as_bytes else pc.list_value_length(column)).fill_null(-1).to_numpy()
        )
        if not self.width and (lengths > 0).any():
            self.width = int(lengths[lengths > 0][0]) // item
        whole = (lengths == self.width * item) & (lengths > 0)
        # Bytes without a whole number of values in them are of another width too.
        reason[~whole] = REASONS.index("other_width")
        reason[lengths < 0] = REASONS.index("null_vector")
        values = column.filter(pa.array(whole))
        vectors = np.zeros((batch.num_rows, self.width), np.float32)
        if query.as_bytes:
            joined = b"".join(values.to_pylist())
            vectors[whole] = np.frombuffer(joined, BYTES[self.request.stored]).reshape(-1, self.width)
        else:
            flat = values.flatten()  # a null among the numbers comes as NaN
            vectors[whole] = flat.to_numpy(zero_copy_only=False).reshape(-1, self.width)
        finite = np.isfinite(vectors).all(axis=1)
        reason[whole & ~finite] = REASONS.index("not_finite")
        return vectors

    def _find_bad_ids(self, query: VectorQuery, batch: pa.RecordBatch, reason: np.ndarray) -> None:
        def mark(bad: pa.Array | np.ndarray, name: str) -> None:
            reason[np.asarray(bad, bool)] = REASONS.index(name)

        if query.pin_ids == INT64:
            mark(pc.is_null(batch["pin_id"]), "pin_id_not_int64")
            mark(batch["pin_id"].fill_null(0).to_numpy() < 0, "negative_pin_id")
        else:
            mark(pc.equal(batch["raw_id"].fill_null("x"), ""), "empty_pin_id")
        mark(pc.is_null(batch["raw_id"]), "null_pin_id")
        mark(batch["broken"], "broken")

    def _find_repeated(self, batch: pa.RecordBatch, reason: np.ndarray) -> None:
        if not self.repeated:
            return
        known = pa.array(list(self.repeated), batch["pin_id"].type)
        for row in np.flatnonzero(np.asarray(pc.is_in(batch["pin_id"], known), bool) & (reason < 0)).tolist():
            pin = batch["pin_id"][row].as_py()
            if self.repeated[pin]:
                reason[row] = REASONS.index("repeated_pin_id")
            self.repeated[pin] = True

    def _count(self, query: VectorQuery, batch: pa.RecordBatch, reason: np.ndarray, first: int) -> None:
        for index in np.unique(reason[reason >= 0]).tolist():
            rows = np.flatnonzero(reason == index)
            shown = [
                f"{query.part.name}, row {first + row + 1}: {self.request.id}={batch['raw_id'][row].as_py()}"
                + self._why(query, batch, row, REASONS[index])
                for row in rows[:SAMPLES].tolist()
            ]
            self.counts.drop(REASONS[index], shown, len(rows))

    def _why(self, query: VectorQuery, batch: pa.RecordBatch, row: int, reason: str) -> str:
        if reason != "other_width":
            return ""
        value = batch["vector"][row]
        length = len(value.as_py()) if query.as_bytes else len(value)
        return f": {length} {'bytes' if query.as_bytes else 'numbers'}, not {self.width}"
