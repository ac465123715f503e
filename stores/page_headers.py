"""Headers of Parquet pages, which stand in front of their values: what pyarrow reads and hands to nobody.

A header is a struct of the compact protocol of Thrift (parquet.thrift, `PageHeader`): fields of a kind and a number,
integers in seven bits a byte, the lowest first.
"""

import dataclasses

_DATA_PAGE, _PLAIN = 0, 0  # of parquet.thrift: PageType, Encoding
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_DEPTH = 4  # structs in one another: a header has two


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
    """Fields of a struct by their numbers, integers and structs only; the byte behind it."""
    if not depth:
        raise ValueError("structs in structs")
    fields: dict = {}
    number = 0
    while byte := data[at]:
        at += 1
        kind = byte & 15
        if byte >> 4:
            number += byte >> 4
        else:
            number, at = _read_integer(data, at)
        if kind in (_I16, _I32, _I64):
            fields[number], at = _read_integer(data, at)
        elif kind == _STRUCT:
            fields[number], at = _read_struct(data, at, depth - 1)
        elif kind == _BINARY:
            length, at = _read_varint(data, at)
            at += length
        elif kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):
            at += {_BYTE: 1, _DOUBLE: 8}.get(kind, 0)
        else:
            raise ValueError(f"a field of kind {kind}")
    return fields, at + 1


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
