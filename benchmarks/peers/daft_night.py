"""The night with Daft, on its local runner, written as its documentation recommends.

    .cache/peers/daft/bin/python -m benchmarks.peers.daft_night --inputs FILE --out DIR [--workers 2]

One lazy query: read the day's log and yesterday's histories, keep the histories of users who act (a semi join), put the
two together, group by user into lists, embed the lists with a class of batch methods that loads the model and the
vectors of pins once per process (`daft.cls`, `max_concurrency`, `use_process`), and put the new rows in the place of
yesterday's (an anti join and a concat), into Parquet. `--vectors join` joins the vectors by Daft instead: no faster,
and it takes more memory.

It writes no new histories, checks nothing, embeds no pins, builds no index, fills no store, and a kill loses all of it.
"""

import argparse
import sys
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.peers.tower import Embedder, NightInputs, VectorTable, days_since_epoch

ROWS = ("user_id", "pin_id", "timestamp_ms", "action", "surface", "duration_s")
USERS_AT_ONCE = 512  # as many as the product's slices have


def flatten(lists: pa.Array) -> pa.Array:
    return lists.flatten()


class BatchEmbedder:
    """A class of Daft: loaded once per process, then given lists, an element per user.

    Args:
        model: The folder of the model.
        vectors: The file of pin vectors; None: they come with the lists, joined by Daft.
    """

    def __init__(self, model: str, vectors: str | None):
        self._embedder = Embedder(model)
        self._table = VectorTable(vectors) if vectors else None

    def embed(self, pin: Any, at: Any, action: Any, surface: Any, duration: Any) -> Any:
        """Series of lists [N] -> binary [N], little-endian float16 [d] each.

        Args:
            pin: Ids of pins, or their vectors.
        """
        lists = {name: series.to_arrow() for name, series in (("pin", pin), ("at", at), ("duration", duration))}
        lengths = lists["at"].value_lengths().to_numpy(zero_copy_only=False)
        pins = flatten(lists["pin"])
        if self._table is not None:
            vectors = self._table.take(pins.to_numpy())
        else:
            vectors = pins.flatten().to_numpy().reshape(len(pins), -1)
        embeddings = self._embedder.embed(
            np.repeat(np.arange(len(lengths)), lengths),
            vectors,
            flatten(lists["at"]).to_numpy(),
            flatten(action.to_arrow()),
            flatten(surface.to_arrow()),
            flatten(lists["duration"]).to_numpy(zero_copy_only=False),
        )
        return [row.tobytes() for row in embeddings]


def build_query(inputs: NightInputs, workers: int, join_vectors: bool) -> Any:
    """The query, lazy: the snapshot of tonight."""
    import daft
    from daft import DataType, col, lit

    method = daft.method.batch(return_dtype=DataType.binary(), batch_size=USERS_AT_ONCE)
    made = daft.cls(
        type("DaftEmbedder", (BatchEmbedder,), {"embed": method(BatchEmbedder.embed)}),
        max_concurrency=workers,
        use_process=True,
    )
    embedder = made(inputs.model, None if join_vectors else inputs.vectors)

    log = daft.read_parquet(inputs.logs).select(*ROWS)
    active = log.select("user_id").distinct()
    histories = daft.read_parquet(inputs.histories).select(*ROWS).join(active, on="user_id", how="semi")
    rows = histories.concat(log)
    pin = "pin_id"
    if join_vectors:
        rows, pin = rows.join(daft.read_parquet(inputs.vectors), on="pin_id"), "vector"
    columns = [pin, "timestamp_ms", "action", "surface", "duration_s"]
    # A list leaves nulls in: of durations too, which a batch method gets as NaN.
    lists = rows.groupby("user_id").agg(
        *(col(name).list_agg() for name in columns), col("timestamp_ms").max().alias("last_action_ms")
    )
    embedded = lists.select(
        "user_id",
        embedder.embed(*(col(name) for name in columns)).alias("embedding"),
        lit(days_since_epoch(inputs.day)).cast(DataType.int32()).cast(DataType.date()).alias("embedding_date"),
        "last_action_ms",
        lit(False).alias("stale"),
    )
    before = daft.read_parquet(inputs.snapshot)
    carried = before.join(active, on="user_id", how="anti").with_column(
        "embedding", col("embedding").cast(DataType.binary())
    )
    return carried.select(*embedded.column_names).concat(embedded)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--vectors", choices=("join", "class"), default="class", help="who looks vectors up (%(default)s)"
    )
    arguments = parser.parse_args()
    inputs = NightInputs.read(arguments.inputs)
    build_query(inputs, arguments.workers, arguments.vectors == "join").write_parquet(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
