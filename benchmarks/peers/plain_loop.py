"""The night as a loop over files, without any framework: pyarrow, torch and `multiprocessing`.

    python -m benchmarks.peers.plain_loop --inputs FILE --out DIR [--workers 2]

What somebody would write by hand who knows that histories lie in buckets. The model and the vectors are loaded once and
forked; every process takes every n-th bucket: reads its histories, adds tonight's rows of users who act, embeds them,
and writes the bucket's snapshot with their vectors in the place of yesterday's.

It writes no new histories, checks nothing, embeds no pins, builds no index, fills no store, and a kill loses all of it.
"""

import argparse
import multiprocessing
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.tower import Embedder, NightInputs, VectorTable, days_since_epoch
from stores.ids import bucket_of

COLUMNS = ("pin_id", "timestamp_ms", "action", "surface", "duration_s")


def as_strings(rows: pa.Table) -> pa.Table:
    """The rows with words as strings: files have dictionaries of their own."""
    for name in ("action", "surface"):
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(pa.string()))
    return rows


def embed_users(rows: pa.Table, embedder: Embedder, vectors: VectorTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of users, in any order -> (user ids int64 [N], embeddings float16 [N, d], last_action_ms int64 [N])."""
    users, owner = np.unique(rows["user_id"].to_numpy(), return_inverse=True)
    at = rows["timestamp_ms"].to_numpy()
    embeddings = embedder.embed(
        owner,
        vectors.take(rows["pin_id"].to_numpy()),
        at,
        rows["action"].combine_chunks(),
        rows["surface"].combine_chunks(),
        rows["duration_s"].to_numpy(),
    )
    latest = np.full(len(users), np.iinfo(np.int64).min)
    np.maximum.at(latest, owner, at)
    return users, embeddings, latest


def snapshot_rows(
    users: np.ndarray, embeddings: np.ndarray, latest: np.ndarray, day: str, schema: pa.Schema
) -> pa.Table:
    """New rows of the snapshot, in the schema of yesterday's."""
    flat = pa.py_buffer(np.ascontiguousarray(embeddings))
    columns = [
        pa.array(users),
        pa.FixedSizeBinaryArray.from_buffers(schema.field("embedding").type, len(users), [None, flat]),
        pa.array(np.full(len(users), days_since_epoch(day), np.int32)).cast(pa.date32()),
        pa.array(latest),
        pa.array(np.zeros(len(users), bool)),
    ]
    return pa.table(columns, schema=schema)


def do_bucket(inputs: NightInputs, bucket: int, log: pa.Table, embedder: Embedder, vectors: VectorTable, out: str):
    """Writes the snapshot of a bucket.

    Args:
        log: Tonight's rows of its users.
    """
    active = np.unique(log["user_id"].to_numpy())
    history = pq.read_table(inputs.histories[bucket])
    kept = history.filter(np.isin(history["user_id"].to_numpy(), active))
    rows = pa.concat_tables([as_strings(kept), as_strings(log)])
    before = pq.read_table(inputs.snapshot[bucket])
    carried = before.filter(~np.isin(before["user_id"].to_numpy(), active))
    new = snapshot_rows(*embed_users(rows, embedder, vectors), inputs.day, before.schema) if len(active) else None
    after = pa.concat_tables([carried, new]) if new is not None else carried
    pq.write_table(after.sort_by("user_id"), f"{out}/{bucket:05d}.parquet")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    inputs = NightInputs.read(arguments.inputs)
    os.makedirs(arguments.out)
    embedder, vectors = Embedder(inputs.model), VectorTable(inputs.vectors)
    log = pq.read_table(inputs.logs, columns=["user_id", *COLUMNS])
    bucket = bucket_of(log["user_id"].to_numpy(), len(inputs.histories))

    def work(first: int) -> None:
        for number in range(first, len(inputs.histories), arguments.workers):
            do_bucket(inputs, number, log.filter(bucket == number), embedder, vectors, arguments.out)

    workers = [multiprocessing.get_context("fork").Process(target=work, args=(n,)) for n in range(arguments.workers)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    return max(abs(process.exitcode) for process in workers)


if __name__ == "__main__":
    sys.exit(main())
