"""PinSage vectors: the input files, and the sorted tables that workers map into memory."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.column_names import OUR_NAMES, ColumnNames
from stores.errors import InputError
from stores.files import FileEntry, Root
from stores.footers import check_footer, find_unreadable, rows_before, why_unreadable
from stores.id_columns import id_kind, read_pin_ids, shown_id
from stores.ids import bucket_of, find_sorted
from stores.partitions import LEAVE_ALONE, DataFile, list_visible
from stores.schemas import from_binary_column, to_binary_column
from stores.string_ids import INT64
from stores.tables import footer_digest
from stores.vector_columns import (
    VectorColumns,
    check_directions,
    find_vector_columns,
    peek_width,
    to_matrix,
)
from stores.vector_version import VERSION_FILE, read_dtype, read_version

NAME = "name"  # the column of a vector table that has the strings, where ids are strings
PEEKED_BYTES = 1 << 16  # and no whole row group, where only its first vectors are looked at
READ_BYTES = 8 << 20  # of a column at a time then
NUMBERS_AT_ONCE = 1 << 20  # of a row group whose vectors are not stored as they are used: 8 MiB of doubles


@dataclasses.dataclass(frozen=True)
class VectorFile:
    """One Parquet file of PinSage vectors.

    Attributes:
        dtype: float16 or float32, of the vectors in memory.
        version: Changes when the file is written again: from its footer and its modification time.
        width: Numbers of a vector.
        columns: Where they stand in the file.
        pin_ids: What its ids are, "int64" or "string".
        stamp: As `Listed` has it.
    """

    path: str
    rows: int
    row_groups: int
    dtype: str
    version: str
    width: int
    columns: VectorColumns = VectorColumns()
    pin_ids: str = INT64
    stamp: str = ""


@dataclasses.dataclass(frozen=True)
class VectorSet:
    """The PinSage vectors a run is given: one version, dtype, width and kind of ids, any number of files."""

    version: str
    dtype: str
    files: tuple[VectorFile, ...]
    width: int

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
        return self.rows * self.width * np.dtype(self.dtype).itemsize


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
            found.append(DataFile(path, entry.name, entry.bytes, entry.modified_ns, entry.stamp))
    return found


def describe_vectors(
    folder: str, expected_version: str, width: int | None = None, columns: ColumnNames = OUR_NAMES
) -> VectorSet:
    """Opens every file of a vector set and checks its schema; reads no vector but, of lists, the first of a file.

    Args:
        width: Of the model's vectors; None: the first file's.
        columns: The vectors' own column names.

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
    declared = read_dtype(folder)
    found = [describe_vector_file(file, columns, declared) for file in listed]
    dtypes = sorted({file.dtype for file in found})
    if len(dtypes) > 1:
        raise InputError(f"--pins {folder}: files of {' and '.join(dtypes)} mixed; write them all as one of the two")
    for file in found:
        if file.pin_ids != found[0].pin_ids:
            raise InputError(
                f"{file.path}: column {file.columns.pin_id!r} is of {file.pin_ids}, in {found[0].path} of "
                f"{found[0].pin_ids}; write all files of a set with one kind of ids"
            )
    decided = _check_width(found, width)
    files = tuple(dataclasses.replace(file, width=decided) for file in found)
    return VectorSet(version=version, dtype=dtypes[0], files=files, width=decided)


def _check_width(files: list[VectorFile], width: int | None) -> int:
    """The width of all files, which is the model's where there is one; files that do not say theirs have 0."""
    first = next((file for file in files if file.width), None)
    for file in files:
        if file.width and width is not None and file.width != width:
            raise InputError(
                f"{file.path}: column {file.columns.vector!r} is {file.width} wide, the model's pin_vector_dim is "
                f"{width}; give --pins of that width, or a --model made for these with `init-model` or `train`"
            )
        if first is not None and file.width not in (0, first.width):
            raise InputError(
                f"{file.path}: column {file.columns.vector!r} is {file.width} wide, that of {first.path} "
                f"{first.width}; write all files of a set with one width"
            )
    decided = width or (first.width if first else 0)
    if not decided:
        others = f", nor in the {len(files) - 1} others" if len(files) > 1 else ""
        raise InputError(f"{files[0].path}: no vector in it{others}: nothing says how wide they are; give some")
    return decided


def open_vector_file(path: str, width: int = 1, *, buffer_bytes: int = 0) -> pq.ParquetFile:
    """Opens a file of vectors; checksums of pages are compared.

    Args:
        width: Of the vectors, where they are read.
        buffer_bytes: Read a column by so much at a time; 0: whole.

    Raises:
        ArrowException, OSError, ValueError: not Parquet, or a footer of impossible counts.
    """
    file = pq.ParquetFile(locations.open_input(path), page_checksum_verification=True, buffer_size=buffer_bytes)
    check_footer(file.metadata, width)
    return file


def describe_vector_file(listed: DataFile, columns: ColumnNames, declared: str | None) -> VectorFile:
    """Opens a file of vectors and checks its schema.

    Args:
        declared: Of what numbers `version.json` says that bytes are; None: it does not.

    Returns:
        With a width of 0 where it has no vector that says it.

    Raises:
        InputError: no readable Parquet file, or a column is missing, there twice or of a type that cannot be read.
    """
    path = listed.path
    try:
        file = open_vector_file(path)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        found = find_vector_columns(schema, columns, declared)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    width = found.width
    if width is None:
        try:
            with open_vector_file(path, buffer_bytes=PEEKED_BYTES) as some:
                width = peek_width(some, found)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: column {found.vector!r} cannot be read ({reason}); write it again") from None
    try:
        check_footer(file.metadata, width or 1)
    except ValueError as error:
        raise _unreadable(path, error) from None
    file_version = f"{footer_digest(file.metadata)[:16]}-{listed.modified_ns}"
    rows, groups = file.metadata.num_rows, file.metadata.num_row_groups
    pin_ids = id_kind(schema.field(found.pin_id).type) or INT64
    return VectorFile(path, rows, groups, found.dtype, file_version, width or 0, found, pin_ids, listed.stamp)


def _unreadable(path: str, error: Exception) -> InputError:
    return InputError(
        f"{path}: not a readable Parquet file ({why_unreadable(path, error)}); write it again or remove it, or "
        f"{LEAVE_ALONE}"
    )


def read_vectors(file: VectorFile, row_group: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads one row group and checks every row of it.

    Returns:
        pin_id int64 [N], as stored, or what stands for strings; vector [N, width] of the file's dtype.

    Raises:
        InputError: a null or negative id, or one past 2**63; a null vector, one of another length than the others, NaN
            or infinity, or a vector so short or so long that float32 cannot give it a direction; names the row. All
            zeros is a vector like any other here.
    """
    ids, vectors, done = np.empty(0, np.int64), np.empty((0, file.width), file.dtype), 0
    for first, rows, their_ids, column in _read_pieces(file, row_group):
        some_ids, some_vectors = _check_rows(file, first, their_ids, column)
        if len(some_ids) == rows and some_vectors.dtype == file.dtype:
            return some_ids, some_vectors  # as they lie in the file, not copied
        if not done:
            ids, vectors = np.empty(rows, np.int64), np.empty((rows, file.width), file.dtype)
        piece = slice(done, done + len(some_ids))
        ids[piece], vectors[piece] = some_ids, some_vectors
        done = piece.stop
    return ids, vectors


def _read_pieces(file: VectorFile, row_group: int) -> Iterator[tuple[int, int, pa.Array, pa.Array]]:
    """Yields (row in the file, rows of the row group, ids, vectors as they are stored).

    In one piece, if the vectors are stored as they are used; else in small ones: as lists or doubles, those of a row
    group take up to three times their memory.

    Raises:
        InputError: pages that cannot be read.
    """
    names = [file.columns.pin_id, file.columns.vector]
    as_used = file.columns.form == "fixed" and file.columns.stored == file.dtype
    try:
        with open_vector_file(file.path, file.width, buffer_bytes=0 if as_used else READ_BYTES) as source:
            first, rows = rows_before(source.metadata, row_group), source.metadata.row_group(row_group).num_rows
            if as_used:
                table = source.read_row_group(row_group, columns=names, use_threads=False)
                pieces = iter(table.combine_chunks().to_batches())
            else:
                at_once = max(1, NUMBERS_AT_ONCE // file.width)
                pieces = source.iter_batches(at_once, row_groups=[row_group], columns=names, use_threads=False)
            for batch in pieces:
                yield first, rows, batch[names[0]], batch[names[1]]
                first += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        why = find_unreadable(lambda: open_vector_file(file.path, file.width), row_group, names, error)
        raise InputError(f"{file.path}: row group {row_group} unreadable ({why}); write it again") from None


def _check_rows(file: VectorFile, first: int, ids: pa.Array, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Some rows of a file, each found fit: pin_id int64 [N]; vector [N, width] of the dtype that is stored.

    Args:
        first: The number of the first of them in the file.
    """

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            named = f" (pin_id {shown_id(ids[row])})" if ids[row].is_valid else ""
            raise InputError(f"{file.path}: row {first + row}{named}: {what}; correct or leave out the row")

    pin_ids = read_pin_ids(ids, refuse)
    vectors = to_matrix(column, file.columns, file.width, refuse)
    check_directions(vectors, refuse)
    return pin_ids, vectors


def read_pin_names(file: VectorFile, row_group: int) -> pa.Array:
    """The strings that are the ids of a row group, [N]; of rows that `read_vectors` has found fit.

    Raises:
        InputError: the column cannot be read.
    """
    name = file.columns.pin_id
    try:
        with open_vector_file(file.path) as source:
            rows = source.read_row_group(row_group, columns=[name], use_threads=False)
            return pa.concat_arrays([pa.array([], pa.string()), *rows[name].cast(pa.string()).chunks])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file.path}: row group {row_group} unreadable ({error}); write it again") from None


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
    """Maps what `write_vector_table` wrote: pin_id int64 [N], vector [N, width]; pages are shared between processes."""
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
        width = table.schema.field("vector").type.byte_width // np.dtype(dtype).itemsize
        return np.empty(0, np.int64), np.empty((0, width), dtype)
    return table["pin_id"].chunk(0).to_numpy(), from_binary_column(table["vector"], np.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class VectorTable:
    """Every pin vector of a run, mapped into memory: one sorted table a shard.

    Attributes:
        ids: A shard's pin_id int64 [P_s], sorted, unique.
        vectors: A shard's vector [P_s, width].
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
            found bool [N]; vector [found.sum(), width], of those found.
        """
        found, shard, row = self._locate(pin_ids)
        out = np.empty((int(found.sum()), self.vectors[0].shape[1]), self.vectors[0].dtype)
        shard, row = shard[found], row[found]
        for s, vectors in enumerate(self.vectors):
            mine = np.flatnonzero(shard == s)
            out[mine] = vectors[row[mine]]
        return found, out
