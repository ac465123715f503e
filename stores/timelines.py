"""Training data on disk: timelines, one row a user, and the matrix of the vectors of their pins.

```
OUT/timelines.json          what this is; written last: without it there are no timelines
OUT/train/*.parquet         one row a user, its events as lists, oldest first
OUT/evaluation/*.parquet    the users that training does not see
OUT/pins/pin_ids.npy        int64 [P]
OUT/pins/vectors.npy        float16 or float32 [P, width], mapped into memory; an event's `pin_row` counts its rows
```
"""

import hashlib
import os
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stores.errors import InputError
from stores.files import FileEntry, Root, explain_os_errors, replace_atomically
from stores.upgrades import FILE_ENTRY, TIMELINES, read_json_record, read_record

DESCRIPTION, PIN_IDS, VECTORS = "timelines.json", "pins/pin_ids.npy", "pins/vectors.npy"
SPLITS = ("train", "evaluation")
_OURS = re.compile(r"part-\d{5,}-[0-9a-f]{16}\.parquet$|\.tmp-")  # of a split, by Root.write_named_by_content
EVENT_TYPES = {
    "pin_row": pa.int32(),
    "action": pa.int32(),
    "surface": pa.int32(),
    "timestamp_ms": pa.int64(),
    "duration_s": pa.float32(),
    "positive": pa.bool_(),
}
SCHEMA = pa.schema(
    [("user_id", pa.int64()), *((n, pa.list_(pa.field("item", t, nullable=False))) for n, t in EVENT_TYPES.items())]
)


def write_timelines(root: Root, split: str, part: int, user_ids: np.ndarray, offsets: np.ndarray, events: dict) -> Any:
    """Writes one file of timelines; returns its entry.

    Args:
        split: One of `SPLITS`.
        user_ids: int64 [N], sorted.
        offsets: int64 [N + 1] into the events.
        events: Column -> [E], as `EVENT_TYPES`; NaN durations are kept as NaN.
    """
    edges = pa.array(offsets.astype(np.int32))
    columns = [
        pa.ListArray.from_arrays(edges, pa.array(events[name], kind), type=SCHEMA.field(name).type)
        for name, kind in EVENT_TYPES.items()
    ]
    rows = pa.table([pa.array(user_ids, pa.int64()), *columns], schema=SCHEMA)

    def write(path: str) -> None:
        pq.write_table(rows, path, compression="none", use_dictionary=False, row_group_size=1 << 14)

    return root.write_named_by_content(split, f"part-{part:05d}", ".parquet", part, rows.num_rows, write)


def read_timelines(folder: str, files: list[FileEntry]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Reads files of timelines, users sorted by id.

    Returns:
        user_ids int64 [N]; offsets int64 [N + 1]; column -> [E].

    Raises:
        InputError: a file is missing or damaged.
    """
    root = Root(folder)
    tables = [SCHEMA.empty_table()]
    for entry in files:
        path = root.path(entry.path)
        try:
            tables.append(pq.read_table(path, schema=SCHEMA, partitioning=None))
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path}: unreadable ({str(error).splitlines()[0]}); make the timelines again with "
                "`pinnerformer training-data`"
            ) from None
        if tables[-1].num_rows != entry.rows:
            raise InputError(
                f"{path}: has {tables[-1].num_rows} users, {DESCRIPTION} says {entry.rows}; make the timelines again"
            )
    rows = pa.concat_tables(tables)
    # Files are by bucket, so that ids are mixed over them; sorted, the order says nothing of how many buckets there
    # were.
    rows = rows.take(pa.array(np.argsort(rows["user_id"].to_numpy(), kind="stable")))
    lengths = rows["pin_row"].combine_chunks()
    offsets = np.zeros(rows.num_rows + 1, np.int64)
    if rows.num_rows:
        offsets[1:] = np.cumsum(np.asarray(pc.list_value_length(lengths)))
    events = {}
    for name, kind in EVENT_TYPES.items():
        flat = pa.chunked_array([chunk.flatten() for chunk in rows[name].chunks], kind)
        events[name] = np.ascontiguousarray(flat.to_numpy())
    return rows["user_id"].to_numpy(), offsets, events


def write_vector_matrix(root: Root, shards: list[tuple[np.ndarray, np.ndarray]], dtype: str) -> None:
    """Writes the shards' ids and vectors, one shard after the other, as two `.npy` files; one shard in memory.

    Args:
        shards: At least one, which may be empty.
    """
    pins = sum(len(ids) for ids, _ in shards)
    with replace_atomically(root.path(PIN_IDS)) as path, open(path, "wb") as file:
        np.save(file, np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in shards)]))
    with replace_atomically(root.path(VECTORS)) as path, open(path, "wb") as file:
        # The header by hand, then shard after shard: `np.save` would want the whole matrix in memory.
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (pins, shards[0][1].shape[1]),
        }
        np.lib.format.write_array_header_2_0(file, header)
        for _, vectors in shards:
            file.write(np.ascontiguousarray(vectors, dtype).data)


def unnamed_files(root: Root) -> list[str]:
    """Paths of what `training-data` wrote and `timelines.json` does not name: everything, where there is none."""
    named: set[str] = set()
    finished = root.exists(DESCRIPTION)
    if finished:
        description, _ = read_description(root.url)
        named = {entry.path for split in description["files"] for entry in entries_of(description, split)}
    written = [f"{split}/{name}" for split in SPLITS for name in root.list(split, temporary=True) if _OURS.match(name)]
    matrix = [] if finished else [path for path in (PIN_IDS, VECTORS) if root.exists(path)]
    folder = os.path.dirname(PIN_IDS)
    temporary = [f"{folder}/{name}" for name in root.list(folder, temporary=True) if name.startswith(".tmp-")]
    return [path for path in written if path not in named] + matrix + temporary


def read_vector_matrix(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """pin_ids int64 [P]; vectors [P, width], mapped: pages come in as they are used.

    Raises:
        InputError: missing or damaged.
    """
    found = []
    for name in (PIN_IDS, VECTORS):
        path = os.path.join(folder, name)
        try:
            found.append(np.load(path, mmap_mode="r"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: unreadable ({error}); make the timelines again") from None
    ids, vectors = found
    if len(ids) != len(vectors):
        raise InputError(f"{os.path.join(folder, VECTORS)}: {len(vectors)} rows for {len(ids)} pins; make them again")
    return np.asarray(ids), vectors


def read_description(folder: str) -> tuple[dict[str, Any], str]:
    """`timelines.json` and the hex sha256 of it, which names the timelines: it holds the checksum of every file.

    Raises:
        InputError: there are no timelines here. StoreError: they are damaged, or of a format that is not read here.
    """
    path = os.path.join(folder, DESCRIPTION)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; make timelines with `pinnerformer training-data --out {folder}`"
        ) from None
    with explain_os_errors(path):
        description = read_json_record(Root(folder), DESCRIPTION, TIMELINES)
    return description, hashlib.sha256(data).hexdigest()


def entries_of(description: dict[str, Any], split: str) -> list[FileEntry]:
    """The files of a split.

    Raises:
        InputError: no such split.
    """
    if split not in description["files"]:
        raise InputError(f"no split {split!r} in the timelines; there are {', '.join(description['files'])}")
    try:
        return [read_record(FILE_ENTRY, FileEntry, entry, split) for entry in description["files"][split]]
    except (TypeError, ValueError) as error:
        raise InputError(f"{DESCRIPTION}: files of {split} are not understood ({error}); make them again") from None
