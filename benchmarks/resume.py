"""What a night costs that was killed at 90 % of its work and started again, against an undisturbed night.

    .venv/bin/python -m benchmarks.resume [--users 200000] [--active 20000] [--rows 6000000] [--share 0.9] [--rounds 3]

Work is the parts of a night, each at the mean seconds of its kind in an undisturbed run: a run is killed (SIGKILL) when
the markers of its parts add up to the share. Each round: an undisturbed run in a process of its own, a killed one, and
the same command again; both roots start from the same release. Printed: wall seconds of the undisturbed run, of the
run that went on, and their ratio. Both include what no marker saves: the start of the process, gates, commit.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.daily import TONIGHT, make_inputs
from stores.files import Root
from stores.names import Step
from stores.releases import read_current
from stores.tables import SORTED


def command(folder: str, root: str) -> list[str]:
    """A night, as it is typed."""
    inputs = [f"--{name}={folder}/{name}" for name in ("logs", "pins", "model")]
    job = [sys.executable, "-m", "pipelines.cli", "daily", f"--root={root}", *inputs, f"--date={TONIGHT}"]
    return [*job, "--publish=none", "--quiet", "--gates", f"{folder}/gates.yaml"]


# Folder of markers -> the steps that a part of it reports.
STEPS = {
    Step.READ_LOGS: (Step.READ_LOGS,),
    Step.UPDATE_HISTORIES: (Step.UPDATE_HISTORIES,),
    Step.EMBED_USERS: (Step.JOIN_VECTORS, Step.EMBED_USERS),
    Step.MERGE_SNAPSHOT: (Step.MERGE_SNAPSHOT,),
    Step.CUT_VECTORS: (Step.SHARD_PINS,),
    Step.SHARD_PINS: (Step.SHARD_PINS,),
    Step.EMBED_PINS: (Step.EMBED_PINS,),
    Step.BUILD_INDEXES: (Step.BUILD_INDEXES,),
}


def cost_of_parts(root: str) -> dict[str, float]:
    """Folder of markers -> mean seconds of one of its parts, from the reports of a night that is over."""
    manifest = read_current(Root(root))
    assert manifest is not None and manifest.day == TONIGHT
    reports = Root(root).read_json(f"staging/{manifest.settings['run']}/staged.json")["reports"]
    mean = {step: report["seconds"] / report["tasks"] for step, report in reports.items() if report["tasks"]}
    return {folder: sum(mean[step] for step in steps) for folder, steps in STEPS.items()}


def parts_done(root: str) -> dict[str, int]:
    """Folder of markers -> how many there are."""
    found = Root(root)
    homes = [f"{home}/{name}" for home in ("staging", SORTED) for name in found.list(home)]
    return {folder: sum(len(found.list(f"{home}/done/{folder}")) for home in homes) for folder in STEPS}


def run_whole(folder: str, root: str) -> tuple[float, dict[str, int]]:
    """Runs a night; returns (wall seconds, the most markers of each kind that were seen)."""
    started = time.perf_counter()
    process = subprocess.Popen(command(folder, root))
    parts = dict.fromkeys(STEPS, 0)
    while process.poll() is None:
        parts = {name: max(count, parts[name]) for name, count in parts_done(root).items()}
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"the job ended with exit code {process.returncode}")
    return time.perf_counter() - started, parts


def run_killed(folder: str, root: str, cost: dict[str, float], work: float) -> float:
    """Starts a night and kills it when `work` seconds of its parts are done; returns the seconds it had done."""
    process = subprocess.Popen(command(folder, root))
    done = 0.0
    while done < work:
        if process.poll() is not None:
            raise RuntimeError("the run ended before it was killed: choose a smaller --share")
        done = sum(cost[name] * count for name, count in parts_done(root).items())
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--active", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--pins", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.9, help="of the work, at the kill (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(folder, arguments.users, arguments.active, arguments.rows, arguments.pins)
        with open(f"{folder}/gates.yaml", "w") as file:  # the vectors of yesterday are all alike: no gate for them
            file.write("max_alike: 1.0\nmax_users_alike: 1.0\nmin_coverage_share: 0\nmin_coverage_pins: 0\n")
            file.write("max_cosine_drift: 1.0\nmin_recall_at_10: 0.0\n")
        for number in range(arguments.rounds):
            for name in ("whole", "killed"):
                shutil.copytree(f"{folder}/root", f"{folder}/{name}")
            wall, parts = run_whole(folder, f"{folder}/whole")
            cost = cost_of_parts(f"{folder}/whole")
            work = sum(cost[name] * count for name, count in parts.items())
            done = run_killed(folder, f"{folder}/killed", cost, arguments.share * work)
            again, _ = run_whole(folder, f"{folder}/killed")
            same = read_current(Root(f"{folder}/whole")), read_current(Root(f"{folder}/killed"))
            assert same[0] is not None and same[1] is not None and same[0].tables == same[1].tables
            ratios.append(again / wall)
            print(
                f"round {number + 1}: undisturbed {wall:.1f} s; killed at {done / work:.0%} of {work:.1f} s of work, "
                f"went on in {again:.1f} s: {again / wall:.1%}",
                flush=True,
            )
            for name in ("whole", "killed"):
                shutil.rmtree(f"{folder}/{name}")
    print(
        f"a run killed at {arguments.share:.0%} of its work costs {statistics.median(ratios):.1%} of a whole one more"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
