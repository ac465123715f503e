"""Shows how far a run is: live on a terminal, plain lines elsewhere."""

import json
import os
import sys
import threading
import time
from collections import defaultdict

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)

from stores.names import Step
from transforms.run import RunFolder

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


class Progress:
    """Watches a run while the body of the `with` runs.

    Args:
        run: What to watch.
        buckets: Of users.
        rows: Log rows to read.
        pins: Pins to embed and index.
        bucket_days: Buckets times days, of a backfill.
        releases: To check and commit.
        shown: Show nothing if false.
        every_s: Seconds between two plain lines, where stderr is no terminal.
    """

    def __init__(
        self,
        run: RunFolder,
        buckets: int,
        *,
        rows: int,
        pins: int,
        bucket_days: int = 0,
        releases: int = 1,
        shown: bool = True,
        every_s: float = 10.0,
    ):
        self._run = run
        self._totals = {Step.READ_LOGS: rows, Step.SHARD_PINS: pins, Step.EMBED_PINS: pins, Step.BUILD_INDEXES: pins}
        self._totals |= {Step.FINISH: releases}
        self._totals |= {Step.REPLAY_BUCKETS: bucket_days} if bucket_days else {}
        self._buckets = bucket_days or buckets
        self._shown = shown
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        folder = self._run.progress_folder
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            os.unlink(os.path.join(folder, name))
        if self._shown:
            self._log = ProgressLog(folder)
            target = self._draw if sys.stderr.isatty() else self._print
            self._thread = threading.Thread(target=target, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _total(self, step: Step) -> int | None:
        if step in self._totals:
            return self._totals[step]
        buckets_done = self._log.tasks[Step.UPDATE_HISTORIES] >= self._buckets
        if step == Step.EMBED_USERS and buckets_done:  # how many there are is known once every history is up to date
            return self._log.units[Step.UPDATE_HISTORIES]
        return None

    def _draw(self) -> None:
        bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        tasks = {}
        began: dict[str, float] = {}
        with bars:
            last = False
            while not last:
                last = self._stop.wait(0.3)
                self._log.update()
                for step, (label, unit) in STEPS.items():
                    units = self._log.units[step]
                    if not units and not self._log.tasks[step]:
                        continue
                    began.setdefault(step, time.perf_counter())
                    if step not in tasks:
                        tasks[step] = bars.add_task(label, total=None, done="")
                    rate = units / max(1e-3, time.perf_counter() - began[step])
                    shown = f"{units:,} {unit}" + (f"  {rate:,.0f}/s" if step == Step.EMBED_USERS else "")
                    bars.update(tasks[step], completed=units, total=self._total(step), done=shown)

    def _print(self) -> None:
        started, said = time.perf_counter(), ""
        last = False
        while not last:
            last = self._stop.wait(self._every_s)
            self._log.update()
            words = []
            for step, (label, unit) in STEPS.items():
                units, total = self._log.units[step], self._total(step)
                if units:
                    words.append(f"{label} {units:,}{f' of {total:,}' if total else ''} {unit}")
            text = "; ".join(words)
            if text and text != said:
                print(f"[{time.perf_counter() - started:6.0f} s] {text}", file=sys.stderr, flush=True)
                said = text
