"""PinSage vectors: the input files, and the sorted tables that workers map into memory."""

import dataclasses
import datetime
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.errors import InputError
from stores.files import FileEntry, Root
from stores.footers import check_footer, find_unreadable, rows_before, why_unreadable
from stores.id_columns import OTHER_KIND, id_kind, read_pin_ids, shown_id
from stores.ids import bucket_of, find_sorted
from stores.partitions import LEAVE_ALONE, DataFile, list_visible
from stores.schemas import from_binary_column, to_binary_column
from stores.string_ids import INT64
from stores.tables import footer_digest

WIDTH = 256
VERSION_FILE = "version.json"
NAME = "name"  # the column of a vector table that has the strings, where ids are strings

# Norms between these are computed in float32 without a square, or a quotient of two, that is 0 or infinite.
LEAST_NORM, MOST_NORM = 1e-8, 1e8


@dataclasses.dataclass(frozen=True)
class VectorFile:
    """One Parquet file of PinSage vectors.

    Attributes:
        dtype: float16 or float32.
        version: Changes when the file is written again: from its footer and its modification time.
        pin_ids: What its ids are, "int64" or "string".
    """

    path: str
    rows: int
    row_groups: int
    dtype: str
    version: str
    pin_ids: str = INT64


@dataclasses.dataclass(frozen=True)
class VectorSet:
    """The PinSage vectors a run is given: one version, one dtype, one kind of ids, any number of files."""

    version: str
    dtype: str
    files: tuple[VectorFile, ...]

    @property
    def pin_ids(self) -> str:
        """What the ids are, "int64" or "string"."""
        return self.files[0].pin_ids if self.files else INT64

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def nbytes(self) -> int:
        """Of all vectors, in memory."""
        return self.rows * WIDTH * np.dtype(self.dtype).itemsize


def list_vector_files(folder: str) -> list[DataFile]:
    """The files of a vector set, sorted by name; whatever they are called.

    Raises:
        InputError: no such folder, no file in it, or an entry that is no file: its vectors would not be read.
    """
    try:
        entries = list_visible(folder)
    except OSError as error:
        raise InputError(f"--pins {folder}: {error.strerror}; expected a folder of Parquet files") from None
    found = []
    for entry in entries:
        path = locations.join(folder, entry.name)
        if entry.kind != "file":
            raise InputError(
                f"{path}: not a file, and nothing in it would be read; move its files up, or give it as --pins, or "
                f"{LEAVE_ALONE}"
            )
        if entry.name != VERSION_FILE:
            found.append(DataFile(path, entry.name, entry.bytes, entry.modified_ns))
    return found


def read_version_file(folder: str) -> dict[str, Any]:
    """What a vector set says of itself in `version.json`.

    Raises:
        InputError: missing, or no JSON object.
    """
    path = locations.join(locations.absolute(folder), VERSION_FILE)
    try:
        found = json.loads(locations.read_bytes(path))
    except FileNotFoundError:
        raise InputError(f'{path}: missing; expected {{"pinsage_version": "..."}}') from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f'{path}: not understood; expected {{"pinsage_version": "..."}}')
    return found


def read_version(folder: str) -> str:
    """The PinSage version that a vector set says it is of, in `version.json`; a number is taken for its digits.

    Raises:
        InputError: missing, or no name of a version in it.
    """
    path = locations.join(locations.absolute(folder), VERSION_FILE)
    found = read_version_file(folder)
    if "pinsage_version" not in found:
        raise InputError(f'{path}: not understood; expected {{"pinsage_version": "..."}}')
    version = found["pinsage_version"]
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)
    if not isinstance(version, str) or not version:
        raise InputError(f'{path}: pinsage_version is {version!r}; expected a name, {{"pinsage_version": "..."}}')
    return version


def read_until(folder: str) -> datetime.date | None:
    """The day before which lies everything that the vectors know of, the key `until` of `version.json`.

    Returns:
        None where the vector set does not say.

    Raises:
        InputError: `version.json` is missing, or says something else than a day.
    """
    until = read_version_file(folder).get("until")
    if until is None:
        return None
    try:
        return datetime.date.fromisoformat(until)
    except (TypeError, ValueError):
        path = locations.join(locations.absolute(folder), VERSION_FILE)
        raise InputError(f"{path}: until is {until!r}; expected a day like 2026-11-01") from None


def describe_vectors(folder: str, expected_version: str) -> VectorSet:
    """Opens every file of a vector set and checks its schema; reads no vector.

    Raises:
        InputError: no such folder or no file in it, another PinSage version than the model's, wrong width or type.
    """
    folder = locations.absolute(folder)
    listed = list_vector_files(folder)
    version = read_version(folder)
    if version != expected_version:
        raise InputError(
            f"{locations.join(folder, VERSION_FILE)}: PinSage version {version!r}, the model was trained on "
            f"{expected_version!r}; another version is another space: give --pins of that version, or a --model "
            "trained on this one"
        )
    if not listed:
        raise InputError(f"--pins {folder}: no *.parquet file in it")
    files = tuple(_describe_file(file) for file in listed)
    dtypes = sorted({file.dtype for file in files})
    if len(dtypes) > 1:
        raise InputError(f"--pins {folder}: files of {' and '.join(dtypes)} mixed; write them all as one of the two")
    for file in files:
        if file.pin_ids != files[0].pin_ids:
            raise InputError(
                f"{file.path}: column 'pin_id' is of {file.pin_ids}, in {files[0].path} of {files[0].pin_ids}; write "
                "all files of a set with one kind of ids"
            )
    return VectorSet(version=version, dtype=dtypes[0], files=files)


def open_vector_file(path: str) -> pq.ParquetFile:
    """Opens a file of vectors; checksums of pages are compared.

    Raises:
        ArrowException, OSError, ValueError: not Parquet, or a footer of impossible counts.
    """
    file = pq.ParquetFile(locations.open_input(path), page_checksum_verification=True)
    check_footer(file.metadata, WIDTH)
    return file


def _describe_file(listed: DataFile) -> VectorFile:
    path = listed.path
    try:
        file = open_vector_file(path)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({why_unreadable(path, error)}); write it again or remove it, or "
            f"{LEAVE_ALONE}"
        ) from None
    for name in ("pin_id", "vector"):
        found = len(schema.get_all_field_indices(name))
        if not found:
            raise InputError(f"{path}: no column {name!r} (it has {', '.join(schema.names)})")
        if found > 1:
            raise InputError(f"{path}: {found} columns are called {name!r}; write one of them, under that name")
    pin_ids = id_kind(schema.field("pin_id").type)
    if pin_ids is None:
        raise InputError(f"{path}: column 'pin_id' is {schema.field('pin_id').type}; {OTHER_KIND}")
    kind = schema.field("vector").type
    values = kind.value_type if pa.types.is_fixed_size_list(kind) else None
    if values not in (pa.float16(), pa.float32()):
        raise InputError(
            f"{path}: column 'vector' is {kind}; write it as fixed_size_list<float16>[{WIDTH}] or <float32>[{WIDTH}]"
        )
    if kind.list_size != WIDTH:
        raise InputError(
            f"{path}: column 'vector' is {kind.list_size} wide, PinSage is {WIDTH}; give the right vectors"
        )
    dtype = "float16" if values == pa.float16() else "float32"
    file_version = f"{footer_digest(file.metadata)[:16]}-{listed.modified_ns}"
    return VectorFile(path, file.metadata.num_rows, file.metadata.num_row_groups, dtype, file_version, pin_ids)


def read_vectors(file: VectorFile, row_group: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads one row group and checks every row of it.

    Returns:
        pin_id int64 [N], as stored, or what stands for strings; vector [N, 256] of the file's dtype.

    Raises:
        InputError: a null or negative id, or one past 2**63; a null vector, NaN or infinity, or a vector so short or so
            long that float32 cannot give it a direction; names the row. All zeros is a vector like any other here.
    """
    wanted = ["pin_id", "vector"]
    try:
        with open_vector_file(file.path) as source:
            first = rows_before(source.metadata, row_group)
            rows = source.read_row_group(row_group, columns=wanted, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        why = find_unreadable(lambda: open_vector_file(file.path), row_group, wanted, error)
        raise InputError(f"{file.path}: row group {row_group} unreadable ({why}); write it again") from None
    ids = rows["pin_id"].combine_chunks()
    column = rows["vector"].combine_chunks()
    ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            named = f" (pin_id {shown_id(ids[row])})" if ids[row].is_valid else ""
            raise InputError(f"{file.path}: row {first + row}{named}: {what}; correct or leave out the row")

    pin_ids = read_pin_ids(ids, refuse)
    refuse(column.is_null().to_numpy(zero_copy_only=False), "vector is null")
    flat = column.flatten()
    if flat.null_count:
        holes = flat.is_null().to_numpy(zero_copy_only=False).reshape(len(pin_ids), WIDTH)
        refuse(holes.any(axis=1), "a null inside the vector")
    vectors = flat.to_numpy().reshape(len(pin_ids), WIDTH)
    refuse(~np.isfinite(vectors).all(axis=1), "vector has NaN or infinity in it")
    norms = norms_of(vectors)
    refuse(norms > MOST_NORM, f"the vector's L2 norm is more than {MOST_NORM:g}, too long for float32 to work with")
    short = (norms < LEAST_NORM) & vectors.any(axis=1)
    refuse(short, f"the vector's L2 norm is less than {LEAST_NORM:g}, too short for float32 to work with")
    return pin_ids, vectors


def read_pin_names(file: VectorFile, row_group: int) -> pa.Array:
    """The strings that are the ids of a row group, [N]; of rows that `read_vectors` has found fit.

    Raises:
        InputError: the column cannot be read.
    """
    try:
        with open_vector_file(file.path) as source:
            rows = source.read_row_group(row_group, columns=["pin_id"], use_threads=False)
            return pa.concat_arrays([pa.array([], pa.string()), *rows["pin_id"].cast(pa.string()).chunks])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file.path}: row group {row_group} unreadable ({error}); write it again") from None


def norms_of(vectors: np.ndarray) -> np.ndarray:
    """float64 [N]: the L2 norms of [N, d] vectors, of which no square overflows or is lost."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))


def write_vector_table(
    root: Root, folder: str, stem: str, part: int, ids: np.ndarray, vectors: np.ndarray, names: pa.Array | None = None
) -> FileEntry:
    """Writes an Arrow IPC file of one uncompressed batch: mapped into memory, it is two numpy arrays.

    Args:
        names: The strings that are the ids [N], where they are strings.
    """
    columns = {"pin_id": pa.array(ids), "vector": to_binary_column(vectors), **({} if names is None else {NAME: names})}
    batch = pa.record_batch(list(columns.values()), names=list(columns))

    def write(path: str) -> None:
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    return root.write_named_by_content(folder, stem, ".arrow", part, len(ids), write)


def map_vector_table(root: Root, entry: FileEntry, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Maps what `write_vector_table` wrote: pin_id int64 [N], vector [N, 256]; pages are shared between processes."""
    with pa.memory_map(root.local_copy(entry)) as source:
        return _columns(source, dtype)


def read_vector_table(root: Root, entry: FileEntry, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """As `map_vector_table`, of a file that is read once: on an object store no copy of it is kept."""
    with root.open_input(entry.path) as source:
        return _columns(source, dtype)


def read_table_names(root: Root, entry: FileEntry) -> tuple[np.ndarray, pa.Array] | None:
    """pin_id int64 [N] and the strings that they stand for [N], of what `write_vector_table` wrote; None without."""
    with root.open_input(entry.path) as source:
        table = pa.ipc.open_file(source).read_all()
    if NAME not in table.schema.names:
        return None
    return table["pin_id"].to_numpy(), pa.concat_arrays([pa.array([], pa.string()), *table[NAME].chunks])


def _columns(source: pa.NativeFile, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    table = pa.ipc.open_file(source).read_all()
    if not table.num_rows:
        return np.empty(0, np.int64), np.empty((0, WIDTH), dtype)
    return table["pin_id"].chunk(0).to_numpy(), from_binary_column(table["vector"], np.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class VectorTable:
    """Every pin vector of a run, mapped into memory: one sorted table a shard.

    Attributes:
        ids: A shard's pin_id int64 [P_s], sorted, unique.
        vectors: A shard's vector [P_s, 256].
    """

    ids: tuple[np.ndarray, ...]
    vectors: tuple[np.ndarray, ...]

    @classmethod
    def open(cls, root: Root, entries: list[FileEntry], dtype: str) -> "VectorTable":
        """Maps the shards; `entries` holds one a shard, in any order."""
        ordered = sorted(entries, key=lambda e: e.part)
        if [entry.part for entry in ordered] != list(range(len(ordered))):
            raise ValueError(f"expected one file a shard, got parts {[entry.part for entry in ordered]}")
        mapped = [map_vector_table(root, entry, dtype) for entry in ordered]
        return cls(tuple(ids for ids, _ in mapped), tuple(vectors for _, vectors in mapped))

    def _locate(self, pin_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shard = bucket_of(pin_ids, len(self.ids))
        found = np.zeros(len(pin_ids), bool)
        row = np.zeros(len(pin_ids), np.int64)
        for s, ids in enumerate(self.ids):
            mine = np.flatnonzero(shard == s)
            at, hit = find_sorted(ids, pin_ids[mine])
            found[mine[hit]] = True
            row[mine[hit]] = at[hit]
        return found, shard, row

    def rows(self, pin_ids: np.ndarray) -> np.ndarray:
        """int64 [N]: where pins stand when the shards are laid one after the other; -1 where a pin has no vector."""
        found, shard, row = self._locate(pin_ids)
        first = np.cumsum([0, *(len(ids) for ids in self.ids)])
        return np.where(found, first[shard] + row, -1)

    def look_up(self, pin_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of pins, in the order asked.

        Args:
            pin_ids: int64 [N]; may repeat.

        Returns:
            found bool [N]; vector [found.sum(), 256], of those found.
        """
        found, shard, row = self._locate(pin_ids)
        out = np.empty((int(found.sum()), WIDTH), self.vectors[0].dtype)
        shard, row = shard[found], row[found]
        for s, vectors in enumerate(self.vectors):
            mine = np.flatnonzero(shard == s)
            out[mine] = vectors[row[mine]]
        return found, out
