"""A release's vectors as others read them: Parquet with lists, NumPy arrays, a DuckDB file; with the user's own ids."""

import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores import id_names
from stores.errors import StoreError
from stores.extras import load
from stores.files import Root
from stores.id_names import NamedIds
from stores.ids import find_sorted
from stores.manifests import Manifest
from stores.partitions import DAY_MS
from stores.schemas import from_binary_column
from stores.string_ids import STRING
from stores.tables import read_dim, read_files

GROUP_ROWS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Kind:
    """Users or pins.

    Attributes:
        name: Of the files.
        table: Of a release.
        ids: What their ids are called.
    """

    name: str
    table: str
    ids: NamedIds

    @property
    def column(self) -> str:
        """Of the ids."""
        return self.ids.column


USERS = Kind("users", "user_embeddings", id_names.USERS)
PINS = Kind("pins", "pin_embeddings", id_names.PINS)
KINDS = {kind.name: kind for kind in (USERS, PINS)}


@dataclasses.dataclass(frozen=True)
class Part:
    """Some users or pins of a release.

    Attributes:
        keys: int64 [N]: their ids inside.
        ids: int64 or string [N]: as the logs have them.
        vectors: float32 [N, d].
        more: Columns beside, of users.
    """

    keys: np.ndarray
    ids: pa.Array
    vectors: np.ndarray
    more: dict[str, pa.Array]


@dataclasses.dataclass(frozen=True)
class Export:
    """What is exported: one kind of a release.

    Attributes:
        string_ids: Whether ids are strings.
    """

    root: Root
    manifest: Manifest
    kind: Kind

    @property
    def rows(self) -> int:
        return self.manifest.rows(self.kind.table)

    @property
    def string_ids(self) -> bool:
        return self.kind.ids.kind(self.manifest) == STRING

    @property
    def dim(self) -> int:
        """Numbers of a vector; 0 where there is none."""
        entries = self.manifest.tables[self.kind.table]
        return read_dim(self.root, entries[0]) if entries else 0

    def part_numbers(self) -> list[int]:
        """Of the parts that have rows."""
        return sorted(self.manifest.parts(self.kind.table))

    def read_part(self, number: int) -> Part:
        """One part, every file of it compared with its checksum.

        Raises:
            StoreError: a file is missing or damaged, or an id has no name.
        """
        rows = read_files(self.root, self.manifest.parts(self.kind.table)[number], verify=True)
        keys = rows[self.kind.column].to_numpy()
        vectors = from_binary_column(rows["embedding"]).astype(np.float32)
        return Part(keys, self._own_ids(number, keys), vectors, _more_columns(rows, self.manifest))

    def _own_ids(self, number: int, keys: np.ndarray) -> pa.Array:
        if not self.string_ids:
            return pa.array(keys)
        table = self.kind.ids.table
        entries = self.manifest.parts(table).get(number, []) if table in self.manifest.tables else []
        if not entries:
            raise StoreError(f"{self.root.url}: release {self.manifest.release} has no {table} of part {number}")
        names = read_files(self.root, entries, verify=True)
        at, found = find_sorted(names[self.kind.column].to_numpy(), keys)
        if not found.all():
            raise StoreError(
                f"{self.root.url}: {self.kind.column} with hash {keys[~found][0]} has no name in {table} of "
                f"release {self.manifest.release}; make the release again"
            )
        return names["name"].combine_chunks().cast(pa.string()).take(pa.array(at))

    def parts(self) -> Iterator[Part]:
        """Yields every part, one in memory at a time."""
        for number in self.part_numbers():
            yield self.read_part(number)

    def schema(self) -> pa.Schema:
        """Of the rows for Parquet and DuckDB."""
        own = pa.string() if self.string_ids else pa.int64()
        fields = [(self.kind.column, own), ("embedding", pa.list_(pa.float32()))]
        if self.kind is USERS:
            fields += [("embedding_date", pa.date32()), ("last_action", _MS), ("stale", pa.bool_())]
        return pa.schema([*fields, ("valid_from", _MS)])

    def to_rows(self, part: Part) -> pa.Table:
        """A part as rows of `schema`."""
        count, dim = part.vectors.shape
        offsets = pa.array(np.arange(0, (count + 1) * dim, dim or 1, dtype=np.int32)[: count + 1])
        lists = pa.ListArray.from_arrays(offsets, pa.array(part.vectors.reshape(-1)))
        return pa.table([part.ids, lists, *part.more.values()], schema=self.schema())


_MS = pa.timestamp("ms", "UTC")


def _more_columns(rows: pa.Table, manifest: Manifest) -> dict[str, pa.Array]:
    """When a vector was made, and from which moment on it may be used: the end of the day whose logs it knows.

    A training set that joins at a moment before it would look ahead.
    """

    def column(name: str) -> pa.Array:
        return rows[name].combine_chunks()

    if "embedding_date" not in rows.schema.names:
        day = (manifest.day - datetime.date(1970, 1, 1)).days
        return {"valid_from": pa.array(np.full(rows.num_rows, (day + 1) * DAY_MS), _MS)}
    days = column("embedding_date")
    ends = (days.cast(pa.int32()).to_numpy().astype(np.int64) + 1) * DAY_MS
    return {
        "embedding_date": days,
        "last_action": column("last_action_ms").cast(_MS),
        "stale": column("stale"),
        "valid_from": pa.array(ends, _MS),
    }


def write_parquet(export: Export, path: str) -> None:
    """Writes one file, a part after the other."""
    with pq.ParquetWriter(path, export.schema()) as writer:
        for part in export.parts():
            writer.write_table(export.to_rows(part), row_group_size=GROUP_ROWS)


def write_npy(export: Export, vectors: str, ids: str) -> None:
    """Writes two arrays of the same order: float32 [N, d], and the ids, int64 [N] or texts of one width [N].

    Neither needs pickle, and both can be mapped: `np.load(path, mmap_mode="r")`.
    """
    longest = max((_longest(part.ids) for part in export.parts()), default=1) if export.string_ids else 0
    kind = np.dtype(f"<U{max(longest, 1)}") if export.string_ids else np.dtype("<i8")
    with open(vectors, "wb") as numbers, open(ids, "wb") as names:
        _write_header(numbers, (export.rows, export.dim), np.dtype("<f4"))
        _write_header(names, (export.rows,), kind)
        for part in export.parts():
            numbers.write(np.ascontiguousarray(part.vectors, "<f4").tobytes())
            own = part.ids.to_pylist() if export.string_ids else part.ids.to_numpy()
            names.write(np.array(own, kind).tobytes())


def _longest(ids: pa.Array) -> int:
    return max(map(len, ids.to_pylist()), default=0)


def _write_header(file: Any, shape: tuple[int, ...], kind: np.dtype) -> None:
    descr = np.lib.format.dtype_to_descr(kind)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def write_duckdb(exports: list[Export], path: str) -> None:
    """Writes a DuckDB file with a table of each kind; `embedding` is FLOAT[d], as its vector functions take it.

    Raises:
        UsageError: DuckDB is not installed.
    """
    duckdb = load("duckdb", "import", "--format duckdb")
    with duckdb.connect(path) as connection:
        for export in exports:
            connection.register("given", pa.RecordBatchReader.from_batches(export.schema(), _batches(export)))
            width = max(export.dim, 1)
            connection.execute(
                f"CREATE TABLE {export.kind.name} AS "
                f"SELECT * REPLACE (CAST(embedding AS FLOAT[{width}]) AS embedding) FROM given"
            )
            connection.unregister("given")


def _batches(export: Export) -> Iterator[pa.RecordBatch]:
    for part in export.parts():
        yield from export.to_rows(part).to_batches()
