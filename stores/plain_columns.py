"""Whole numbers of a table file where they lie: rows of one id, without what stands before them passing through memory.

Table files are not compressed, and int64 columns have no dictionary: the values of a page lie in the file as they are,
8 bytes each. Where the pages are is read off their headers once a file, and kept; the file itself is opened anew every
time, so that one that `erase` or `gc` removed is held by nobody.
"""

import bisect
import contextlib
import dataclasses
import functools
import os
import struct
import sys

import numpy as np
import pyarrow.parquet as pq

from stores.files import FileEntry, Root
from stores.page_headers import column_chunks, read_plain_page
from stores.tables import open_table_file, read_rows_of

KNOWN_FILES = 4096  # whose pages are remembered: some hundred bytes each
_NUMBER = struct.Struct("<q")
_WIDTH = _NUMBER.size
_FEW = 512  # numbers that are read at once
_LENGTH = struct.Struct("<I")  # of what stands in front of the values of a page


def _number_at(file: int, offset: int) -> int:
    (number,) = _NUMBER.unpack(os.pread(file, _WIDTH, offset))
    return int(number)


@dataclasses.dataclass(frozen=True)
class PlainColumn:
    """Where the values of an int64 column without nulls lie.

    Attributes:
        rows: [P + 1], ascending: the row of the file that each page begins with, and at the end the number of rows.
        offsets: [P]: the byte of the file at which the first value of each page lies.
    """

    rows: tuple[int, ...]
    offsets: tuple[int, ...]

    def position(self, file: int, value: int, *, after: bool) -> int:
        """The first row of a sorted column whose value is not below `value`, or, if `after`, above it.

        Args:
            file: The descriptor of its file.
        """
        search = bisect.bisect_right if after else bisect.bisect_left
        page = search(self.offsets, value, key=lambda offset: _number_at(file, offset)) - 1
        if page < 0:
            return 0
        begin, low, high = self.offsets[page], 0, self.rows[page + 1] - self.rows[page]
        while high - low > _FEW:
            middle = (low + high) // 2
            found = _number_at(file, begin + _WIDTH * middle)
            if found < value or (after and found == value):
                low = middle + 1
            else:
                high = middle
        # The rest at once: numbers of this machine's byte order are searched without a Python call a step.
        numbers = memoryview(os.pread(file, _WIDTH * (high - low), begin + _WIDTH * low)).cast("q")
        return self.rows[page] + low + search(numbers, value)

    def values(self, file: int, begin: int, end: int) -> np.ndarray:
        """Of some rows: int64 [end - begin]."""
        pieces = [np.empty(0, np.int64)]
        for page in range(max(0, bisect.bisect_right(self.rows, begin) - 1), len(self.offsets)):
            first, last = max(begin, self.rows[page]), min(end, self.rows[page + 1])
            if first >= last:
                break
            offset = self.offsets[page] + _WIDTH * (first - self.rows[page])
            pieces.append(np.frombuffer(os.pread(file, _WIDTH * (last - first), offset), "<i8"))
        return np.concatenate(pieces)


def read_numbers_of(root: Root, entry: FileEntry, key: str, id: int, column: str) -> np.ndarray:
    """A column of the rows of one id, in their order: int64.

    On a local root a few kilobytes are read, at the places that the search for the id passes: to map a file, and to let
    it go, costs many times that in the kernel. Elsewhere, and of a file that was written otherwise, it is read as
    `read_rows_of` does.

    Args:
        entry: A file sorted by the key.
        key: "user_id" or "pin_id".

    Raises:
        StoreError: as `read_files`.
    """
    as_they_lie = root.is_local and entry.rows and sys.byteorder == "little"
    columns = _plain_columns(root, entry, key, column) if as_they_lie else None
    if columns is not None:
        with contextlib.suppress(OSError), open(root.path(entry.path), "rb", buffering=0) as source:
            file = source.fileno()
            if os.fstat(file).st_size == entry.bytes:
                keys, values = columns
                begin, end = (keys.position(file, id, after=after) for after in (False, True))
                return values.values(file, begin, end)
    return read_rows_of(root, [entry], key, np.array([id]), [column])[column].to_numpy()


@functools.lru_cache(KNOWN_FILES)
def _plain_columns(root: Root, entry: FileEntry, *names: str) -> tuple[PlainColumn, ...] | None:
    """Where columns of a file lie; None where one of them is not plain.

    The name of a table file says its content: what is remembered holds for as long as there is such a file.
    """
    with open_table_file(root, entry) as file, root.open_input(entry.path) as source:
        content = memoryview(source.read_buffer()).cast("B")
        columns = [_plain_column(file, content, file.schema_arrow.names.index(name)) for name in names]
    return None if None in columns else tuple(column for column in columns if column is not None)


def _plain_column(file: pq.ParquetFile, content: memoryview, number: int) -> PlainColumn | None:
    rows, offsets = [0], []
    has_levels = file.schema.column(number).max_definition_level > 0
    for index, chunk in enumerate(column_chunks(file.metadata, number)):
        if not chunk.is_plain:
            return None
        at, last = chunk.begin, rows[-1] + file.metadata.row_group(index).num_rows
        end = min(at + chunk.bytes, len(content))
        while rows[-1] < last:
            page = read_plain_page(content, at, end)
            if page is None or not 0 < page.values <= last - rows[-1]:
                return None
            # In front of the values stands which of them are null. One that is null has no value: then the sizes do not
            # add up.
            first = page.begin
            if has_levels:
                first += _LENGTH.size + _LENGTH.unpack_from(content, page.begin)[0]
            if first + _WIDTH * page.values != page.end:
                return None
            rows.append(rows[-1] + page.values)
            offsets.append(first)
            at = page.end
    return PlainColumn(tuple(rows), tuple(offsets))
