"""Runs the tasks of a study in worker processes; what is finished is not done again."""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import json
import multiprocessing
import os
import time
from typing import Any

from pipelines.launch.stages import duration
from pipelines.study.cells import Task, run_task
from pipelines.study.parts import Source
from pipelines.study.workers import start_worker
from pipelines.telemetry.lines import say
from stores.errors import StoreError
from stores.files import replace_atomically


@dataclasses.dataclass(frozen=True)
class Progress:
    """Plain lines: what is done, and when the rest will be."""

    total: int
    started: float

    def say(self, done: int, name: str) -> None:
        """One line per finished cell."""
        elapsed = time.monotonic() - self.started
        left = elapsed / done * (self.total - done)
        text = f"[{elapsed:6.0f} s] {done}/{self.total} {name}" + (f"; about {duration(left)} left" if left else "")
        figures: dict[str, Any] = {
            "elapsed_s": round(elapsed, 1),
            "left_s": round(left, 1),
            "done": done,
            "total": self.total,
        }
        say(text, stage="study", **figures)


def read_result(path: str) -> dict[str, Any]:
    """A result as it lies on disk."""
    with open(path) as file:
        return json.load(file)


def write_result(path: str, value: dict[str, Any]) -> None:
    """Writes a result whole or not at all."""
    with replace_atomically(path) as temporary, open(temporary, "w") as file:
        json.dump(value, file, indent=1)


def is_of(path: str, wanted: dict[str, Any]) -> bool:
    """Whether a result is there, and is of this very task.

    Raises:
        StoreError: there is a result of other data or settings.
    """
    try:
        found = read_result(path)["identity"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{path}: not a result of a study; remove it and run the study again") from None
    wanted = json.loads(json.dumps(wanted))
    if found != wanted:
        other = next(key for key in {**wanted, **found} if found.get(key) != wanted.get(key))
        raise StoreError(
            f"{path}: of another study ({other} differs); name another --out, or remove the folder to start over"
        )
    return True


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs tasks until time runs out.

    Attributes:
        source, digest: Of the data.
        workers: Processes at most.
        until: By the monotonic clock; no task is started after it.
    """

    source: Source
    digest: str
    workers: int
    until: float

    def is_finished(self, task: Task) -> bool:
        """See `is_of`."""
        return is_of(task.path, task.identity(self.source, self.digest))

    def run(self, tasks: list[Task]) -> int:
        """Runs what is not finished yet, in order; returns how many were left out because time ran out."""
        pending = [task for task in tasks if not self.is_finished(task)]
        if not pending:
            return 0
        for task in pending:
            os.makedirs(os.path.dirname(task.path), exist_ok=True)
        progress = Progress(len(pending), time.monotonic())
        waiting = list(reversed(pending))
        if min(self.workers, len(pending)) > 1:
            return self._in_processes(waiting, progress)
        start_worker()  # in this process: no second one to start
        while waiting and time.monotonic() < self.until:
            progress.say(len(pending) - len(waiting) + 1, run_task(self.source, waiting.pop()))
        return len(waiting)

    def _in_processes(self, waiting: list[Task], progress: Progress) -> int:
        done, workers = 0, min(self.workers, len(waiting))
        # Not forked: torch's threads do not live through a fork.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as pool:
            running: set[concurrent.futures.Future] = set()
            while running or (waiting and time.monotonic() < self.until):
                while waiting and len(running) < workers and time.monotonic() < self.until:
                    running.add(pool.submit(run_task, self.source, waiting.pop()))
                finished, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in finished:
                    done += 1
                    try:
                        progress.say(done, future.result())
                    except concurrent.futures.process.BrokenProcessPool:
                        raise StoreError(
                            "a worker process ended before its cell was done (out of memory?); run the same command "
                            "again to go on, with fewer --workers if it happens again"
                        ) from None
        return len(waiting)
