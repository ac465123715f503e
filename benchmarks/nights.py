"""A whole night beside Daft's, beside a loop without any framework, and beside the bare model, in one run.

    make peers && .venv/bin/python -m benchmarks.nights [--users 100000] [--active 5000] [--rows 8500000]

A night in which no pin changed. Ours is the whole command: histories read and written, pins, canaries, gates, release,
upload to LMDB. Daft's and the loop's (`benchmarks/peers`) read, join, embed with the same tower and write the snapshot.
The bare model embeds the same slices, in two processes. All alternate, round by round; ratios are medians of rounds.
The vectors of all three must agree.

Every process has one thread. Without `make peers` Daft is left out, and that is said.
"""

import argparse
import os
import shutil
import sys
import tempfile
from statistics import median

import numpy as np
import pyarrow.parquet as pq

from benchmarks.bare import HOME, bare_cost
from benchmarks.measuring import Cost, median_ratio, run_measured
from benchmarks.night_world import MEASURED, ONE_THREAD, Night, World, make_world, run_night, select_day
from benchmarks.records import record
from stores.manifests import Manifest
from stores.names import Step

NAME = "nights"
DAFT_PYTHON = f"{HOME}/.cache/peers/daft/bin/python"
# Daft asks a server of its makers once per start; that is no part of a night.
PEER_ENVIRONMENT = {**ONE_THREAD, "PYTHONPATH": HOME, "DO_NOT_TRACK": "1"}
OURS, ONE, DAFT, LOOP, BARE = "ours", "ours, 1 worker", "Daft", "the loop", "bare model"
PIN_STEPS = (Step.CUT_VECTORS, Step.SHARD_PINS, Step.EMBED_PINS, Step.BUILD_INDEXES)
PIN_TABLES = ("pin_embeddings", "indexes")
CHECK = "check"  # the gates, among a manifest's timings
OF_OURS_ALONE = (
    *PIN_STEPS,
    Step.CHECK_CANARIES,
    Step.LOOK_BACK,
    Step.MEASURE_SHARDS,
)  # steps that no peer has, beside the gates
ALIKE = 0.9999  # cosine of the same user's vectors; float16 and other batches are all that tells them apart


class Rounds:
    """What every side took, round by round.

    Attributes:
        seconds: Side -> wall seconds.
        costs: Side -> what its command took; of the bare model no memory is known.
        nights: Ours, with two workers.
        cosines: Peer -> the lowest cosine of a user's vector with ours.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.costs: dict[str, list[Cost]] = {}
        self.nights: list[Night] = []
        self.cosines: dict[str, float] = {}

    def add(self, side: str, cost: Cost) -> None:
        self.costs.setdefault(side, []).append(cost)
        self.seconds.setdefault(side, []).append(cost.wall_s)
        peak = f", peak {cost.peak_bytes / 2**30:.2f} GiB" if cost.peak_bytes else ""
        number = len(self.costs[side])
        print(f"  round {number}: {side}: {cost.wall_s:.1f} s, {cost.cpu_s:.1f} s of CPU{peak}", flush=True)

    def peak(self, side: str) -> float:
        """GiB, the median of the rounds."""
        return median(cost.peak_bytes for cost in self.costs[side]) / 2**30

    def note(self, *sides: str) -> str:
        """Seconds of the clock and of CPU, medians of the rounds."""
        cpu = {side: median(cost.cpu_s for cost in self.costs[side]) for side in sides}
        return ", ".join(f"{side} {median(self.seconds[side]):.1f} s, CPU {cpu[side]:.1f} s" for side in sides)


def run_peer(world: World, night: str, python: str, module: str) -> tuple[Cost, tuple[np.ndarray, np.ndarray]]:
    """Runs a peer's whole command; returns what it took, and the users whom it embedded with their vectors."""
    out = f"{world.folder}/peer"
    world.inputs(night).write(f"{world.folder}/peer.json")
    command = [python, "-m", f"benchmarks.peers.{module}", f"--inputs={world.folder}/peer.json", f"--out={out}"]
    try:
        cost = run_measured([*command, "--workers=2"], PEER_ENVIRONMENT, f"{world.folder}/peer.log")
        return cost, select_day(pq.read_table(out), MEASURED)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def worst_cosine(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> float:
    """The lowest cosine of a user's two vectors.

    Args:
        ours, theirs: Sorted user ids int64 [N], vectors float16 [N, d].

    Raises:
        ValueError: they are not of the same users.
    """
    if not np.array_equal(ours[0], theirs[0]):
        raise ValueError(f"{len(ours[0])} users here, {len(theirs[0])} there: not the same night")
    a, b = (vectors.astype(np.float32) for vectors in (ours[1], theirs[1]))
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def run_round(world: World, night: str, rounds: Rounds, daft: bool, one_worker: bool) -> None:
    """Every side once."""
    first = not rounds.nights
    ours = run_night(world, night, workers=2, read_back=first)
    rounds.nights.append(ours)
    rounds.add(OURS, ours.cost)
    for side, python, module in ((DAFT, DAFT_PYTHON, "daft_night"), (LOOP, sys.executable, "plain_loop")):
        if side == DAFT and not daft:
            continue
        cost, found = run_peer(world, night, python, module)
        rounds.add(side, cost)
        if first:
            assert ours.embedded is not None
            rounds.cosines[side] = worst_cosine(ours.embedded, found)
    rounds.add(BARE, bare_cost(world.inputs(night), world.folder))
    if one_worker:
        rounds.add(ONE, run_night(world, night, workers=1).cost)


def shared_part(night: Night, workers: int) -> float:
    """Wall seconds of a night, less what no peer does: pins, index, measures of the gates, canaries, the gates.

    Work of steps is shared by the workers, gates are one process's. Histories are written and the store is filled all
    the same.
    """
    alone = sum(night.release.timings.get(step, 0.0) for step in OF_OURS_ALONE) / workers
    return night.cost.wall_s - alone - night.release.timings.get(CHECK, 0.0)


def new_pin_bytes(before: Manifest, after: Manifest) -> int:
    """Bytes of the files of pins and indexes that a release has and the one before has not."""
    held = {entry.path for table in PIN_TABLES for entry in before.tables[table]}
    return sum(entry.bytes for table in PIN_TABLES for entry in after.tables[table] if entry.path not in held)


def steps_of(release: Manifest) -> str:
    """A night's steps, the longest first: seconds of work, summed over processes."""
    found = sorted(release.timings.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in found if seconds >= 0.05)


def record_pins(world: World, night: Night) -> None:
    """What pins cost of which none changed, beside the night that embedded and indexed all."""
    full, now = (sum(found.timings.get(step, 0.0) for step in PIN_STEPS) for found in (world.settled, night.release))
    note = f"{now:.2f} and {full:.1f} s of work"
    record(NAME, "no pin changed: pin and index stages / full ones", now / full, at_most=0.02, note=note)
    new = new_pin_bytes(world.settled, night.release)
    record(NAME, "no pin changed: new files of pins and indexes", new / 2**20, at_most=0, unit="MiB")


def record_figures(rounds: Rounds, title: str, large: bool) -> None:
    """The lines of the table.

    Args:
        title: The night's sizes.
        large: The goals of 50,000 active of a million users.
    """
    part = [shared_part(night, workers=2) for night in rounds.nights]
    last = rounds.nights[-1]
    print(f"steps of the last night, seconds of work of all processes: {steps_of(last.release)}")
    print(f"from the manifest to the end of the command: {last.after_commit_s:.1f} s")
    seconds = rounds.seconds
    if DAFT in seconds:
        ratio = median_ratio(seconds[DAFT], seconds[OURS])
        record(NAME, f"{title}: Daft / ours, whole commands", ratio, at_least=1.0, note=rounds.note(DAFT, OURS))
        ratio, note = median_ratio(seconds[DAFT], part), f"ours {median(part):.1f} s"
        record(NAME, f"{title}: Daft / the part of ours that Daft does too", ratio, at_least=1.2, note=note)
        most = 0.35 if large else 0.8
        ratio, note = rounds.peak(OURS) / rounds.peak(DAFT), f"{rounds.peak(OURS):.2f} and {rounds.peak(DAFT):.2f} GiB"
        record(NAME, f"{title}: peak memory, ours / Daft's", ratio, at_most=most, note=note)
    else:
        print("Daft was left out: make peers")
    ratio = median_ratio(seconds[LOOP], seconds[OURS])
    record(NAME, f"{title}: loop without a framework / ours", ratio, note=rounds.note(LOOP, OURS))
    ratio, most = median_ratio(seconds[OURS], seconds[BARE]), 1.1 if large else 1.25
    record(NAME, f"{title}: whole night / bare inference", ratio, at_most=most, note=rounds.note(OURS, BARE))
    for side, cosine in rounds.cosines.items():
        what = f"{title}: lowest cosine of a user's vectors, ours and {side}'s"
        record(NAME, what, cosine, at_least=ALIKE, note=f"{cosine:.7f}")
    if ONE in seconds:
        ratio = median_ratio(seconds[ONE], seconds[OURS])
        record(NAME, f"{title}: 1 worker / 2 workers", ratio, at_least=1.75, note=rounds.note(ONE, OURS))
    if large:
        record(NAME, f"{title}: peak memory", rounds.peak(OURS), at_most=4, unit="GiB")
        share = max(
            last.after_commit_s, *(last.release.timings.get(name, 0.0) for name in (CHECK, Step.CHECK_CANARIES))
        )
        record(NAME, f"{title}: longest stage in one process / night", share / last.cost.wall_s, at_most=0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--active", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=8_500_000, help="of the histories")
    parser.add_argument("--pins", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-one-worker", action="store_true", help="do not run ours with one worker too")
    parser.add_argument("--large", action="store_true", help="hold it against the goals of a million users")
    arguments = parser.parse_args()
    daft = os.path.exists(DAFT_PYTHON)
    sizes = [f"{getattr(arguments, name):,}" for name in ("active", "users", "pins")]
    with tempfile.TemporaryDirectory() as folder:
        print("making histories, and a night that embeds and indexes the pins", flush=True)
        world = make_world(folder, arguments.users, arguments.active, arguments.rows, arguments.pins)
        world.add_night("all", arguments.active)
        rounds = Rounds()
        for _ in range(arguments.rounds):
            run_round(world, "all", rounds, daft, not arguments.no_one_worker)
    record_figures(rounds, "{} active of {} users, {} pins".format(*sizes), arguments.large)
    record_pins(world, rounds.nights[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
