"""Log rows cut by bucket and staged: one file a read unit, in which every bucket finds its own rows."""

import numpy as np
import pyarrow as pa

from stores.files import FileEntry, Root

SCHEMA = pa.schema([("bucket", pa.int32()), ("rows", pa.large_binary())])


def write_pieces(root: Root, folder: str, stem: str, pieces: list[tuple[int, bytes]], rows: int) -> FileEntry:
    """Writes (bucket, Arrow IPC bytes) pieces as one uncompressed Arrow IPC file, `folder/stem-<digest>.arrow`.

    Args:
        pieces: Of any buckets, several of one bucket too; kept sorted by bucket, in their order within one.
        rows: How many log rows they hold.
    """
    # By bucket: then a bucket's pieces are one range, found by binary search and read without the others.
    ordered = sorted(pieces, key=lambda piece: piece[0])
    buckets = pa.array([bucket for bucket, _ in ordered], pa.int32())
    batch = pa.record_batch([buckets, pa.array([chunk for _, chunk in ordered], pa.large_binary())], schema=SCHEMA)

    def write(path: str) -> None:
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_batch(batch)

    return root.write_named_by_content(folder, stem, ".arrow", 0, rows, write)


def _open(root: Root, entry: FileEntry) -> pa.RecordBatch:
    with pa.memory_map(root.local_copy(entry)) as source:
        return pa.ipc.open_file(source).get_batch(0)


def list_buckets(root: Root, entry: FileEntry) -> np.ndarray:
    """Sorted int32 buckets that have rows in a file."""
    return np.unique(_open(root, entry)["bucket"].to_numpy())


def read_pieces(root: Root, entry: FileEntry, bucket: int) -> list[pa.Buffer]:
    """One bucket's pieces; mapped, so that the others' are not read."""
    batch = _open(root, entry)
    begin, end = np.searchsorted(batch["bucket"].to_numpy(), [bucket, bucket + 1])
    return [batch["rows"][int(at)].as_buffer() for at in range(begin, end)]
