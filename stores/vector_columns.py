"""The columns of a file of vectors, of every type that writers have: found by name, read as a matrix."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stores.column_names import PINS, VECTOR_COLUMNS, ColumnNames
from stores.id_columns import OTHER_KIND, id_kind

# The key of `version.json` that says of what numbers bytes are; a type that names its numbers needs no word.
DTYPE_KEY = "vector_dtype"
NUMBERS = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64()}
EXPECTED = (
    "a list, large_list or fixed_size_list of float16, float32 or float64, every row of one length, or as "
    "fixed_size_binary"
)
# Norms between these are computed in float32 without a square, or a quotient of two, that is 0 or infinite.
LEAST_NORM, MOST_NORM = 1e-8, 1e8
Refuse = Callable[[np.ndarray, str], None]  # (bool [N], what is wrong): names the first row


@dataclasses.dataclass(frozen=True)
class VectorColumns:
    """Which columns of a file are ids and vectors, and what the vectors are.

    Attributes:
        pin_id, vector: Their names in the file.
        form: `fixed`: a list whose type has a length; `list`: one whose rows have; `binary`: bytes, little-endian.
        stored: float16, float32 or float64.
        width: Numbers of a vector; None where only the rows say.
    """

    pin_id: str = "pin_id"
    vector: str = "vector"
    form: Literal["fixed", "list", "binary"] = "fixed"
    stored: str = "float32"
    width: int | None = None

    @property
    def dtype(self) -> str:
        """Of the vectors in memory: doubles are read as float32, which is what the towers compute in."""
        return "float16" if self.stored == "float16" else "float32"


def find_vector_columns(schema: pa.Schema, columns: ColumnNames, declared: str | None) -> VectorColumns:
    """Finds the columns of a file of vectors.

    Args:
        declared: Of what numbers `version.json` says that bytes are; None: it does not.

    Raises:
        ValueError: a column is missing, there twice or of a type that cannot be read; says the fix.
    """
    pin_id, vector = columns.of_vectors(schema.names)
    for name, ours in ((pin_id, "pin_id"), (vector, "vector")):
        found = len(schema.get_all_field_indices(name))
        if not found:
            flag = ours if ours in VECTOR_COLUMNS else f"{PINS}{ours}"
            raise ValueError(
                f"no column {name!r} (it has {', '.join(schema.names)}); if it has another name, say "
                f"--column {flag}=NAME"
            )
        if found > 1:
            raise ValueError(f"{found} columns are called {name!r}; write one of them, under that name")
    if id_kind(schema.field(pin_id).type) is None:
        raise ValueError(f"column {pin_id!r} is {schema.field(pin_id).type}; {OTHER_KIND}")
    form, stored, width = _type_of(vector, schema.field(vector).type, declared)
    if width is not None and width < 1:
        raise ValueError(f"column {vector!r} is {schema.field(vector).type}: vectors of no number; write them whole")
    return VectorColumns(pin_id, vector, form, stored, width)


def _type_of(
    name: str, kind: pa.DataType, declared: str | None
) -> tuple[Literal["fixed", "list", "binary"], str, int | None]:
    """The form, the numbers and the width that a type says."""
    if pa.types.is_fixed_size_binary(kind):
        return "binary", *_numbers_of_bytes(name, kind, declared)
    fixed = pa.types.is_fixed_size_list(kind)
    if fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        for stored, number in NUMBERS.items():
            if kind.value_type == number:
                return ("fixed", stored, kind.list_size) if fixed else ("list", stored, None)
    raise ValueError(f"column {name!r} is {kind}; write it as {EXPECTED}")


def _numbers_of_bytes(name: str, kind: pa.FixedSizeBinaryType, declared: str | None) -> tuple[str, int]:
    sizes = {stored: np.dtype(stored).itemsize for stored in NUMBERS}
    if declared is None:
        could = ", ".join(f'"{stored}" ({kind.byte_width // size} of them)' for stored, size in sizes.items())
        raise ValueError(
            f"column {name!r} is {kind}, and nothing says of what numbers; add {DTYPE_KEY!r} to version.json, one of "
            f"{could}, little-endian"
        )
    if kind.byte_width % sizes[declared]:
        raise ValueError(
            f"column {name!r} is {kind}, no whole number of {declared}, which is the {DTYPE_KEY!r} of version.json; "
            "correct that, or the column"
        )
    return declared, kind.byte_width // sizes[declared]


def peek_width(file: pq.ParquetFile, columns: VectorColumns) -> int | None:
    """The length of the first vector of a file whose type does not say it; None if there is none.

    Raises:
        ArrowException, OSError: its pages cannot be read.
    """
    for batch in file.iter_batches(1024, columns=[columns.vector], use_threads=False):
        lengths = pc.list_value_length(batch.column(0)).drop_null()
        if len(lengths):
            return lengths[0].as_py()
    return None


def to_matrix(column: pa.Array, columns: VectorColumns, width: int, refuse: Refuse) -> np.ndarray:
    """Vectors as [N, width] of the dtype that is stored, without a copy.

    Args:
        refuse: Called for rows that are null, have a null in them or are of another length.
    """
    refuse(column.is_null().to_numpy(zero_copy_only=False), "vector is null")
    if columns.form == "binary":
        stored = np.dtype(columns.stored).newbyteorder("<")
        flat = np.frombuffer(column.buffers()[1] or b"", stored)
        return flat[column.offset * width : (column.offset + len(column)) * width].reshape(len(column), width)
    if columns.form == "list":
        lengths = pc.list_value_length(column).to_numpy()
        other = lengths != width
        if other.any():
            refuse(other, f"its vector has {int(lengths[other.argmax()])} numbers, the others have {width}")
    numbers = column.flatten()
    if numbers.null_count:
        holes = numbers.is_null().to_numpy(zero_copy_only=False).reshape(len(column), width)
        refuse(holes.any(axis=1), "a null inside the vector")
    return numbers.to_numpy().reshape(len(column), width)


def check_directions(vectors: np.ndarray, refuse: Refuse) -> None:
    """Refuses vectors that float32 gives no direction: as they are stored, since a double may be past float32."""
    refuse(~np.isfinite(vectors).all(axis=1), "vector has NaN or infinity in it")
    norms = norms_of(vectors)
    refuse(norms > MOST_NORM, f"the vector's L2 norm is more than {MOST_NORM:g}, too long for float32 to work with")
    short = (norms < LEAST_NORM) & vectors.any(axis=1)
    refuse(short, f"the vector's L2 norm is less than {LEAST_NORM:g}, too short for float32 to work with")


def norms_of(vectors: np.ndarray) -> np.ndarray:
    """float64 [N]: the L2 norms of [N, d] vectors, of which no square overflows or is lost."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
