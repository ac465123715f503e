"""What the benchmarks share: alternating rounds, medians, memory of a tree of processes."""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator

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
