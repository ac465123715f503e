"""Vector sets that this project makes, as `--pins` takes them, and content vectors of any width."""

import dataclasses
import hashlib
import io
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.column_names import OUR_NAMES, ColumnNames
from stores.errors import InputError
from stores.files import Root
from stores.footers import why_unreadable
from stores.id_columns import id_kind, read_pin_ids
from stores.partitions import DataFile, list_visible
from stores.pin_vectors import VectorFile, describe_vector_file, list_vector_files
from stores.string_ids import STRING
from stores.vector_columns import to_matrix
from stores.vector_version import VERSION_FILE, read_dtype

MADE_BY = "item-vectors"
METADATA = b"pinnerformer.item_vectors"  # of every Parquet file: `version.json` without its counts
PROJECTION = "_content_projection.npy"  # hidden: readers of vectors leave it alone
SAME_KIND = "write the ids of all files, and of the logs, as one kind"
_KINDS = {True: "ids are whole numbers", False: "ids are strings"}
ROWS_PER_FILE, ROWS_PER_GROUP = 1 << 18, 8192
_FILE_NAME = re.compile(r"vectors-\d{5}-[0-9a-f]{16}\.parquet")


@dataclasses.dataclass(frozen=True)
class PinRows:
    """Vectors of some pins.

    Attributes:
        pin: int64 [P], sorted, unique.
        vectors: float32 [P, D].
        topic: A topic of each pin, strings with nulls; None: nobody said.
        names: What each pin is called, where ids are strings [P]; None: they are numbers.
    """

    pin: np.ndarray
    vectors: np.ndarray
    topic: pa.Array | None = None
    names: pa.Array | None = None


def read_manifest(folder: str) -> dict[str, Any] | None:
    """What `version.json` of a vector set says; None where there is none, or where it is no JSON object."""
    try:
        found = json.loads(locations.read_bytes(locations.join(locations.absolute(folder), VERSION_FILE)))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_any_vectors(folder: str, flag: str, columns: ColumnNames = OUR_NAMES) -> PinRows:
    """Reads a whole vector set of whatever width, its column `topic` too where every file has one.

    Args:
        flag: That named the folder, for messages.
        columns: The vectors' own column names.

    Raises:
        InputError: no such folder or no file in it, a file without the two columns, of another width than the first, a
            pin twice, a null, NaN or infinity; names the file.
    """
    folder = locations.absolute(folder)
    listed = list_vector_files(folder)
    if not listed:
        raise InputError(f"{flag} {folder}: no *.parquet file in it")
    declared = declared_dtype(folder)
    ids: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    topics: list[pa.Array | None] = []
    names: list[pa.Array | None] = []
    for file in listed:
        pin, vector, topic, name = _read_file(file, columns, declared)
        if vectors and vector.shape[1] != vectors[0].shape[1]:
            raise InputError(
                f"{file.path}: vectors are {vector.shape[1]} wide, those of {listed[0].name} {vectors[0].shape[1]}; "
                "write all files of a set with one width"
            )
        ids.append(pin)
        vectors.append(vector)
        topics.append(topic)
        names.append(name)
        if (name is None) != (names[0] is None):
            raise InputError(f"{file.path}: {_KINDS[name is None]}, and of {listed[0].name} they are not; {SAME_KIND}")
    pin = np.concatenate(ids)
    order = np.argsort(pin, kind="stable")
    repeated = np.flatnonzero(np.diff(pin[order]) == 0)
    if len(repeated):
        at = int(order[repeated[0]])
        shown = pin[at] if names[0] is None else repr(pa.concat_arrays(names)[at].as_py())
        raise InputError(f"{flag} {folder}: pin_id {shown} is there twice; write it once")
    known = [topic for topic in topics if topic is not None]
    topic = pa.concat_arrays(known).take(pa.array(order)) if len(known) == len(topics) else None
    called = None if names[0] is None else pa.concat_arrays(names).take(pa.array(order))
    return PinRows(pin[order], np.concatenate(vectors)[order], topic, called)


def vector_width(folder: str, flag: str, columns: ColumnNames = OUR_NAMES) -> int:
    """How wide the vectors of a set are, by its first file.

    Raises:
        InputError: as `read_any_vectors`.
    """
    return _require_width(_first_file(folder, flag, columns))


def vector_pin_ids(folder: str, flag: str, columns: ColumnNames = OUR_NAMES) -> str:
    """What the ids of a set's pins are, "int64" or "string", by its first file.

    Raises:
        InputError: as `read_any_vectors`.
    """
    return _first_file(folder, flag, columns).pin_ids


def declared_dtype(folder: str) -> str | None:
    """As `read_dtype`, of a set that may go without `version.json`."""
    return read_dtype(folder) if read_manifest(folder) is not None else None


def _first_file(folder: str, flag: str, columns: ColumnNames) -> VectorFile:
    folder = locations.absolute(folder)
    listed = list_vector_files(folder)
    if not listed:
        raise InputError(f"{flag} {folder}: no *.parquet file in it")
    return describe_vector_file(listed[0], columns, declared_dtype(folder))


def _require_width(file: VectorFile) -> int:
    if not file.width:
        raise InputError(f"{file.path}: no vector in it, so that nothing says how wide they are; leave the file out")
    return file.width


def _read_file(
    listed: DataFile, columns: ColumnNames, declared: str | None
) -> tuple[np.ndarray, np.ndarray, pa.Array | None, pa.Array | None]:
    described = describe_vector_file(listed, columns, declared)
    path, found, width = listed.path, described.columns, _require_width(described)
    try:
        table = pq.read_table(locations.open_input(path))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({why_unreadable(path, error)}); write it again"
        ) from None

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(f"{path}: row {row}: {what}; correct or leave out the row")

    ids = _one_chunk(table[found.pin_id])
    vectors = to_matrix(_one_chunk(table[found.vector]), found, width, refuse).astype(np.float32)
    refuse(np.asarray(~np.isfinite(vectors).all(axis=1)), "vector has NaN or infinity in it")
    topic = _one_chunk(table["topic"].cast(pa.string())) if "topic" in table.schema.names else None
    names = ids.cast(pa.string()) if id_kind(ids.type) == STRING else None
    return read_pin_ids(ids, refuse), vectors, topic, names


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def write_vector_files(root: Root, rows: PinRows, facts: dict[str, Any]) -> list[str]:
    """Writes vectors as float16 Parquet files, in order of the pins, under names made of their content.

    They are no vector set before `write_manifest` has named the version; may be done twice.

    Args:
        facts: Go into the metadata of every file.

    Returns:
        Their names.
    """
    width, names = rows.vectors.shape[1], []
    for number, start in enumerate(range(0, len(rows.pin), ROWS_PER_FILE)):
        part = slice(start, start + ROWS_PER_FILE)
        flat = pa.array(rows.vectors[part].astype(np.float16).reshape(-1))
        ids = pa.array(rows.pin[part]) if rows.names is None else rows.names[part]
        columns = {"pin_id": ids, "vector": pa.FixedSizeListArray.from_arrays(flat, width)}
        if rows.topic is not None:
            columns["topic"] = rows.topic[part]
        table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(facts, sort_keys=True)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP)
        data = sink.getvalue().to_pybytes()
        names.append(f"vectors-{number:05d}-{hashlib.sha256(data).hexdigest()[:16]}.parquet")
        root.write_bytes(names[-1], data)
    return names


def write_projection(root: Root, projection: np.ndarray) -> None:
    """Writes the map from content vectors to their part: float32 [D, width]."""
    buffer = io.BytesIO()
    np.save(buffer, projection, allow_pickle=False)
    root.write_bytes(PROJECTION, buffer.getvalue())


def read_projection(folder: str) -> np.ndarray | None:
    """What `write_projection` wrote; None if there is none.

    Raises:
        InputError: it is damaged.
    """
    path = locations.join(locations.absolute(folder), PROJECTION)
    try:
        return np.load(io.BytesIO(locations.read_bytes(path)), allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: unreadable ({error}); it belongs to the vector set, make the set again") from None


def write_manifest(root: Root, manifest: dict[str, Any]) -> None:
    """Writes `version.json`, which makes a vector set of the files."""
    root.write_json(VERSION_FILE, manifest)


def foreign_entry(folder: str) -> str | None:
    """A name in a folder that no run of ours writes there; None if there is none: then leftovers may be removed."""
    try:
        entries = list_visible(locations.absolute(folder))
    except FileNotFoundError:
        return None
    for entry in entries:
        if entry.name not in (VERSION_FILE, "staging") and not _FILE_NAME.fullmatch(entry.name):
            return entry.name
    return None


def remove_unnamed(root: Root) -> None:
    """Removes what a run that ended early left: vector files that `version.json` does not name."""
    manifest = read_manifest(root.url)
    named = (manifest or {}).get("files", [])
    for name in root.list(""):
        if _FILE_NAME.fullmatch(name) and name not in named:
            root.remove(name)
    if manifest is None:
        root.remove(PROJECTION)
