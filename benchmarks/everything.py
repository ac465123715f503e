"""`make bench`: every benchmark of speed, one after another, and a table of what they found.

    .venv/bin/python -m benchmarks.everything [--size small|usual|large] [--only NAME ...] [--out DIR]

`usual` is under half an hour on two quiet cores; `small` shows in minutes that all of it runs, with figures that mean
little; `large` has a million users and a million pins, and takes hours. A benchmark that fails is named in the end, and
those after it run all the same.

What is not speed has commands of its own, named on docs/benchmarks.md: quality, foresight, drift, engines, bytes.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time

from benchmarks.night_world import ONE_THREAD
from benchmarks.nights import DAFT_PYTHON
from benchmarks.records import FILE, read_figures
from benchmarks.table import MACHINE, describe_machine, format_table, replace_table

SMALL, USUAL, LARGE = "small", "usual", "large"


@dataclasses.dataclass(frozen=True)
class Piece:
    """One benchmark.

    Attributes:
        module: In this package.
        small, usual: Its arguments.
        large: The same; None: its usual ones say all there is to say.
    """

    module: str
    small: str = ""
    usual: str = ""
    large: str | None = None

    def arguments(self, size: str) -> list[str] | None:
        """What it is run with; None: not at this size."""
        found = {SMALL: self.small, USUAL: self.usual, LARGE: self.large}[size]
        return None if found is None else found.split()


# The nights first: they take longest, and are what the others explain.
PIECES = (
    Piece(
        "nights",
        "--users 2000 --active 200 --rows 40000 --pins 2000 --rounds 1",
        "",
        "--users 1000000 --active 50000 --rows 30000000 --pins 1000000 --rounds 1 --large --no-one-worker",
    ),
    Piece(
        "small_nights",
        "--users 1000 --active 50 --rows 30000 --pins 1000 --heavy-rows 10000 --rounds 1",
        "--rounds 2",
    ),
    Piece("start_up", "--rounds 1", "--rounds 3"),
    Piece(
        "workers",
        "--users 500 --active 20 --rows 10000 --pins 500 --rounds 1 --no-busy",
        "--active 1000 --rows 900000 --rounds 2",
    ),
    Piece("tower", "--sizes 10 --users 10 --rounds 1", "--sizes 10 78 --rounds 3"),
    Piece("reuse", "--pins 1000 --rounds 1", "--pins 20000 --rounds 2", "--pins 200000 --rounds 1"),
    Piece("index", "--pins 2000 --clusters 100 --rounds 1", "--pins 40000 --rounds 2"),
    Piece(
        "retrieval",
        "--pins 2000 --clusters 100 --users 50 --other-users 100 --rounds 1",
        "",
        "--pins 1000000 --clusters 30000",
    ),
    Piece("kv", "--users 20000 --runs 1", "--users 200000 --runs 3", "--users 1000000"),
    Piece("ingest", "--rows 100000 --rowwise-rows 20000 --rounds 1", "--rows 1500000 --rowwise-rows 150000"),
    Piece(
        "training",
        "--cache .cache/training-small --users 300 --pins 2000 --random-negatives 512 --steps 1 --rounds 1",
        "--cache .cache/training --steps 2 --rounds 3 --clock cpu",
    ),
    Piece(
        "backfill",
        "--scale 0.005 --nights 1 --days 2 --cpu",
        "--scale 0.02 --nights 2 --cpu",
        "--scale 1 --nights 2 --cpu",
    ),
)


def run_piece(piece: Piece, arguments: list[str], out: str) -> float | None:
    """Runs one; its lines are shown and kept in `out`, with its figures. Returns its seconds, None if it failed."""
    figures = os.path.abspath(f"{out}/{PIECES.index(piece):02d}-{piece.module}.jsonl")
    if os.path.exists(figures):
        os.unlink(figures)  # of the run before
    print(f"\n== {piece.module} {' '.join(arguments)}", flush=True)
    started = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{piece.module}", *arguments]
    with open(f"{out}/{piece.module}.log", "w") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **ONE_THREAD, FILE: figures},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            log.write(line)
    return time.perf_counter() - started if process.wait() == 0 else None


def version_of_daft() -> dict[str, str]:
    """Of the peers' environment; nothing where there is none."""
    if not os.path.exists(DAFT_PYTHON):
        return {}
    code = "import importlib.metadata as m; print(m.version('daft'))"
    return {"daft": subprocess.run([DAFT_PYTHON, "-c", code], capture_output=True, text=True).stdout.strip()}


def describe_run(size: str, seconds: dict[str, float | None]) -> dict[str, str]:
    """The machine's facts and the run's."""
    took = ", ".join(f"{name} {found:.0f}" for name, found in seconds.items() if found is not None)
    busy = os.getloadavg()[1]
    total = sum(found or 0 for found in seconds.values())
    return describe_machine(version_of_daft()) | {
        "run": f"size {size}, {time.strftime('%Y-%m-%d')}, {total / 60:.0f} minutes (seconds: {took}), "
        f"load {busy:.1f} in its last five minutes"
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=(SMALL, USUAL, LARGE), default=USUAL)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[piece.module for piece in PIECES])
    parser.add_argument("--out", default=".cache/bench", metavar="DIR", help="for figures and logs (%(default)s)")
    parser.add_argument("--write", metavar="PAGE", help="put the table into this page, too")
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    seconds: dict[str, float | None] = {}
    for piece in PIECES:
        given = piece.arguments(arguments.size)
        if given is None or (arguments.only and piece.module not in arguments.only):
            continue
        if importlib.util.find_spec(f"benchmarks.{piece.module}") is None:
            print(f"\n== {piece.module}: not in this checkout", flush=True)
            continue
        seconds[piece.module] = run_piece(piece, given, arguments.out)
    facts = describe_run(arguments.size, seconds)
    with open(f"{arguments.out}/{MACHINE}", "w") as file:
        json.dump(facts, file, indent=1)
    figures_now = [figure for figure in read_figures(arguments.out) if figure.benchmark in seconds]
    table = format_table(figures_now, facts)
    print(f"\n{table}")
    if arguments.write:
        with open(arguments.write) as file:
            page = replace_table(file.read(), table)
        with open(arguments.write, "w") as file:
            file.write(page)
    failed = [name for name, found in seconds.items() if found is None]
    if failed:
        print(f"failed: {', '.join(failed)}; {arguments.out}/NAME.log has why", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
