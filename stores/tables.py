"""Tables of bucket files: plain Parquet, one file per part, named by its content."""

import datetime
import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.footers import check_footer

TABLES = ("histories", "user_embeddings", "pin_embeddings", "indexes", "canaries")
DICTIONARIES = ("action", "surface")  # columns of few strings


def footer_digest(metadata: pq.FileMetaData) -> str:
    """Hex sha256 of a Parquet file's footer: where its pages lie and what statistics they have; reads no page."""
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def part_stem(part: int) -> str:
    """The first words of a part's file name."""
    return f"part-{part:05d}"


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
                with pq.ParquetFile(content) as file:
                    check_footer(file.metadata)
                    table = file.read(columns=columns, use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StoreError(
                f"{path}: cannot be read ({str(error).splitlines()[0]}); the release that names it is damaged, "
                "restore the file from a backup or start from an older release"
            ) from error
        if table.num_rows != entry.rows:
            raise StoreError(f"{path}: has {table.num_rows} rows, its manifest says {entry.rows}; restore the file")
        tables.append(table)
    return pa.concat_tables(tables)


def read_drawn(
    root: Root, entries: list[FileEntry], count: int, seed: int, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """Rows of a table drawn at random without repeats, a piece per file, by part; all rows if there are fewer.

    How many rows a file has is known from its entry: only those of which a row is drawn are read, one at a time.

    Raises:
        StoreError: as `read_files`.
    """
    total = sum(entry.rows for entry in entries)
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    start = 0
    for entry in sorted(entries, key=lambda entry: entry.part):
        rows = chosen[(chosen >= start) & (chosen < start + entry.rows)] - start
        if len(rows):
            yield read_files(root, [entry], columns).take(pa.array(rows))
        start += entry.rows
