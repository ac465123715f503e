"""Building index shards: with the search for the least `ef`, beside the bare graph, and beside a search for every pin.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.index [--pins 60000] [--dim 256] [--root ROOT] [--rounds 3]

Seconds of CPU of one thread for one of `--shards`, a shard a round: "bare" is hnswlib alone, "findable" what the night
does, "every pin at 64" what a search for each pin at the narrowest served width would add to the bare graph.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measuring import median_ratio
from benchmarks.pins import add_flags, pins_of
from benchmarks.records import record
from stores.indexes import EF_CANDIDATES, IndexParameters, build_index, find_pins


def cpu_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU, and what came of it."""
    started = time.process_time()
    done = work()
    return time.process_time() - started, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--rounds", type=int, default=3, help="shards that are built, each both ways")
    found = parser.parse_args()
    pins, parameters = pins_of(found), IndexParameters()
    figures: dict[str, list[float]] = {"bare": [], "find": [], "every": []}
    for number in range(min(found.rounds, found.shards)):
        ids, vectors = pins.shard(number, found.shards)
        bare, shard = cpu_of(lambda: build_index(ids, vectors, parameters))  # noqa: B023
        find, (ef, missed) = cpu_of(lambda: find_pins(shard, ids, vectors))  # noqa: B023
        queries = vectors[np.isin(ids, shard.graph.pin_ids())].astype(np.float32)
        every, _ = cpu_of(lambda: shard.graph.search(queries, 10, EF_CANDIDATES[0], threads=1))  # noqa: B023
        for name, figure in (("bare", bare), ("find", find), ("every", every)):
            figures[name].append(figure)
        print(
            f"  {len(ids):,} pins: bare {bare:.2f} s, least ef {find:.2f} s -> {ef}, {len(missed)} not found; "
            f"every pin at {EF_CANDIDATES[0]}: {every:.2f} s",
            flush=True,
        )
    print(f"bare graph: {statistics.median(figures['bare']):.2f} s of CPU a shard")
    record("index", "finding the least ef / building the bare graph", median_ratio(figures["find"], figures["bare"]))
    print(f"every pin at {EF_CANDIDATES[0]} / bare: {median_ratio(figures['every'], figures['bare']):.2f}")


if __name__ == "__main__":
    main()
