"""Kills runs at instants drawn over their work events, starts them again, and compares with the undisturbed run.

python -m tests.chaos --kills 200
python -m tests.chaos --pairs 200: kills a command and types another one after it; see `tests.chaos.pairs`.
"""

import argparse
import collections
import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

# Everything is imported here and no thread is started, so that every run is a fork away.
import pipelines.backfill  # noqa: F401
import pipelines.daily_inference  # noqa: F401
import pipelines.operations.retrieve  # noqa: F401
from stores.files import Root
from tests import beam_memo
from tests.chaos.events import Plan, read_log
from tests.chaos.pairs import Place, make_situations, play_all
from tests.chaos.scenarios import (
    SCENARIOS,
    Reference,
    Scenario,
    fork,
    left_in_staging,
    make_reference,
    make_world,
    read_all_the_time,
    run_daily,
    start,
    state_of,
    wait,
)
from tests.chaos.sinks import RedisSink
from tests.redis_cluster import running_cluster
from tests.redis_server import RedisServer

SHARES = {
    "a night": 0.4,
    "a night, worker processes": 0.12,
    "a new model": 0.12,
    "a backfill": 0.1,
    "a night, Redis": 0.08,
    "a new model, Redis": 0.1,
    "the first night": 0.08,
}


class Kill(NamedTuple):
    """Who dies when: see `tests.chaos.events.Plan`."""

    number: int
    victim: str = "own"
    step: str = ""

    def index(self, events: list[str]) -> int | None:
        """The index of its event among those that happened; None if it was never reached."""
        of_stage = [i for i, event in enumerate(events) if self.step in ("", event)]
        return of_stage[self.number - 1] if 0 < self.number <= len(of_stage) else None


@dataclasses.dataclass
class Tally:
    """What happened over all runs; between two looks of a reader lie `pause_s`."""

    pause_s: float
    runs: int = 0
    kills: int = 0
    twice: int = 0
    looks: int = 0
    hit: dict[str, collections.Counter] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    problems: list[str] = dataclasses.field(default_factory=list)


def disturb(scenario: Scenario, reference: Reference, world: str, folder: str, kills: list[Kill], tally: Tally) -> None:
    """Starts a run, kills it as often as told, starts it once more, and compares."""
    sink = scenario.sink
    start(reference.before, folder, sink)
    tally.runs += 1
    reader = fork(
        lambda: read_all_the_time(folder, reference, sink, f"{folder}/stop", f"{folder}/seen", tally.pause_s),
        f"{folder}/reader",
    )
    groups = []
    where = "undisturbed"
    for attempt, kill in enumerate([*kills, Kill(0)]):
        log = f"{folder}/events-{attempt}"
        plan = Plan(folder, log, *kill)
        pid = fork(lambda plan=plan: run_daily(scenario.command(world, folder), plan), f"{folder}/said-{attempt}")
        groups.append(pid)
        code = wait(pid, log)
        events = read_log(log) if os.path.exists(log) else []
        if code is None:
            with open(f"{folder}/said-{attempt}") as file:
                tally.problems.append(f"{scenario.name}, {kill}: hung: {file.read()[-6000:]}")
        reached = kill.index(events)
        if reached is not None:
            where = f"{scenario.name}, killed at event {reached + 1} ({events[reached]}, {kill.victim})"
            tally.kills += 1
            tally.twice += attempt > 0
            tally.hit[scenario.name][events[reached]] += 1
            # The driver dies, or says that a worker did; but its last event may be the last thing it does.
            if code == 0 and "worker" not in scenario.name:
                tally.problems.append(f"{where}: it ended with exit code 0")
        elif code != 0:
            with open(f"{folder}/said-{attempt}") as file:
                tally.problems.append(f"{where}: started again, it ended with {code}: {file.read()[-2000:]}")
    for group in groups:  # workers that outlived their driver
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
    open(f"{folder}/stop", "w").close()
    wait(reader)
    compare(scenario, reference, folder, where, tally)


def compare(scenario: Scenario, reference: Reference, folder: str, where: str, tally: Tally) -> None:
    """Notes every difference between a run's end and the undisturbed one's, and what the reader saw."""
    try:
        state = state_of(folder, scenario.sink)
        for what, expected in reference.after.items():
            if state[what] != expected:
                tally.problems.append(f"{where}: {what} differs: {difference(state[what], expected)}")
        left = left_in_staging(Root(f"{folder}/root"))
        if left:
            tally.problems.append(f"{where}: left behind in staging: {left}")
        with open(f"{folder}/seen") as file:
            seen = json.load(file)
        tally.looks += seen["looks"]
        tally.problems += [f"{where}: the reader: {problem}" for problem in seen["problems"]]
    except (OSError, ValueError, AssertionError) as error:
        tally.problems.append(f"{where}: {type(error).__name__}: {error}")


def difference(found, expected, path: str = "") -> str:
    """Where two JSON values first differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            if found.get(key) != expected.get(key):
                return difference(found.get(key), expected.get(key), f"{path}/{key}")
    return f"{path}: {str(found)[:200]} instead of {str(expected)[:200]}"


def draw(scenario: Scenario, events: int, count: int, seed: int) -> list[list[Kill]]:
    """Kills of `count` runs, one drawn in each of `count` equal stretches of the events; every fourth dies twice."""
    dice = random.Random(f"{scenario.name} {seed}")
    drawn = []
    for i in range(count):
        victims = ["own", "driver"] if scenario.workers else ["own"]
        number = min(events, 1 + int((i + dice.random()) * events / count))
        kills = [Kill(number, dice.choice(victims))]
        if i % 4 == 3:
            kills.append(Kill(1 + dice.randrange(events // 2)))
        drawn.append(kills)
    dice.shuffle(drawn)
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="runs to kill (200; none if --pairs is given)")
    parser.add_argument("--pairs", type=int, default=0, help="commands to kill and to follow by another one")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no pair after so long")
    parser.add_argument("--seed", type=int, default=1, help="of the instants drawn (%(default)s)")
    names = [s.name for s in SCENARIOS]
    parser.add_argument("--scenario", choices=names, action="append", help="only this one; may be given several times")
    parser.add_argument(
        "--every-step", action="store_true", help="aim at the steps that the draw left out; fail if one was never hit"
    )
    parser.add_argument(
        "--pause", type=float, default=0.002, help="seconds between two looks of the reader (%(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that differs")
    arguments = parser.parse_args()
    if arguments.kills is None:
        arguments.kills = 0 if arguments.pairs else 200
    began = time.monotonic()
    beam_memo.install()
    tally = Tally(arguments.pause)
    place = tempfile.mkdtemp(prefix="pinnerformer-chaos-")
    os.makedirs(f"{place}/world")
    fork_and_wait(lambda: make_world(f"{place}/world") or 0, f"{place}/said")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then too
    server = RedisServer(place)
    try:
        code = run_pairs(arguments, place, server.port) if arguments.pairs else 0
        return max(code, run_all(arguments, place, RedisSink(server.port), tally, began) if arguments.kills else 0)
    finally:
        server.stop()


def run_pairs(arguments: argparse.Namespace, folder: str, port: int) -> int:
    """Plays the pairs that were asked for; returns the exit code."""
    with running_cluster(folder) as cluster:
        place = Place(folder, port, cluster)
        fork_and_wait(lambda: make_situations(place) or 0, f"{folder}/said")
        return play_all(place, arguments.pairs, arguments.seed, arguments.seconds, arguments.keep, print)


def run_all(arguments: argparse.Namespace, place: str, server: RedisSink, tally: Tally, began: float) -> int:
    """Runs every scenario that was asked for; returns the exit code."""
    references: dict[str, Reference] = {}
    scenarios = [dataclasses.replace(s, sink=server) if s.redis else s for s in SCENARIOS]
    chosen = [s for s in scenarios if not arguments.scenario or s.name in arguments.scenario]
    first = make_reference(scenarios[-1], f"{place}/world", None, f"{place}/first")
    if any(s.redis for s in chosen):
        make_reference(dataclasses.replace(scenarios[-1], sink=server), f"{place}/world", None, f"{place}/first-redis")
    for scenario in chosen:
        before = None if scenario.number == 0 else f"{place}/first{'-redis' if scenario.redis else ''}"
        folder = f"{place}/undisturbed-{len(references)}"
        made = make_reference(scenario, f"{place}/world", before, folder)
        references[scenario.name] = made
        if scenario.number == 0 and made.after != first.after:
            tally.problems.append(f"{scenario.name}: two undisturbed runs differ")
        print(f"{scenario.name}: {len(made.events)} events undisturbed", flush=True)
    total = sum(SHARES[s.name] for s in chosen)
    for scenario in chosen:
        count = max(1, round(arguments.kills * SHARES[scenario.name] / total))
        events = len(references[scenario.name].events)
        for i, kills in enumerate(draw(scenario, events, count, arguments.seed)):
            run_one(scenario, references, kills, place, arguments.keep, tally)
            if (i + 1) % 10 == 0:
                print(f"[{time.monotonic() - began:5.0f} s] {scenario.name}: {i + 1} of {count}", flush=True)
    if arguments.every_step:
        for step in never_hit(references, tally):
            for scenario, kills in aim(step, chosen, references, arguments.seed):
                run_one(scenario, references, kills, place, arguments.keep, tally)
                if hits(step, tally):
                    break
            print(f"[{time.monotonic() - began:5.0f} s] aimed at {step}: {hits(step, tally)} hit", flush=True)
    code = report(tally, references, arguments.every_step, time.monotonic() - began)
    if not (code and arguments.keep):
        shutil.rmtree(place)
    return code


def run_one(
    scenario: Scenario,
    references: dict[str, Reference],
    kills: list[Kill],
    place: str,
    keep: bool,
    tally: Tally,
) -> None:
    """One run, disturbed as told; prints what was wrong with it, and keeps its folder then if asked."""
    folder, problems = f"{place}/run", len(tally.problems)
    disturb(scenario, references[scenario.name], f"{place}/world", folder, kills, tally)
    if len(tally.problems) > problems:
        print("\n".join(tally.problems[problems:]), flush=True)
        if keep:
            shutil.copytree(folder, f"{place}/differs-{tally.runs}")
    shutil.rmtree(folder)


def hits(step: str, tally: Tally) -> int:
    """How often a run was killed in a step."""
    return sum(counter[step] for counter in tally.hit.values())


def never_hit(references: dict[str, Reference], tally: Tally) -> list[str]:
    """The steps in which no run was killed."""
    steps = {step for reference in references.values() for step in reference.events}
    return sorted(step for step in steps if not hits(step, tally))


def aim(
    step: str, chosen: list[Scenario], references: dict[str, Reference], seed: int
) -> Iterator[tuple[Scenario, list[Kill]]]:
    """Kills at events of one step, which a uniform draw left out; four tries at most, as a run may have fewer."""
    dice = random.Random(f"{step} {seed}")
    having = [s for s in chosen if step in references[s.name].events]
    for _ in range(4):
        scenario = dice.choice(having)
        yield scenario, [Kill(1 + dice.randrange(references[scenario.name].events.count(step)), "own", step)]


def fork_and_wait(body, output: str) -> None:
    code = wait(fork(body, output))
    if code != 0:
        with open(output) as file:
            raise AssertionError(file.read())


def report(tally: Tally, references: dict[str, Reference], every_step: bool, seconds: float) -> int:
    """Prints the table of steps hit; returns the exit code."""
    steps = sorted({step for reference in references.values() for step in reference.events})
    width = max(map(len, steps))
    print(f"\n{'step':{width}}  events  kills   (events of one undisturbed run of each kind)")
    for step in steps:
        events = sum(reference.events.count(step) for reference in references.values())
        print(f"{step:{width}}  {events:6}  {hits(step, tally):5}")
    print(
        f"\n{tally.runs} runs, {tally.kills} kills ({tally.twice} of runs already killed once), {tally.looks:,} looks "
        f"of the reader, {len(tally.problems)} problems, {seconds:.0f} s"
    )
    missed = never_hit(references, tally) if every_step else []
    if missed:
        print(f"never hit: {', '.join(missed)}")
    for problem in tally.problems:
        print(problem)
    return 1 if tally.problems or missed or not tally.looks else 0


if __name__ == "__main__":
    sys.exit(main())
