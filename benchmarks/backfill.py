"""A backfill of many days on the preset `small`, against the same days one by one and against the bare model.

    .venv/bin/python -m benchmarks.backfill [--users 200000] [--days 14] [--scale 1.0]

A root is made directly, as `benchmarks.daily` makes it: every user with a history (median 60, mean 85, at most 256
engagements) and a vector. On each day 5 % of the users, drawn anew, act three times. The days are then run one by one
on one copy of the root and at once on another, in processes of their own, and the active users of each day go through
the bare model in a loop. Printed are the user branch of the backfill against the bare model, and everything but
inference against the same of the daily runs. `--scale 0.02` is a smoke test; Beam's options pass through.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.daily import MIDNIGHT_MS, PIECE, TONIGHT, USER_BRANCH, draw_rows, make_folder, make_inputs, sequences_of
from benchmarks.measuring import peak_pss
from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import chain
from stores.tables import read_files

ROWS_EACH = 3


def day(number: int) -> datetime.date:
    return TONIGHT + datetime.timedelta(number)


def write_logs(folder: str, users: int, days: int, active_share: float, pins: int) -> None:
    """The days' logs: other users every day, so that a user is embedded on few of them."""
    for number in range(days):
        random = np.random.default_rng([7, number])
        active = np.sort(random.choice(users, max(1, round(active_share * users)), replace=False))
        end_ms = MIDNIGHT_MS + (number + 1) * 86_400_000
        rows = draw_rows(active, np.full(len(active), ROWS_EACH), pins, end_ms, 1, seed=1000 + number)
        make_folder(f"{folder}/logs/ds={day(number)}")
        shuffled = rows.take(pa.array(random.permutation(len(rows))))
        pq.write_table(shuffled, f"{folder}/logs/ds={day(number)}/a.parquet", row_group_size=100_000)
        open(f"{folder}/logs/ds={day(number)}/_SUCCESS", "w").close()


def run_command(folder: str, root: str, command: list[str], beam_flags: list[str]) -> tuple[float, int]:
    """Runs a command of ours in a process of its own; returns (wall seconds, peak bytes)."""
    inputs = [f"--root={root}", *(f"--{name}={folder}/{name}" for name in ("logs", "pins", "model"))]
    words = [sys.executable, "-m", "pipelines.cli", command[0], *inputs, *command[1:], "--publish=none", "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen([*words, "--min-age=0h", *beam_flags])
    with peak_pss(process.pid) as peak:
        code = process.wait()
    if code:
        sys.exit(code)
    return time.perf_counter() - started, peak[0]


def made(root: str, days: int) -> list[Manifest]:
    """The releases of the days, in order."""
    return list(chain(Root(root)))[:days][::-1]


def run_bare(folder: str, root: str, numbers: list[int], days: int) -> tuple[int, float]:
    """Feeds the active users of some days, with the histories of that day, to the bare model; (users, seconds)."""
    table = pq.read_table(f"{folder}/pins/vectors.parquet")["vector"].combine_chunks()
    vectors = table.flatten().to_numpy().reshape(-1, 256)
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    users, seconds = json.loads(done.stdout.splitlines()[-1])
    return users, seconds


def copy_root(source: str, target: str) -> str:
    """A copy of a root that shares its files, which never change."""
    shutil.copytree(source, target, copy_function=os.link)
    os.unlink(f"{target}/CURRENT")
    shutil.copy(f"{source}/CURRENT", f"{target}/CURRENT")
    return target


def summed(manifests: list[Manifest], stages: tuple[str, ...]) -> float:
    return sum(manifest.timings.get(stage, 0.0) for manifest in manifests for stage in stages)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--active-share", type=float, default=0.05)
    parser.add_argument("--pins", type=int, default=100_000)
    parser.add_argument("--scale", type=float, default=1.0, help="of users and pins")
    parser.add_argument("--bare-days", type=int, default=14, help="days whose users go through the bare model")
    parser.add_argument("--memory-days", type=int, default=0, help="also a backfill of the first N days, for its peak")
    arguments, beam_flags = parser.parse_known_args()
    users, pins = round(arguments.users * arguments.scale), round(arguments.pins * arguments.scale)
    days = arguments.days
    with tempfile.TemporaryDirectory() as folder:
        print(f"making a root of {users:,} users and {days} days of logs", flush=True)
        make_inputs(folder, users, users, 0, pins)
        write_logs(folder, users, days, arguments.active_share, pins)
        start = f"{folder}/root"
        one_by_one, at_once = copy_root(start, f"{folder}/daily"), copy_root(start, f"{folder}/backfill")
        bare_days = list(range(days))[:: max(1, -(-days // arguments.bare_days))]

        seconds, peak = run_command(
            folder, at_once, ["backfill", f"--start={day(0)}", f"--end={day(days - 1)}"], beam_flags
        )
        print(f"backfill: {seconds:,.0f} s, {peak / 2**30:.2f} GiB", flush=True)
        daily_seconds, daily_peak = 0.0, 0
        for number in range(days):
            wall, bytes_used = run_command(
                folder, one_by_one, ["daily", f"--date={day(number)}", "--join=broadcast"], beam_flags
            )
            daily_seconds, daily_peak = daily_seconds + wall, max(daily_peak, bytes_used)
            print(f"daily {day(number)}: {wall:,.1f} s", flush=True)
        bare_users, bare_seconds = bare_in_process(folder, at_once, bare_days, days)
        backfilled, nightly = made(at_once, days), made(one_by_one, days)
        for found, expected in zip(backfilled, nightly, strict=True):
            for name in ("histories", "user_embeddings"):
                if found.tables[name] != expected.tables[name]:
                    sys.exit(f"{found.release}: {name} differs from the daily run's")
        print("every table of users equals the daily runs', byte for byte")
        if arguments.memory_days:
            some = copy_root(start, f"{folder}/some")
            command = ["backfill", f"--start={day(0)}", f"--end={day(arguments.memory_days - 1)}"]
            _, few = run_command(folder, some, command, beam_flags)
            print(f"peak of {arguments.memory_days} days {few / 2**30:.2f} GiB, of {days} days {peak / 2**30:.2f} GiB")

    embedded = sum(manifest.counters["embed_users"]["users_embedded"] for manifest in backfilled)
    bare = bare_seconds / bare_users * embedded
    branch = summed(backfilled, USER_BRANCH)
    print(
        f"\n{embedded:,} user-days; bare model {bare_users / bare_seconds:,.1f} users/s: {bare:,.0f} s for all of them"
    )
    for stage in USER_BRANCH:
        print(f"  {stage:17} {summed(backfilled, (stage,)):8.1f} s   one by one {summed(nightly, (stage,)):8.1f} s")
    print(f"user branch / bare inference: {branch / bare:.3f} (to be <= 1.15)")
    workers = max(1, sum(int(f.partition("=")[2]) for f in beam_flags if f.startswith("--direct_num_workers=")))
    rest = seconds - summed(backfilled, ("embed_users",)) / workers
    daily_rest = daily_seconds - summed(nightly, ("embed_users",)) / workers
    print(f"wall: {seconds:,.0f} s at once, {daily_seconds:,.0f} s one by one ({workers} worker(s))")
    print(f"everything but inference: {rest:,.1f} s at once, {daily_rest:,.1f} s one by one: {rest / daily_rest:.3f}")
    print("  (to be <= 0.25)")
    print(f"peak proportional set size: {peak / 2**30:.2f} GiB at once, {daily_peak / 2**30:.2f} GiB one by one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
