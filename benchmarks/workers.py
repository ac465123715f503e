"""What a second worker process brings, and what other work on the machine takes from a night.

    .venv/bin/python -m benchmarks.workers [--active 5000] [--rounds 3] [--no-busy]

Nights with one worker and with two, alternating; then nights with as many as the product chooses, alone and beside one
process a core that does nothing but compute. Ratios of the clock: they mean nothing where the machine has other work.
No pin changes in these nights, and everything is on.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.measuring import median_ratio
from benchmarks.night_world import make_world, run_night
from benchmarks.nights import Rounds
from benchmarks.records import record
from pipelines.launch.crew import cores

NAME = "workers"
ONE, TWO, ALONE, BESIDE = "1 worker", "2 workers", "alone", "beside one busy process a core"


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """One process a core that computes, as long as the body runs."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=30_000)
    parser.add_argument("--active", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the histories")
    parser.add_argument("--pins", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-busy", action="store_true", help="leave the busy machine out")
    arguments = parser.parse_args()
    rounds, few = Rounds(), max(10, arguments.active // 5)
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(folder, arguments.users, arguments.active + 10, arguments.rows, arguments.pins)
        world.add_night("active", arguments.active)
        world.add_night("few", few)
        for _ in range(arguments.rounds):
            for side, workers in ((ONE, 1), (TWO, 2)):
                rounds.add(side, run_night(world, "active", workers).cost)
            if not arguments.no_busy:
                rounds.add(ALONE, run_night(world, "few", 0).cost)
                with busy_cores():
                    rounds.add(BESIDE, run_night(world, "few", 0).cost)
    seconds, what = rounds.seconds, f"{arguments.active:,} active"
    ratio = median_ratio(seconds[ONE], seconds[TWO])
    record(NAME, f"{what}, 1 worker / 2 workers", ratio, at_least=1.75, note=rounds.note(ONE, TWO))
    ratio = median_ratio([c.cpu_s for c in rounds.costs[TWO]], [c.cpu_s for c in rounds.costs[ONE]])
    record(NAME, f"{what}, CPU of 2 workers / of 1", ratio, note="")
    note = f"{rounds.peak(TWO):.2f} and {rounds.peak(ONE):.2f} GiB"
    record(NAME, f"{what}, peak memory of 2 workers / of 1", rounds.peak(TWO) / rounds.peak(ONE), note=note)
    if not arguments.no_busy:
        ratio = median_ratio(seconds[BESIDE], seconds[ALONE])
        record(NAME, f"{few:,} active, {BESIDE} / alone", ratio, at_most=2.3, note=rounds.note(BESIDE, ALONE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
