"""How far a run is: its stages, which of them are done, how long the rest is likely to take. Shows nothing."""

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

from stores.names import Step

STEPS: dict[Step, tuple[str, str]] = {  # step -> (label, what a unit is)
    Step.READ_LOGS: ("read logs", "rows"),
    Step.REPLAY_BUCKETS: ("replay buckets", "bucket-days"),
    Step.UPDATE_HISTORIES: ("update histories", "active users"),
    Step.BUILD_TIMELINES: ("build timelines", "users"),
    Step.COUNT_PAIRS: ("count pairs", "users"),
    Step.KEEP_NEIGHBOURS: ("keep neighbours", "pins"),
    Step.JOIN_VECTORS: ("join vectors", "history rows"),
    Step.EMBED_USERS: ("embed users", "users"),
    Step.MERGE_SNAPSHOT: ("merge snapshot", "users"),
    Step.SHARD_PINS: ("sort vectors", "pins"),
    Step.EMBED_PINS: ("embed pins", "pins"),
    Step.BUILD_INDEXES: ("build indexes", "pins"),
    Step.FINISH: ("check, commit, publish", "releases"),
}
# Engines give a bucket to these when every row is read.
AFTER_READING = (Step.UPDATE_HISTORIES, Step.REPLAY_BUCKETS, Step.BUILD_TIMELINES, Step.COUNT_PAIRS)
SILENT_S = 60.0  # where nothing ends for so long, a line says what is being done
TELLS_FROM = 0.05  # of the work: from there on the pace so far says how long the rest takes


class ProgressLog:
    """Adds up the lines that workers append under `staging/<run>/progress/`."""

    def __init__(self, folder: str):
        self._folder = folder
        self._read: dict[str, int] = {}
        self.units: dict[str, int] = defaultdict(int)
        self.tasks: dict[str, int] = defaultdict(int)

    def update(self) -> None:
        """Reads what was appended since the last call; a line still being written is left for the next."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return
        for name in names:
            with open(os.path.join(self._folder, name), "rb") as file:
                file.seek(self._read.get(name, 0))
                data = file.read()
            # A worker may be in the middle of a line; what is read twice would be counted twice.
            whole = data[: data.rfind(b"\n") + 1]
            self._read[name] = self._read.get(name, 0) + len(whole)
            for line in whole.splitlines():
                found = json.loads(line)
                self.units[found["step"]] += found["units"]
                self.tasks[found["step"]] += found["tasks"]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is known of a run's work before it begins; what an earlier attempt did is not part of it.

    Attributes:
        units: Of a step: rows, users or pins.
        tasks: Of a step: buckets, shards or releases.
        seconds: Of work that a step is likely to be; steps that are not named have none.
        wall_s: What all is likely to take; None if nothing tells.
        interleaved: Whether each bucket goes through the users' steps by itself, as in a backfill.
    """

    units: Mapping[Step, int] = dataclasses.field(default_factory=dict)
    tasks: Mapping[Step, int] = dataclasses.field(default_factory=dict)
    seconds: Mapping[Step, float] = dataclasses.field(default_factory=dict)
    wall_s: float | None = None
    interleaved: bool = False


@dataclasses.dataclass(frozen=True)
class Stage:
    """How far a step is that has begun.

    Attributes:
        total: Units in all; None as long as nobody knows.
        share: Of it that is done, 0 to 1; None as long as nobody knows.
    """

    step: Step
    units: int
    total: int | None
    share: float | None
    done: bool

    @property
    def label(self) -> str:
        return STEPS[self.step][0]

    @property
    def counted(self) -> str:
        """What it has done, in words."""
        of = f" of {self.total:,}" if self.total is not None and not self.done else ""
        unit = STEPS[self.step][1]
        return f"{self.units:,}{of} {unit.removesuffix('s') if self.units == 1 and not of else unit}"


def stages_of(log: ProgressLog, work: Work, *, ended: bool = False) -> list[Stage]:
    """The stages that have begun, in their order.

    Args:
        ended: Whether the run is over, and all that has begun is done.
    """
    begun = {step for step in STEPS if log.units[step] or log.tasks[step]}

    def is_done(step: Step) -> bool:
        tasks, units = work.tasks.get(step), work.units.get(step)
        if (
            ended
            or (tasks is not None and log.tasks[step] >= tasks)
            or (units is not None and log.units[step] >= units)
        ):
            return True
        if step == Step.READ_LOGS:
            return bool(begun & set(AFTER_READING))
        if step in (Step.JOIN_VECTORS, Step.EMBED_USERS):
            # How many slices there are nobody says; but the snapshot of a bucket waits for all that are of it.
            return is_done(Step.MERGE_SNAPSHOT) if work.interleaved else Step.MERGE_SNAPSHOT in begun
        return False

    found = []
    for step in STEPS:
        if step not in begun:
            continue
        done, total, tasks = is_done(step), work.units.get(step), work.tasks.get(step)
        if step == Step.EMBED_USERS and is_done(Step.UPDATE_HISTORIES):
            total = log.units[Step.UPDATE_HISTORIES]  # known once every history is up to date
        share = 1.0 if done else None
        if not done and total:
            share = min(1.0, log.units[step] / total)
        elif not done and tasks:
            share = min(1.0, log.tasks[step] / tasks)
        found.append(Stage(step, log.units[step], total, share, done))
    return found


def seconds_left(stages: Sequence[Stage], work: Work, elapsed_s: float) -> tuple[float, float] | None:
    """(share of the work that is done, seconds that the rest is likely to take); None as long as nothing tells.

    How long all takes is foretold by the releases before and by the pace so far; the more is done, the more the pace
    counts. The pace alone says nothing at the start, which is processes that load.
    """
    whole = sum(work.seconds.values())
    if not whole:
        return None
    # Of a stage whose size nobody knows yet: half, which is wrong by no more than half.
    done_s = sum(work.seconds.get(s.step, 0.0) * (0.5 if s.share is None else s.share) for s in stages)
    share = done_s / whole
    by_pace_s = elapsed_s * (1 - share) / share if share else 0.0
    if work.wall_s is None:
        return (share, by_pace_s) if share >= TELLS_FROM else None
    by_releases_s = (1 - share) * work.wall_s if share else max(0.0, work.wall_s - elapsed_s)
    return share, (1 - share) * by_releases_s + share * by_pace_s


def duration(seconds: float) -> str:
    """A duration in words, as exact as anybody wants it: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
