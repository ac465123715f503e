"""Tables of bucket files: plain Parquet, one file per part, named by its content."""

import contextlib
import datetime
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.footers import check_footer
from stores.ids import find_sorted
from stores.page_headers import column_chunks

TABLES = ("histories", "user_embeddings", "pin_embeddings", "indexes", "canaries")
# Only of roots whose ids are strings: what the ids stand for.
USER_NAMES, PIN_NAMES = NAME_TABLES = ("user_names", "pin_names")
KNOWN_TABLES = (*TABLES, *NAME_TABLES)
SORTED = "sorted"  # the folder under a root with the sorted vectors: of no release, and of pins alone
DICTIONARIES = ("action", "surface")  # columns of few strings
PIECE_ROWS = 1 << 13  # decoded at a time where few rows of a file are kept
EMBEDDING_BYTES = 2  # of a float16
PIECE_BYTES = 4 << 20  # of a column read at a time there; on an object store a request each


def footer_digest(metadata: pq.FileMetaData) -> str:
    """Hex sha256 of a Parquet file's footer: where its pages lie and what statistics they have; reads no page."""
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()


PART = "part"


def part_stem(part: int, role: str = PART) -> str:
    """The first words of a part's file name.

    Args:
        role: What a file is for that stands beside that of the part itself.
    """
    return f"{role}-{part:05d}"


def write_part(root: Root, table: str, date: datetime.date, part: int, rows: pa.Table) -> FileEntry:
    """Writes one part of a table to `<table>/<date>/part-NNNNN-<digest>.parquet`."""
    return write_rows(root, f"{table}/{date.isoformat()}", part, rows)


def write_rows(root: Root, folder: str, part: int, rows: pa.Table) -> FileEntry:
    """Writes rows to `<folder>/part-NNNNN-<digest>.parquet`.

    Uncompressed: compression saves 9-17 % of float16 vectors and costs most of the speed. Equal rows give equal
    bytes.
    """

    def write(path: str) -> None:
        pq.write_table(
            rows,
            path,
            compression="none",
            use_dictionary=[name for name in DICTIONARIES if name in rows.schema.names] or False,
            write_statistics=["user_id"] if "user_id" in rows.schema.names else ["pin_id"],
            row_group_size=1 << 20,
        )

    return root.write_named_by_content(folder, part_stem(part), ".parquet", part, rows.num_rows, write)


def read_files(
    root: Root, entries: list[FileEntry], columns: list[str] | None = None, *, verify: bool = False
) -> pa.Table:
    """The rows of the files of ONE part, in order; dictionary columns come back as dictionaries.

    Args:
        verify: Compare the sha256 of every file with its entry's: a flipped bit in a vector shows in no other way.

    Raises:
        StoreError: a file is missing, truncated or not what the manifest says.
    """
    tables = []
    for entry in entries:
        with open_table_file(root, entry, verify=verify) as file:
            tables.append(file.read(columns=columns, use_threads=False))
    return pa.concat_tables(tables)


@contextlib.contextmanager
def open_table_file(
    root: Root, entry: FileEntry, *, verify: bool = False, piecewise: bool = False
) -> Iterator[pq.ParquetFile]:
    """Opens a file that a manifest names, once its size and its rows are known to be those that the manifest says.

    Args:
        verify: Compare its sha256, too.
        piecewise: Columns are read `PIECE_BYTES` at a time, and not a row group at once.

    Raises:
        StoreError: as `read_files`; also for what pyarrow raises while the file is open.
    """
    path = root.path(entry.path)
    try:
        with root.open_input(entry.path) as source:
            if source.size() != entry.bytes:
                raise StoreError(
                    f"{path}: has {source.size()} bytes, its manifest says {entry.bytes}; restore the file"
                )
            content = source
            if verify:
                content = pa.BufferReader(data := source.read_buffer())
                if hashlib.sha256(data).hexdigest() != entry.checksum:
                    raise StoreError(
                        f"{path}: its sha256 is not the one that it was written with: it was changed or damaged "
                        "since; restore the file from a backup, or start from an older release"
                    )
            # Read ahead, a row group lies in memory as a whole, however small the batches are.
            with pq.ParquetFile(content, pre_buffer=not piecewise, buffer_size=PIECE_BYTES * piecewise) as file:
                check_footer(file.metadata)
                if file.metadata.num_rows != entry.rows:
                    raise StoreError(
                        f"{path}: has {file.metadata.num_rows} rows, its manifest says {entry.rows}; restore the file"
                    )
                yield file
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); the release that names it is damaged, "
            "restore the file from a backup or start from an older release"
        ) from error


def read_rows_of(
    root: Root, entries: list[FileEntry], key: str, ids: np.ndarray, columns: list[str] | None = None
) -> pa.Table:
    """The rows of some ids, file after file, each in its order; ids that are not there have none.

    A row group whose smallest and largest id leave no room for any of the ids is not read. Of another, what stands
    before the last row asked for passes through memory in pieces of `PIECE_ROWS`, and the rows asked for are kept:
    memory follows them, not the file. Less is not read, since a file of up to a million rows is one row group.

    Args:
        entries: At least one file, sorted by the key.
        key: "user_id" or "pin_id".
        ids: Sorted distinct int64.
        columns: Of the result; all if None.

    Raises:
        StoreError: as `read_files`.
    """
    tables = []
    for entry in entries:
        with open_table_file(root, entry, piecewise=True) as file:
            schema = file.schema_arrow
            wanted = schema.names if columns is None else columns
            tables.append(schema.empty_table().select(wanted))
            for piece in _pieces(file, _groups_with(file, key, ids), [*wanted, *({key} - set(wanted))]):
                keys = piece[key].to_numpy()
                _, asked = find_sorted(ids, keys)
                if asked.any():
                    tables.append(pa.table(piece.filter(pa.array(asked))).select(wanted))
                if keys[-1] > ids[-1]:
                    break
    return pa.concat_tables(tables)


def _groups_with(file: pq.ParquetFile, key: str, ids: np.ndarray) -> list[int]:
    """The row groups that may hold a row of one of some sorted ids, by their statistics where they have any."""
    column, found = file.schema_arrow.names.index(key), []
    for number, chunk in enumerate(column_chunks(file.metadata, column) if len(ids) else ()):
        if chunk.range is not None:
            lowest, highest = chunk.range
            at = np.searchsorted(ids, lowest)
            if at == len(ids) or ids[at] > highest:
                continue
        found.append(number)
    return found


def _pieces(file: pq.ParquetFile, groups: list[int], columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups, `PIECE_ROWS` at a time; none is empty."""
    pieces = file.iter_batches(PIECE_ROWS, row_groups=groups, columns=columns, use_threads=False) if groups else ()
    return (piece for piece in pieces if piece.num_rows)


def read_dim(root: Root, entry: FileEntry) -> int:
    """The width of the vectors in a file of embeddings: of its footer, no vector is read.

    Raises:
        StoreError: as `read_files`.
    """
    with open_table_file(root, entry) as file:
        kind = file.schema_arrow.field("embedding").type
        if not pa.types.is_fixed_size_binary(kind):
            raise ValueError(f"column 'embedding' is {kind}")
        return kind.byte_width // EMBEDDING_BYTES


def read_drawn(
    root: Root, entries: list[FileEntry], count: int, seed: int, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """Rows of a table drawn at random without repeats, a table per file, by part; all rows if there are fewer.

    How many rows a file has is known from its entry: only those of which a row is drawn are read, one at a time, as
    `read_rows_of` reads them.

    Raises:
        StoreError: as `read_files`.
    """
    ordered = sorted(entries, key=lambda entry: entry.part)
    for entry, rows in zip(ordered, draw_numbers([entry.rows for entry in ordered], count, seed), strict=True):
        if len(rows):
            yield read_numbered(root, entry, rows, columns)


def draw_numbers(sizes: Sequence[int], count: int, seed: int) -> list[np.ndarray]:
    """Numbers of rows drawn at random without repeats from files of so many rows: of each, sorted int64."""
    total = sum(sizes)
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    starts = np.append(0, np.cumsum(np.array(sizes, np.int64)))
    edges = np.searchsorted(chosen, starts)
    return [chosen[edges[n] : edges[n + 1]] - starts[n] for n in range(len(sizes))]


def read_numbered(root: Root, entry: FileEntry, rows: np.ndarray, columns: list[str] | None = None) -> pa.Table:
    """Rows of a file by their numbers, sorted int64 [N], N > 0.

    Raises:
        StoreError: as `read_files`.
    """
    tables, start = [], 0
    with open_table_file(root, entry, piecewise=True) as file:
        for piece in _pieces(file, list(range(file.metadata.num_row_groups)), columns):
            mine = rows[(rows >= start) & (rows < start + piece.num_rows)] - start
            if len(mine):
                tables.append(pa.table(piece.take(pa.array(mine))))
            start += piece.num_rows
            if start > rows[-1]:
                break
    return pa.concat_tables(tables)
