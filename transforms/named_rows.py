"""Log rows on their way to a bucket with the strings that their users are, and the strings of pins to a shard.

Where ids are numbers, a value is the Arrow IPC stream of the rows and nothing else. Where they are strings, its schema
says which batch of which file the rows are from, and of users a second stream follows: the distinct (id, string) pairs
of these rows. Within a batch an id has one string (`split_collided`), so that batch and id name it.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from stores.id_columns import distinct_names, find_collisions
from stores.ids import bucket_of
from stores.schemas import ENGAGEMENTS, NAME_COLUMNS, names_schema
from transforms.batches import MAX_SHUFFLED_BYTES, split_by_bucket, to_ipc

PIN_NAMES = "pin_names"  # an output of `ReadLogs`; of a backfill a folder of its run, too
SOURCE = b"source"


def source_name(file: str, row_group: int, first: int) -> str:
    """Names a batch of a log file, such that names stand in the order in which a run takes them."""
    return f"{file}\t{row_group:05d}\t{first:012d}"


def file_of(source: str) -> str:
    """The log file that a batch is from, as a manifest names it."""
    return source.split("\t")[0]


def with_source(batch: pa.RecordBatch, source: str) -> pa.RecordBatch:
    """Notes of rows with names which batch they are; others are given back as they are."""
    if len(batch.schema) == len(ENGAGEMENTS):
        return batch
    return batch.replace_schema_metadata({SOURCE: source.encode()})


def split_collided(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yields a batch as it is; where two strings of it have one id, those that come second as batches of their own.

    Who keeps the id is known only where names are merged: the one that comes second here may be the one that is known.
    """
    codes = []
    for key, name in NAME_COLUMNS.items():
        if name in batch.schema.names:
            second = find_collisions(batch[key].to_numpy(), batch[name])
            codes.append(np.where(second, batch[name].indices.to_numpy(), -1))
    if not codes or all((code < 0).all() for code in codes):
        yield batch
        return
    first, source = np.logical_and.reduce([code < 0 for code in codes]), batch.schema.metadata[SOURCE].decode()
    yield batch.filter(pa.array(first))
    rows = np.flatnonzero(~first)
    _, begins, group = np.unique(np.stack(codes)[:, rows], axis=1, return_index=True, return_inverse=True)
    for number, one in enumerate(np.argsort(begins)):  # in the order of their first rows
        part = batch.take(pa.array(rows[group.ravel() == one]))
        yield part.replace_schema_metadata({SOURCE: f"{source}\t{number:06d}".encode()})


@dataclasses.dataclass(frozen=True)
class Names:
    """Distinct (id, string) pairs: int64 [U], strings [U]; an id may be there with two strings."""

    ids: np.ndarray
    strings: pa.Array

    def take(self, rows: np.ndarray) -> "Names":
        """The pairs at `rows`: positions int64 [K]."""
        return Names(self.ids[rows], self.strings.take(pa.array(rows)))


def names_in(batch: pa.RecordBatch, key: str) -> Names | None:
    """The names that the rows of a batch have; None where their ids are numbers.

    Args:
        key: "user_id" or "pin_id".
    """
    column = NAME_COLUMNS[key]
    if column not in batch.schema.names:
        return None
    return Names(*distinct_names(batch[key].to_numpy(), batch[column]))


def split_names(names: Names, parts: int) -> Iterator[tuple[int, Names]]:
    """Yields (bucket or shard, its names) for every one that has some."""
    owner = bucket_of(names.ids, parts)
    order = np.argsort(owner.astype(np.uint16) if parts <= 1 << 16 else owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(parts + 1))
    ordered = names.take(order)
    for part in np.flatnonzero(np.diff(edges)):
        begin, count = edges[part], edges[part + 1] - edges[part]
        yield int(part), Names(ordered.ids[begin : begin + count], ordered.strings.slice(begin, count))


def pack_rows(batch: pa.RecordBatch, buckets: int) -> Iterator[tuple[int, bytes]]:
    """Yields (bucket, bytes of at most 1 MB) for the rows of a batch, with the names of their users.

    Args:
        batch: As `read_logs.read_valid` gives it.
    """
    users = names_in(batch, "user_id")
    rows = batch if len(batch.schema) == len(ENGAGEMENTS) else batch.select(ENGAGEMENTS.names)
    names = dict(split_names(users, buckets)) if users else {}
    for bucket, piece in split_by_bucket(rows, buckets):
        packed = _pack_named(piece, names[bucket]) if users else to_ipc(piece)
        for chunk in packed:
            yield bucket, chunk


def _pack_named(rows: pa.RecordBatch, names: Names) -> Iterator[bytes]:
    """As `batches.to_ipc`, each part with the names of its own users."""
    pairs = pa.record_batch([pa.array(names.ids), names.strings], schema=names_schema("user_id"))
    packed, strings = list(to_ipc(rows)), list(to_ipc(pairs))
    fits = len(packed) == len(strings) == 1 and len(packed[0]) + len(strings[0]) <= MAX_SHUFFLED_BYTES
    if fits or rows.num_rows <= 1:  # a single row has half of that for its text, and its ids little
        yield packed[0] + strings[0]
        return
    half = rows.num_rows // 2
    for part in (rows.slice(0, half), rows.slice(half)):
        yield from _pack_named(part, names.take(np.flatnonzero(np.isin(names.ids, part["user_id"].to_numpy()))))


def pack_pin_names(batch: pa.RecordBatch, shards: int) -> Iterator[tuple[int, bytes]]:
    """Yields (shard, Arrow IPC bytes) of the names of a batch's pins; none where nobody asks, or pins are numbers."""
    pins = names_in(batch, "pin_id") if shards else None
    if pins is None:
        return
    schema = names_schema("pin_id").with_metadata({SOURCE: batch.schema.metadata[SOURCE]})
    for shard, names in split_names(pins, shards):
        for chunk in to_ipc(pa.record_batch([pa.array(names.ids), names.strings], schema=schema)):
            yield shard, chunk


@dataclasses.dataclass(frozen=True)
class NamedRows:
    """Rows of one batch of a log file that came to a bucket.

    Attributes:
        rows: Of schema `ENGAGEMENTS`.
        source: The batch, as `source_name` names it.
        users: The names of their users; None where users are numbers.
    """

    rows: pa.RecordBatch
    source: str
    users: Names | None


def unpack_rows(chunks: Iterable[bytes]) -> list[NamedRows]:
    """What `pack_rows` packed where users or pins are strings, in the order of the sources."""
    found = []
    for chunk in (chunk for chunk in chunks if chunk):
        source = pa.BufferReader(chunk)
        for batch in list(pa.ipc.open_stream(source)):  # to the end of the stream: there the other one begins
            name = batch.schema.metadata[SOURCE].decode()
            users = _read_names(source) if source.tell() < source.size() else None
            found.append(NamedRows(batch.replace_schema_metadata(None), name, users))
    return sorted(found, key=lambda part: part.source)


def _read_names(source: pa.NativeFile) -> Names:
    batch = pa.ipc.open_stream(source).read_next_batch()
    return Names(batch.column(0).to_numpy(), batch.column(1))


def unpack_names(chunks: Iterable[bytes]) -> list[tuple[str, Names]]:
    """(source, names) of what `pack_pin_names` packed, in the order of the sources."""
    found = []
    for chunk in (chunk for chunk in chunks if chunk):
        for batch in pa.ipc.open_stream(chunk):
            name = batch.schema.metadata[SOURCE].decode()
            found.append((name, Names(batch.column(0).to_numpy(), batch.column(1))))
    return sorted(found, key=lambda part: part[0])
