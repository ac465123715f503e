"""Groups more than the TaskManager's heap on Flink: does it finish, and how long does it take.

    .venv/bin/python -m benchmarks.flink_grouping [--flink 1.20] [--gib 1] [--heap-mb 256] [--keys 64]
                                                  [--setting state.backend.type=rocksdb] [--at-once]

Values of 1 MB, as the job shuffles them, spread evenly over the keys; a group is added up a value at a time, or taken
into memory at once, as the job does with a bucket (--at-once). The heap that is named is the task heap; as much managed
memory lies beside it.
"""

import argparse
import sys
import time
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from engines.flink.cluster import FlinkCluster

CHUNK = 1_000_000


def make_chunks(number: int, keys: int) -> list[tuple[int, bytes]]:
    """Sixteen values of 1 MB that do not compress, each with its key."""
    random = np.random.default_rng(number)
    return [((16 * number + i) % keys, random.bytes(CHUNK)) for i in range(16)]


def measure(group: tuple[int, Iterable[bytes]], at_once: bool) -> tuple[int, int]:
    """The bytes of a group."""
    key, chunks = group
    return key, sum(map(len, list(chunks) if at_once else chunks))


def check(totals: list[tuple[int, int]], keys: int, number: int) -> None:
    """Nothing was lost: the worker says so, since the launcher sees no element."""
    found = dict(totals)
    if len(found) != len(totals) or len(found) != keys or sum(found.values()) != 16 * number * CHUNK:
        raise ValueError(f"{len(totals)} groups of {sum(found.values())} bytes")


def group_chunks(flags: list[str], number: int, keys: int, at_once: bool = False) -> None:
    """Groups 16 MB times `number` on the engine of these flags, and checks that every byte came through.

    Raises:
        Exception: the engine's, if it could not.
    """
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    totals = (
        pipeline
        | "Numbers" >> beam.Create(range(number))
        | "MakeChunks" >> beam.FlatMap(make_chunks, keys=keys)
        | "Group" >> beam.GroupByKey()
        | "Measure" >> beam.Map(measure, at_once=at_once)
    )
    _ = (
        pipeline
        | beam.Create([None])
        | beam.Map(
            lambda _, totals, keys, number: check(totals, keys, number),
            totals=beam.pvalue.AsList(totals),
            keys=keys,
            number=number,
        )
    )
    pipeline.run().wait_until_finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flink", default="1.20")
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--heap-mb", type=int, default=256)
    parser.add_argument("--keys", type=int, default=64, help="groups (default %(default)s; at most one a value)")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of Flink")
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--folder", help="for Flink's logs; kept")
    arguments = parser.parse_args()
    number = round(arguments.gib * 2**30 / (16 * CHUNK))
    keys = min(arguments.keys, 16 * number)
    settings = {"restart-strategy.type": "none", **dict(s.split("=", 1) for s in arguments.setting)}
    cluster = FlinkCluster(
        arguments.flink, slots=2, heap_mb=arguments.heap_mb, folder=arguments.folder, settings=settings
    )
    with cluster:
        started = time.perf_counter()
        state = "FINISHED"
        try:
            group_chunks(cluster.flags, number, keys, arguments.at_once)
        except Exception as error:
            state = f"FAILED: {str(error).splitlines()[0][:300]}"
        print(
            f"Flink {cluster.get('/v1/overview')['flink-version']}, {16 * number * CHUNK / 2**20:,.0f} MB in "
            f"{keys:,} groups, task heap {arguments.heap_mb} MB, {' '.join(arguments.setting) or 'defaults'}: "
            f"{time.perf_counter() - started:.0f} s, {state}"
        )
    return state != "FINISHED"


if __name__ == "__main__":
    sys.exit(main())
