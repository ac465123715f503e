"""Arrow schemas of the tables, and vectors in and out of them without a copy."""

import numpy as np
import pyarrow as pa

STRING_CODES = pa.dictionary(pa.int32(), pa.string())

# One row an engagement. In the logs as in the histories.
ENGAGEMENTS = pa.schema(
    [
        ("user_id", pa.int64()),
        ("pin_id", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("action", STRING_CODES),
        ("surface", STRING_CODES),
        ("duration_s", pa.float32()),
    ]
)

# Beside them, of rows that were just read, where ids are strings: the strings.
NAME_COLUMNS = {"user_id": "user_name", "pin_id": "pin_name"}


def names_schema(key: str) -> pa.Schema:
    """One row an id that stands for a string, sorted by `key`, which is "user_id" or "pin_id"."""
    return pa.schema([(key, pa.int64()), ("name", pa.string())])


def user_embeddings_schema(dim: int) -> pa.Schema:
    """One row a user, sorted by `user_id`. `embedding`: little-endian float16 [dim]; `embedding_date`: UTC day."""
    return pa.schema(
        [
            ("user_id", pa.int64()),
            ("embedding", pa.binary(2 * dim)),
            ("embedding_date", pa.date32()),
            ("last_action_ms", pa.int64()),
            ("stale", pa.bool_()),
        ]
    )


VECTOR_DIGEST = "vector_digest"


def pin_embeddings_schema(dim: int) -> pa.Schema:
    """One row a pin, sorted by `pin_id`. `embedding`: little-endian float16 [dim]; `vector_digest`: of the vector that
    it was made of, as `digest_rows` gives it; files of older versions lack it."""
    return pa.schema([("pin_id", pa.int64()), ("embedding", pa.binary(2 * dim)), (VECTOR_DIGEST, pa.int64())])


def to_binary_column(vectors: np.ndarray) -> pa.FixedSizeBinaryArray:
    """[N, d] of any fixed-width dtype -> a fixed_size_binary(d * itemsize) column of N rows, zero-copy."""
    vectors = np.ascontiguousarray(vectors)
    width = vectors.shape[1] * vectors.dtype.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(vectors), [None, pa.py_buffer(vectors)])


def from_binary_column(column: pa.ChunkedArray | pa.Array, dtype: np.dtype | type = np.float16) -> np.ndarray:
    """A fixed_size_binary column without nulls -> [N, width / itemsize], read-only, zero-copy for a single chunk."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # combine_chunks of none keeps the wrapper
            column = pa.array([], column.type)
    dim = column.type.byte_width // np.dtype(dtype).itemsize
    flat = np.frombuffer(column.buffers()[1] or b"", dtype=dtype)
    return flat[column.offset * dim : (column.offset + len(column)) * dim].reshape(len(column), dim)
