"""What pyarrow reads of a Parquet file and hands to nobody, or not safely: headers of pages, chunks of columns.

Both are structs of the compact protocol of Thrift (parquet.thrift, `PageHeader` and `FileMetaData`): fields of a kind
and a number, integers in seven bits a byte, the lowest first.
"""

import dataclasses
import functools
import struct

import pyarrow as pa
import pyarrow.parquet as pq

_DATA_PAGE, _PLAIN = 0, 0  # of parquet.thrift: PageType, Encoding
_INT64, _UNCOMPRESSED = 2, 0  # Type, CompressionCodec
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12
_DEPTH = 12  # structs and lists in one another: a footer has eight
_TAIL = 8  # bytes behind a footer: its length, and PAR1
KNOWN_FOOTERS = 16  # that are remembered: a file of logs is opened again for each of its row groups


@dataclasses.dataclass(frozen=True)
class PlainPage:
    """A data page of version 1, of plain values.

    Attributes:
        begin: Byte of the file behind its header, where its content begins.
        end: Byte behind its content.
        values: How many it says it has, nulls too.
    """

    begin: int
    end: int
    values: int


@dataclasses.dataclass(frozen=True)
class ColumnChunk:
    """A column of a row group, as the footer has it.

    Attributes:
        is_plain: int64 without compression and without a dictionary.
        begin: Byte of the file of its first data page.
        bytes: Of all its pages in the file.
        unpacked: Of all its pages without compression.
        range: Smallest and largest value of an int64 column, None where it does not say.
    """

    is_plain: bool
    begin: int
    bytes: int
    unpacked: int
    range: tuple[int, int] | None


def column_chunks(metadata: pq.FileMetaData, number: int) -> list[ColumnChunk]:
    """The chunks of a column, by row group.

    Asked for the chunk of a damaged footer, pyarrow ends the process (`std::terminate`: its binding catches nothing
    there). So the footer is read here.

    Args:
        number: Of the column among the leaves of the schema.

    Raises:
        ValueError: the footer says what cannot be.
    """
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    try:
        return [_column_chunk(group[1][number][3]) for group in _row_groups(sink.getvalue().to_pybytes())]
    except (IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"its footer has no chunk of column {number} that can be read") from error


@functools.lru_cache(KNOWN_FOOTERS)
def _row_groups(file: bytes) -> list[dict]:
    """The row groups of a file that is nothing but its footer: of many of them a quarter of a millisecond each."""
    fields, _ = _read_struct(memoryview(file)[4:-_TAIL], 0, _DEPTH)
    return fields[4]


def _column_chunk(fields: dict) -> ColumnChunk:
    is_int64, statistics = fields[1] == _INT64, fields.get(12, {})
    known = is_int64 and {5, 6} <= statistics.keys()
    lowest, highest = (struct.unpack("<q", statistics[field]) if known else (0,) for field in (6, 5))
    is_plain = is_int64 and fields[4] == _UNCOMPRESSED and 11 not in fields
    begin, size, unpacked = fields[9], fields[7], fields[6]
    if not all(isinstance(one, int) and one >= 0 for one in (begin, size, unpacked)):
        raise ValueError(f"its footer says that a column of {size} bytes begins at byte {begin}")
    return ColumnChunk(is_plain, begin, size, unpacked, (*lowest, *highest) if known else None)


def read_plain_page(data: memoryview, begin: int, end: int) -> PlainPage | None:
    """Reads the header at a byte of a file.

    Args:
        end: Byte behind the last that may belong to the page.

    Returns:
        None for another kind of page, and for what is no header.
    """
    try:
        fields, at = _read_struct(data[:end], begin, _DEPTH)
        kind, size, header = fields.get(1), fields.get(3), fields.get(5)
        if kind != _DATA_PAGE or not isinstance(size, int) or not isinstance(header, dict):
            return None
        values = header.get(1)
        if header.get(2) != _PLAIN or not isinstance(values, int) or values < 0 or not 0 <= size <= end - at:
            return None
        return PlainPage(at, at + size, values)
    except (IndexError, ValueError):
        return None


def _read_struct(data: memoryview, at: int, depth: int) -> tuple[dict, int]:
    """Fields of a struct by their numbers, all but fractions and truths; the byte behind it."""
    if not depth:
        raise ValueError("structs in structs")
    fields: dict = {}
    number = 0
    while byte := data[at]:
        at += 1
        if byte >> 4:
            number += byte >> 4
        else:
            number, at = _read_integer(data, at)
        kind = byte & 15
        if kind not in (_TRUE, _FALSE):  # they are the kind, and no byte more
            fields[number], at = _read_value(data, at, kind, depth)
    return fields, at + 1


def _read_value(data: memoryview, at: int, kind: int, depth: int) -> tuple:
    """A value of a kind, None for one that nobody asks for; the byte behind it."""
    if kind in (_I16, _I32, _I64):
        return _read_integer(data, at)
    if kind == _BINARY:
        length, at = _read_varint(data, at)
        return data[at : at + length], at + length
    if kind == _STRUCT:
        return _read_struct(data, at, depth - 1)
    if kind in (_LIST, _SET):
        return _read_list(data, at, depth - 1)
    if kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):
        return None, at + (8 if kind == _DOUBLE else 1)
    raise ValueError(f"a field of kind {kind}")


def _read_list(data: memoryview, at: int, depth: int) -> tuple[list, int]:
    if not depth:
        raise ValueError("lists in lists")
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _read_varint(data, at)
    found: list = []
    # An element has a byte at least: of more than there are bytes reading ends with the data.
    while len(found) < count:
        value, at = _read_value(data, at, kind, depth)
        if at > len(data):
            raise ValueError("a list without an end")
        found.append(value)
    return found, at


def _read_integer(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _read_varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("an integer without an end")
