"""The drift gate: how often it closes on days that are alike, and how small a fault it finds.

    .venv/bin/python -m benchmarks.drift [--users 20000] [--pins 20000] [--nights 21] [--trials 10000]

Runs the daily job for so many nights on a synthetic world in which every day is made by the same rules, and compares
each night's distribution of "cosine to yesterday" with the one before, as the gate does. Then draws days of other sizes
from the nights' own histograms: pairs from ONE histogram are equal days, and every closing is a false alarm; in the
other pairs a share of the users gets a vector of no relation to yesterday's (cosine 0).
"""

import argparse
import datetime
import itertools
import os
import sys
import tempfile

import numpy as np

from pipelines.cli import main as pinnerformer
from stores.files import Root
from stores.releases import chain
from transforms.gates.drift import EDGES, HISTOGRAM, MAX_COSINE_DRIFT, ks_distance

START = datetime.date(2026, 11, 1)
SIZES = (100, 1_000, 10_000, 100_000)
SHARES = (0.05, 0.1, 0.2, 0.3)


def run_nights(folder: str, users: int, pins: int, nights: int, preset: str) -> list[list[int]]:
    """Histograms of the nights, oldest first; the bootstrap has none."""
    world = [f"--users={users}", f"--pins={pins}", f"--start={START}", f"--days={nights + 8}", "--seed=1"]
    assert pinnerformer(["synth", f"--out={folder}/world", *world]) == 0
    inputs = [f"--logs={folder}/world/logs", f"--pins={folder}/world/pins"]
    assert pinnerformer(["init-model", f"--preset={preset}", *inputs, f"--out={folder}/model", "--seed=1"]) == 0
    flags = ["daily", f"--root={folder}/root", *inputs, f"--model={folder}/model", "--publish=none", "--quiet"]
    for number in range(nights + 1):
        date = START + datetime.timedelta(7 + number)
        first = [f"--bootstrap-from={START}"] if not number else []
        code = pinnerformer([*flags, f"--date={date}", *first])
        if code:
            sys.exit(code)
        print(f"  night {number} of {nights}", flush=True)
    found = [manifest.statistics[HISTOGRAM] for manifest in chain(Root(f"{folder}/root"))]
    return [histogram for histogram in reversed(found) if sum(histogram)]


def closes(a: np.ndarray, b: np.ndarray) -> bool:
    distance, chance = ks_distance(a.tolist(), b.tolist())
    return distance > MAX_COSINE_DRIFT.default + chance


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--pins", type=int, default=20_000)
    parser.add_argument("--nights", type=int, default=21)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--preset", default="tiny")
    arguments = parser.parse_args()
    # Embedded with whatever weights `init-model` draws: the gate looks at how vectors move, not at what they mean.
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        histograms = run_nights(folder, arguments.users, arguments.pins, arguments.nights, arguments.preset)
    found = [ks_distance(a, b) for a, b in itertools.pairwise(histograms)]
    distances = np.array([distance for distance, _ in found])
    alarms = sum(closes(np.array(a), np.array(b)) for a, b in itertools.pairwise(histograms))
    print(f"\n{len(found)} pairs of consecutive nights of {np.mean([sum(h) for h in histograms]):,.0f} users:")
    print(f"  KS distance median {np.median(distances):.4f}, largest {distances.max():.4f}; closed on {alarms}")
    random = np.random.default_rng(1)
    shares = np.array(histograms[-1]) / sum(histograms[-1])
    moved = np.zeros(len(shares))
    moved[np.searchsorted(EDGES, 1.0) - 1] = 1.0
    print(f"\nclosed, of {arguments.trials:,} pairs drawn (largest of 0 to compare: 3 / trials at 95 %):")
    print(f"  {'users per day':>12}  {'equal days':>10}  " + "  ".join(f"{s:.0%} broken" for s in SHARES))
    for size in SIZES:
        row = []
        for share in (0.0, *SHARES):
            days = random.multinomial(size, shares, arguments.trials)
            others = random.multinomial(size, (1 - share) * shares + share * moved, arguments.trials)
            row.append(np.mean([closes(a, b) for a, b in zip(days, others, strict=True)]))
        print(f"  {size:>12,}  {row[0]:>10.4%}  " + "  ".join(f"{r:>10.2%}" for r in row[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
