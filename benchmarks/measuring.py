"""What the benchmarks share: alternating rounds, medians, memory of a tree of processes."""

import contextlib
import ctypes
import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import psutil


def alternate(rounds: int, candidates: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Runs A, B, A, B, ... so that a busy machine is busy for both.

    Args:
        candidates: Name -> runs once and returns its figure.

    Returns:
        Name -> figures, one a round.
    """
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name, once in candidates.items():
            figures[name].append(once())
            print(f"  round {number + 1}: {name}: {figures[name][-1]:,.0f}", flush=True)
    return figures


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median over the rounds of above / below."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@contextlib.contextmanager
def peak_pss(pid: int, every_s: float = 0.5) -> Iterator[list[int]]:
    """Watches a process and its descendants; yields [peak bytes of their proportional set size together].

    A look at a large process takes tens of milliseconds, in which it can map no memory: looking every half second cost
    inference 5 %. So a hundred times as long as a look took passes before the next.
    """
    peak, stop = [0], threading.Event()

    def watch() -> None:
        root = psutil.Process(pid)
        took = 0.0
        while not stop.wait(max(every_s, 100 * took)):
            total, started = 0, time.perf_counter()
            with contextlib.suppress(psutil.Error):
                for process in [root, *root.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_full_info().pss
            peak[0] = max(peak[0], total)
            took = time.perf_counter() - started

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def wall(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall_s: Seconds of the clock, from its start to its end.
        cpu_s: Seconds of CPU, user and system, of its whole tree of processes.
        peak_bytes: Of the proportional set sizes of that tree together.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int


def run_measured(command: Sequence[str], environment: Mapping[str, str], log: str) -> Cost:
    """Runs a command to its end.

    Args:
        environment: Set beside what is set here.
        log: The file that gets what it prints.

    Raises:
        RuntimeError: it failed; says how, with the last lines that it printed.
    """
    adopt_orphans()
    others = {child.pid for child in psutil.Process().children()}
    before, started = _seconds_of_children(), time.perf_counter()
    with open(log, "w") as output:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
        with peak_pss(process.pid) as peak:
            code = process.wait()
    wall_s = time.perf_counter() - started
    _wait_for_orphans(others)
    if code:
        with open(log) as output:
            last = "".join(output.readlines()[-20:])
        raise RuntimeError(f"exit code {code}: {' '.join(command)}\n{last}")
    return Cost(wall_s, _seconds_of_children() - before, peak[0])


def adopt_orphans() -> None:
    """Makes this process the parent of what its descendants leave behind, so that the CPU they take is counted."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _wait_for_orphans(others: set[int], at_most_s: float = 10) -> None:
    """Waits for what a command left behind; what stays is let be.

    Args:
        others: Children that were there before.
    """
    until = time.perf_counter() + at_most_s
    for child in psutil.Process().children():
        if child.pid not in others:
            with contextlib.suppress(psutil.Error):
                child.wait(timeout=max(0, until - time.perf_counter()))


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
