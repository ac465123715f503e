"""What a small night costs, and what a night grows with: users, active users, workers, one very long history.

    .venv/bin/python -m benchmarks.small_nights [--users 30000] [--active 1000] [--pins 20000] [--rounds 3]

No pin changes in these nights, and everything is on, as in `benchmarks.nights`: ten users, which is what a night costs
before any work; the same ten beside one user with a million rows today; a thousand active users with one worker, with
two, and beside the bare model; twice as many; and a thousand of ten times the users. All alternate, round by round.

Every process has one thread. Nights whose workers are not named have as many as the product chooses.
"""

import argparse
import os
import sys
import tempfile
from statistics import median

from benchmarks.bare import bare_cost
from benchmarks.measuring import median_ratio, run_measured
from benchmarks.night_world import ONE_THREAD, World, make_world, run_night
from benchmarks.nights import Rounds, steps_of
from benchmarks.records import record

NAME = "small_nights"
IMPORTS = "importing torch and Beam alone"
TEN, HEAVY = "ten users", "ten users, and one with many rows"
ONE, TWO, BARE = "1 worker", "2 workers", "bare model"
TWICE, TENFOLD = "twice as many active", "ten times the users"


def run_round(world: World, large: World, rounds: Rounds) -> None:
    """Every night once.

    Args:
        large: A world of ten times the users.
    """
    imports = [sys.executable, "-c", "import torch, apache_beam"]
    rounds.add(IMPORTS, run_measured(imports, ONE_THREAD, os.devnull))
    nights = ((TEN, "ten", 0), (HEAVY, "heavy", 0), (ONE, "active", 1), (TWO, "active", 2), (TWICE, "twice", 1))
    for side, night, workers in nights:
        found = run_night(world, night, workers)
        rounds.add(side, found.cost)
        if side == TWO:
            rounds.nights.append(found)
    rounds.add(BARE, bare_cost(world.inputs("active"), world.folder))
    rounds.add(TENFOLD, run_night(large, "active", workers=1).cost)


def record_figures(rounds: Rounds, active: str, heavy_rows: int) -> None:
    """The lines of the table.

    Args:
        active: How many users act, as the table says it.
    """
    ten, imports = rounds.costs[TEN], rounds.costs[IMPORTS]
    note = f"{IMPORTS} {median(cost.wall_s for cost in imports):.1f} s"
    record(NAME, "ten users", median(cost.wall_s for cost in ten), at_most=6, unit="s", note=note)
    note = f"{IMPORTS} {median(cost.cpu_s for cost in imports):.1f} s"
    record(NAME, "ten users, CPU", median(cost.cpu_s for cost in ten), at_most=6, unit="s", note=note)
    seconds, note_of = rounds.seconds, rounds.note
    print(f"steps of the last night with 2 workers, seconds of work: {steps_of(rounds.nights[-1].release)}")
    ratio = median_ratio(seconds[TWO], seconds[BARE])
    record(NAME, f"{active} active, 2 workers / bare inference", ratio, at_most=1.6, note=note_of(TWO, BARE))
    ratio = median_ratio(seconds[ONE], seconds[TWO])
    record(NAME, f"{active} active, 1 worker / 2 workers", ratio, at_least=1.4, note=note_of(ONE, TWO))
    ratio = median_ratio(seconds[TWICE], seconds[ONE])
    record(NAME, f"twice as many active / {active}", ratio, at_most=2.05, note=note_of(TWICE, ONE))
    ratio = median_ratio(seconds[TENFOLD], seconds[ONE])
    record(NAME, f"{active} active of ten times the users", ratio, at_most=1.4, note=note_of(TENFOLD, ONE))
    ratio = rounds.peak(TENFOLD) / rounds.peak(ONE)
    note = f"{rounds.peak(TENFOLD):.2f} and {rounds.peak(ONE):.2f} GiB"
    record(NAME, "peak memory of ten times the users", ratio, at_most=1.1, note=note)
    ratio, more = median_ratio(seconds[HEAVY], seconds[TEN]), rounds.peak(HEAVY) - rounds.peak(TEN)
    record(NAME, f"a user with {heavy_rows:,} rows beside ten", ratio, note=f"{more:+.2f} GiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=30_000)
    parser.add_argument("--active", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=900_000, help="of the histories")
    parser.add_argument("--pins", type=int, default=20_000)
    parser.add_argument("--heavy-rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("making histories, and nights that embed and index the pins", flush=True)
    with tempfile.TemporaryDirectory() as near, tempfile.TemporaryDirectory() as far:
        actors, rows, pins = 2 * arguments.active + 1, arguments.rows, arguments.pins
        world = make_world(near, arguments.users, actors, rows, pins)
        world.add_night("ten", 10)
        world.add_night("heavy", 10, arguments.heavy_rows)
        world.add_night("active", arguments.active)
        world.add_night("twice", 2 * arguments.active)
        large = make_world(far, 10 * arguments.users, actors, 10 * rows, pins)
        large.add_night("active", arguments.active)
        rounds = Rounds()
        for _ in range(arguments.rounds):
            run_round(world, large, rounds)
    record_figures(rounds, f"{arguments.active:,}", arguments.heavy_rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
