"""One night on every engine: in-process with two worker processes, Prism, Flink 1.20 and 2.2 with two slots.

    .venv/bin/python -m benchmarks.flink [--engines local,prism,flink-1.20,flink-2.2] [--rounds 3] [--active 50000]

The night is `benchmarks.daily`'s: model `small`, users with lengths of a lognormal. Every round runs every engine once,
on a fresh copy of the root. Start-up is counted apart: a cluster is started before it is timed, and every engine also
runs a night of ten users, whose time is what a night costs before it has anything to do. To be at most 1.5: (night -
small night) on Flink against the same in-process.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.daily import make_inputs, run_job
from benchmarks.measuring import alternate, median_ratio
from engines.flink.cluster import FlinkCluster
from engines.prism.binary import prism_flags

LOCAL = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@contextlib.contextmanager
def engine(name: str) -> Iterator[list[str]]:
    """Yields the Beam flags of an engine that is ready to take a job."""
    if name == "local":
        yield LOCAL
    elif name == "prism":
        yield prism_flags()
    else:
        started = time.perf_counter()
        with FlinkCluster(name.partition("-")[2], slots=2, heap_mb=1024) as cluster:
            print(
                f"  {name} {cluster.get('/v1/overview')['flink-version']} up in {time.perf_counter() - started:.1f} s"
            )
            yield cluster.flags


def run_once(inputs: str, name: str) -> float:
    """Runs a night on an engine, on a copy of the root; returns its seconds, start of the cluster apart."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(inputs)) as folder:
        # Hard links will do: no file under a root is ever changed in place.
        subprocess.run(["cp", "--archive", "--link", f"{inputs}/root", folder], check=True)
        for part in ("logs", "pins", "model"):
            os.symlink(f"{inputs}/{part}", f"{folder}/{part}")
        # Of two cores each of two workers has one; Prism's share a process.
        os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1) if name == "prism" else "1"
        with engine(name) as flags:
            return run_job(folder, ["--quiet", *flags])[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="local,prism,flink-1.20,flink-2.2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--active", type=int, default=50_000)
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--pins", type=int, default=100_000)
    arguments = parser.parse_args()
    names = arguments.engines.split(",")
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(f"{folder}/small", 1000, 10, 5000, 1000)
        make_inputs(f"{folder}/night", arguments.users, arguments.active, arguments.rows, arguments.pins)
        print("a night of ten users, seconds:", flush=True)
        small = alternate(arguments.rounds, {n: lambda n=n: run_once(f"{folder}/small", n) for n in names})
        print(f"a night of {arguments.active:,} active users, seconds:", flush=True)
        night = alternate(arguments.rounds, {n: lambda n=n: run_once(f"{folder}/night", n) for n in names})
    print(f"\n{'engine':12}{'ten users':>12}{'night':>10}{'net':>10}{'net / local':>14}")
    net = {n: [a - b for a, b in zip(night[n], small[n], strict=True)] for n in names}
    for n in names:
        ratio = f"{median_ratio(net[n], net['local']):14.2f}" if "local" in names else ""
        figures = [statistics.median(found[n]) for found in (small, night, net)]
        print(f"{n:12}{figures[0]:12.1f}{figures[1]:10.1f}{figures[2]:10.1f}{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
