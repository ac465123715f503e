"""Parquet footers: compared with what they can be before anything is allocated by what they say, and told apart."""

import hashlib
from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations

MAX_VALUES = 1 << 30  # of a column in a row group: 8 GiB of int64, more than a worker should be handed at once
_TAIL = 64 << 10  # most footers fit into the last so many bytes, which one request brings
_KINDS = {b"\x1f\x8b": "gzip around the whole file", b"PK": "a zip archive", b"ORC": "ORC", b"Obj\x01": "Avro"}


def check_footer(metadata: pq.FileMetaData, values_a_row: int = 1) -> None:
    """Refuses a footer of impossible counts: a reader makes room for as many rows as it is told of.

    What a footer says of single columns `stores.page_headers` reads: asked for a damaged column's, pyarrow ends the
    process.

    Args:
        values_a_row: Of the widest column.

    Raises:
        ValueError: rows that do not add up, or more in a row group than anybody writes at once.
    """
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise ValueError(f"its footer says {metadata.num_rows:,} rows, its row groups {sum(rows):,}")
    most = MAX_VALUES // values_a_row
    if max(rows, default=0) > most:
        raise ValueError(f"its footer says {max(rows):,} rows in one row group, at most {most:,} are read at once")


def rows_before(metadata: pq.FileMetaData, row_group: int) -> int:
    """How many rows of a file stand before a row group."""
    return sum(metadata.row_group(number).num_rows for number in range(row_group))


def footer_mark(source: pa.NativeFile) -> str:
    """16 hex digits of the bytes of a file's footer: read from its end, understood by nobody, thus quickly.

    Returns:
        Another mark where the pages lie elsewhere or have other statistics; of a file without a footer, its end's.
    """
    size = source.size()
    tail = source.read_at(min(size, _TAIL), max(0, size - _TAIL))
    length = min(size, 8 + int.from_bytes(tail[-8:-4], "little")) if len(tail) >= 8 else len(tail)
    footer = tail[len(tail) - length :] if length <= len(tail) else source.read_at(length, size - length)
    return hashlib.sha256(footer).hexdigest()[:16]


def why_unreadable(path: str, error: Exception) -> str:
    """Why a file is no readable Parquet file: pyarrow's reason, or what it is instead, as far as its start tells."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    try:
        with locations.open_input(path) as source:
            start = source.read(4)
    except (OSError, pa.ArrowException):
        return reason
    return next((f"it is {kind}" for magic, kind in _KINDS.items() if start.startswith(magic)), reason)


def find_unreadable(
    open_file: Callable[[], pq.ParquetFile], row_group: int, columns: Iterable[str], error: Exception
) -> str:
    """Says of a row group that cannot be read which column and which rows it is, and why.

    Args:
        columns: Those that were read together when it failed; each is tried by itself.
        error: What was raised then.
    """
    reason = str(error).splitlines()[0]
    try:
        with open_file() as source:
            first = rows_before(source.metadata, row_group)
            last = first + source.metadata.row_group(row_group).num_rows - 1
            for column in columns:
                try:
                    source.read_row_group(row_group, columns=[column], use_threads=False)
                except (pa.ArrowException, OSError) as found:
                    return f"column {column!r}, rows {first} to {last}: {str(found).splitlines()[0]}"
    except Exception:  # it is said why it failed the first time
        return reason
    return f"rows {first} to {last}: {reason}"
