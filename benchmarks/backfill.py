"""A backfill of many days on the preset `small`, against the same days one by one and against the bare model.

    .venv/bin/python -m benchmarks.backfill [--users 200000] [--days 14] [--nights 14] [--scale 1.0]
    .venv/bin/python -m benchmarks.backfill --memory-days 7 28 [--days-per-pass 7] [--scale 1.0]

A root is made directly, as `benchmarks.daily` makes it: every user with a history (median 60, mean 85, at most 256
engagements) and a vector. On each day 5 % of the users, drawn again, act three times. The days are then run at once on
one copy of the root and one by one on another, in processes of their own, and the active users of each day go through
the bare model in a loop. In this order, so that a machine that is busy for a while is busy for all: half of the nights,
half of the bare loop, the backfill, the other halves. Printed are the user branch of the backfill against the bare
model, and everything but inference against the same of the daily runs.

`--scale` takes a share of the users, pins and buckets, so that a bucket has as many active users per day as at full
size: slices and batches depend on that. `--nights` runs the first N days only one by one, and takes them for all. With
`--memory-days` only backfills of so many days each are run, in passes of one size, and their peaks printed. `--cpu`
counts seconds of CPU in place of the clock's, for a machine that others work on: waits, for the disk too, do not count,
and one worker process only can be measured. Beam's options pass through.
"""

import argparse
import dataclasses
import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.daily import (
    MIDNIGHT_MS,
    PIECE,
    PINS,
    TONIGHT,
    USER_BRANCH,
    draw_rows,
    make_folder,
    make_inputs,
    read_pin_vectors,
    sequences_of,
)
from benchmarks.measuring import peak_pss
from benchmarks.records import record
from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.days import DAY_MS
from pinnerformer_model.inference import UserEncoder
from stores.files import Root
from stores.manifests import Manifest
from stores.names import Counter, Step
from stores.releases import chain
from stores.tables import read_files

ROWS_EACH = 3
CPU = "BENCHMARK_CPU_SECONDS"


def day(number: int) -> datetime.date:
    return TONIGHT + datetime.timedelta(number)


def write_logs(folder: str, users: int, days: int, active_share: float, pins: int) -> None:
    """The days' logs: other users every day, so that a user is embedded on few of them."""
    for number in range(days):
        random = np.random.default_rng([7, number])
        active = np.sort(random.choice(users, max(1, round(active_share * users)), replace=False))
        end_ms = MIDNIGHT_MS + (number + 1) * DAY_MS
        rows = draw_rows(active, np.full(len(active), ROWS_EACH), pins, end_ms, 1, seed=1000 + number)
        make_folder(f"{folder}/logs/ds={day(number)}")
        shuffled = rows.take(pa.array(random.permutation(len(rows))))
        pq.write_table(shuffled, f"{folder}/logs/ds={day(number)}/a.parquet", row_group_size=100_000)
        open(f"{folder}/logs/ds={day(number)}/_SUCCESS", "w").close()


def start_python(body: str) -> list[str]:
    """A command that runs Python; with `--cpu` the steps' stopwatch tells the process's CPU time there."""
    clock = "import time; time.perf_counter = time.process_time; " if CPU in os.environ else ""
    return [sys.executable, "-c", clock + body]


def now() -> float:
    """Seconds on the clock; with `--cpu` those that processes which have ended took of the CPU."""
    if CPU not in os.environ:
        return time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_command(folder: str, root: str, command: list[str], beam_flags: list[str]) -> tuple[float, int]:
    """Runs a command of ours in a process of its own; returns (seconds, peak bytes)."""
    inputs = [f"--root={root}", *(f"--{name}={folder}/{name}" for name in ("logs", "pins", "model"))]
    words = start_python("import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))")
    words += [command[0], *inputs, *command[1:], f"--gates={folder}/gates", "--publish=none", "--quiet", "--min-age=0h"]
    words += beam_flags
    started = now()
    process = subprocess.Popen(words)
    with peak_pss(process.pid) as peak:
        code = process.wait()
    if code:
        sys.exit(code)
    return now() - started, peak[0]


def made(root: str, days: int) -> list[Manifest]:
    """The releases of the days, in order."""
    return list(chain(Root(root)))[:days][::-1]


def run_bare(folder: str, root: str, numbers: list[int], days: int) -> tuple[int, float]:
    """Feeds the active users of some days, with the histories of that day, to the bare model; (users, seconds)."""
    vectors = read_pin_vectors(f"{folder}/{PINS}")
    encoder = UserEncoder(load_model(f"{folder}/model").user_tower)
    users, seconds = 0, 0.0
    releases = made(root, days)
    for number in numbers:
        active = np.unique(pq.read_table(f"{folder}/logs/ds={day(number)}/a.parquet")["user_id"].to_numpy())
        parts = [read_files(Root(root), entries) for entries in releases[number].parts("histories").values()]
        found = [rows.filter(pa.array(np.isin(rows["user_id"].to_numpy(), active))) for rows in parts]
        rows = pa.concat_tables(found).unify_dictionaries()
        starts = np.flatnonzero(np.r_[True, np.diff(rows["user_id"].to_numpy()) != 0])
        bounds = np.r_[starts[::PIECE], len(rows)]
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
            sequences = sequences_of(rows.slice(begin, end - begin), vectors)
            started = time.perf_counter()
            encoder.encode(sequences)
            seconds += time.perf_counter() - started
            users += len(sequences.user_ids)
    return users, seconds


def bare_in_process(folder: str, root: str, numbers: list[int], days: int) -> tuple[int, float]:
    """`run_bare` in a fresh process, as the jobs'."""
    call = f"run_bare({folder!r}, {root!r}, {numbers}, {days})"
    code = f"from benchmarks.backfill import run_bare; import json; print(json.dumps({call}))"
    done = subprocess.run(start_python(code), capture_output=True, text=True, check=True)
    users, seconds = json.loads(done.stdout.splitlines()[-1])
    return users, seconds


def copy_root(source: str, target: str) -> str:
    """A copy of a root that shares its files, which never change."""
    shutil.copytree(source, target, copy_function=os.link)
    os.unlink(f"{target}/CURRENT")
    shutil.copy(f"{source}/CURRENT", f"{target}/CURRENT")
    return target


def summed(manifests: list[Manifest], steps: tuple[str, ...]) -> float:
    return sum(manifest.timings.get(step, 0.0) for manifest in manifests for step in steps)


def run_backfill(folder: str, root: str, days: int, beam_flags: list[str], *more: str) -> tuple[float, int]:
    """Backfills the first days; (seconds, peak bytes)."""
    return run_command(folder, root, ["backfill", f"--start={day(0)}", f"--end={day(days - 1)}", *more], beam_flags)


def run_nights(folder: str, root: str, numbers: range, beam_flags: list[str]) -> tuple[float, int]:
    """Runs days one by one; (seconds of all, peak bytes)."""
    seconds, peak = 0.0, 0
    for number in numbers:
        wall, used = run_command(folder, root, ["daily", f"--date={day(number)}", "--join=broadcast"], beam_flags)
        print(f"daily {day(number)}: {wall:,.1f} s", flush=True)
        seconds, peak = seconds + wall, max(peak, used)
    return seconds, peak


def measure_memory(folder: str, lengths: list[int], a_pass: int, beam_flags: list[str]) -> None:
    """Prints the peak of backfills of several lengths in passes of one size."""
    for days in lengths:
        root = copy_root(f"{folder}/root", f"{folder}/backfill-{days}")
        seconds, peak = run_backfill(folder, root, days, beam_flags, f"--days-per-pass={a_pass}")
        print(f"{days} days in passes of {a_pass}: peak {peak / 2**30:.2f} GiB, {seconds:,.0f} s", flush=True)
        shutil.rmtree(root)


def check_equal(found: list[Manifest], expected: list[Manifest]) -> None:
    """Ends the benchmark if a table of users differs; by its name, which carries the content."""
    for one, other in zip(found, expected, strict=True):
        for name in ("histories", "user_embeddings"):
            if one.tables[name] != other.tables[name]:
                sys.exit(f"{one.release}: {name} differs from the daily run's")
    print(f"every table of users equals the daily runs', byte for byte, on {len(found)} days")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was run: the days at once, and some of them one by one; two runs of the bare model between them.

    Attributes:
        backfilled, nightly: The releases.
        bare_first, bare_second: Users embedded, and seconds.
        seconds, peak: Of the backfill; bytes.
        first, second: Of the nights' two halves: seconds, and bytes.
    """

    backfilled: list[Manifest]
    nightly: list[Manifest]
    bare_first: tuple[float, float]
    bare_second: tuple[float, float]
    seconds: float
    peak: int
    first: tuple[float, int]
    second: tuple[float, int]


def print_result(found: Measured, cpu: bool, beam_flags: list[str]) -> None:
    """Prints what the days cost at once and one by one, and the two ratios that are to be met."""
    days, nights = len(found.backfilled), len(found.nightly)
    embedded = sum(manifest.counters[Step.EMBED_USERS][Counter.USERS_EMBEDDED] for manifest in found.backfilled)
    bare_users, bare_seconds = found.bare_first[0] + found.bare_second[0], found.bare_first[1] + found.bare_second[1]
    bare, branch = bare_seconds / bare_users * embedded, summed(found.backfilled, USER_BRANCH)
    print(f"\n{embedded:,} user-days; bare model {bare_users / bare_seconds:,.1f} users/s: {bare:,.0f} s for all")
    print("work, in seconds, step by step; one by one: a night's, times the days")
    for step in sorted({step for manifest in found.backfilled for step in manifest.timings}):
        one = summed(found.nightly, (step,)) * days / nights
        print(f"  {step:17} {summed(found.backfilled, (step,)):8.1f} at once {one:8.1f} one by one")
    record("backfill", f"{days} days: user branch / bare inference", branch / bare, at_most=1.15)
    workers = max(1, sum(int(f.partition("=")[2]) for f in beam_flags if f.startswith("--direct_num_workers=")))
    daily_seconds = (found.first[0] + found.second[0]) * days / nights
    rest = found.seconds - summed(found.backfilled, (Step.EMBED_USERS,)) / workers
    daily_rest = daily_seconds - summed(found.nightly, (Step.EMBED_USERS,)) / workers * days / nights
    taken = f" ({nights} of {days} nights were run)" if nights < days else ""
    clock = f"{'CPU' if cpu else 'wall'}, {workers} worker(s)"
    print(f"{clock}: {found.seconds:,.0f} s at once, {daily_seconds:,.0f} s one by one{taken}")
    what, note = f"{days} days: everything but inference, at once / one by one", f"{rest:,.0f} and {daily_rest:,.0f} s"
    record("backfill", what, rest / daily_rest, at_most=0.25, note=note)
    daily_peak = max(found.first[1], found.second[1])
    print(f"peak proportional set size: {found.peak / 2**30:.2f} GiB at once, {daily_peak / 2**30:.2f} GiB one by one")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--active-share", type=float, default=0.05)
    parser.add_argument("--pins", type=int, default=100_000)
    parser.add_argument("--buckets", type=int, default=64)
    parser.add_argument("--scale", type=float, default=1.0, help="of users, pins and buckets")
    parser.add_argument("--nights", type=int, help="days that are run one by one, too (all)")
    parser.add_argument(
        "--memory-days", type=int, nargs="+", metavar="N", help="measure the memory of such ranges only"
    )
    parser.add_argument("--days-per-pass", type=int, default=7, metavar="N", help="of --memory-days (7)")
    parser.add_argument("--cpu", action="store_true", help="count seconds of CPU, not of the clock")
    arguments, beam_flags = parser.parse_known_args()
    if arguments.cpu:
        os.environ[CPU] = "1"
    users, pins = round(arguments.users * arguments.scale), round(arguments.pins * arguments.scale)
    buckets = max(1, round(arguments.buckets * arguments.scale))
    days = max(arguments.memory_days or [arguments.days])
    nights = min(arguments.nights or days, days)
    with tempfile.TemporaryDirectory() as folder:
        print(f"making a root of {users:,} users in {buckets} buckets, {pins:,} pins, {days} days of logs", flush=True)
        make_inputs(folder, users, users, 0, pins, buckets)
        write_logs(folder, users, days, arguments.active_share, pins)
        with open(f"{folder}/gates", "w") as file:  # vectors are random: answers change, recall is about 0.95
            file.write(
                "max_coverage_fall: 1000000\nmin_coverage_pins: 0\nmin_coverage_share: 0\nmin_recall_at_10: 0.9\n"
                "max_users_alike: 1\n"
            )
        if arguments.memory_days:
            measure_memory(folder, arguments.memory_days, arguments.days_per_pass, beam_flags)
            return 0
        one_by_one = copy_root(f"{folder}/root", f"{folder}/daily")
        at_once = copy_root(f"{folder}/root", f"{folder}/backfill")
        half = -(-nights // 2)
        first = run_nights(folder, one_by_one, range(half), beam_flags)
        bare_first = bare_in_process(folder, one_by_one, list(range(half)), half)
        print(f"bare model: {bare_first[0] / bare_first[1]:,.1f} users/s", flush=True)
        seconds, peak = run_backfill(folder, at_once, days, beam_flags)
        print(f"backfill: {seconds:,.0f} s", flush=True)
        bare_second = bare_in_process(folder, at_once, list(range(half, nights)) or [days - 1], days)
        print(f"bare model: {bare_second[0] / bare_second[1]:,.1f} users/s", flush=True)
        second = run_nights(folder, one_by_one, range(half, nights), beam_flags)
        backfilled, nightly = made(at_once, days), made(one_by_one, nights)
        check_equal(backfilled[:nights], nightly)
    print_result(
        Measured(backfilled, nightly, bare_first, bare_second, seconds, peak, first, second), arguments.cpu, beam_flags
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
