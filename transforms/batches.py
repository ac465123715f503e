"""Arrow record batches as Beam elements: cut by owner, and packed for the shuffle."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from stores.ids import bucket_of
from stores.log_text import used_text

# No shuffled value is larger than this; past about 1 MB engines spill, copy and stall on single records.
MAX_SHUFFLED_BYTES = 1 << 20

# Every piece of a batch carries the dictionaries of its text columns whole. From this size on they leave too little
# room for rows, and each piece gets one of the words that it uses.
_MAX_DICTIONARY_BYTES = MAX_SHUFFLED_BYTES * 3 // 4


def split_by_bucket(batch: pa.RecordBatch, buckets: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields (bucket, its rows) for every bucket that has rows; the order of rows within a bucket is kept.

    Args:
        batch: Rows with a `user_id` int64 column without nulls.
        buckets: Number of buckets, > 0.
    """
    bucket = bucket_of(batch["user_id"].to_numpy(), buckets).astype(np.uint16 if buckets <= 1 << 16 else np.int32)
    order = np.argsort(bucket, kind="stable")  # a radix sort for 16 bits
    # One sort and one `take`, then slices without a copy; a filter per bucket would read the batch once for each.
    edges = np.searchsorted(bucket[order], np.arange(buckets + 1))  # [buckets + 1]
    rows = batch.take(pa.array(order))
    for b in np.flatnonzero(np.diff(edges)):
        yield int(b), rows.slice(edges[b], edges[b + 1] - edges[b])


def to_ipc(batch: pa.RecordBatch) -> Iterator[bytes]:
    """Packs a batch as Arrow IPC streams of at most `MAX_SHUFFLED_BYTES`, halving it until they fit.

    Raises:
        ValueError: a single row is larger than that; `transforms.read_logs` lets none in.
    """
    dictionaries = [column for column in batch.columns if pa.types.is_dictionary(column.type)]
    if sum(column.dictionary.nbytes for column in dictionaries) > _MAX_DICTIONARY_BYTES:
        columns = [used_text(c) if pa.types.is_dictionary(c.type) else c for c in batch.columns]
        batch = pa.record_batch(columns, schema=batch.schema)
    # Packed first and measured then: how large a batch becomes as IPC, padding and dictionaries included, is known only
    # afterwards, and a value over the limit is what engines stall on.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    packed = sink.getvalue()
    if packed.size <= MAX_SHUFFLED_BYTES:
        yield packed.to_pybytes()
        return
    if batch.num_rows <= 1:
        raise ValueError(f"one row of {packed.size} bytes cannot be shuffled; the limit is {MAX_SHUFFLED_BYTES}")
    half = batch.num_rows // 2
    yield from to_ipc(batch.slice(0, half))
    yield from to_ipc(batch.slice(half))


def from_ipc(chunks: Iterable[bytes]) -> list[pa.RecordBatch]:
    """Unpacks what `to_ipc` packed; the order of chunks is the shuffle's, so callers sort.

    An empty chunk stands for no rows: it makes a group of a bucket that has none. They are dropped here, and not by a
    step of their own that hands on a generator: Beam samples elements for their size, and the sampling eats it.
    """
    return [batch for chunk in chunks if chunk for batch in pa.ipc.open_stream(chunk)]
