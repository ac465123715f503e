"""The learning rate of every objective: from a grid whose best is not at its edge."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from pipelines.study.cells import Task
from pipelines.study.running import Runner, read_result

FACTOR = 2.0  # by which a grid is widened
Key = tuple[str, int]  # objective, fold


@dataclasses.dataclass(frozen=True)
class Rates:
    """What was tried and chosen.

    Attributes:
        chosen: (objective, fold) -> the rate that the fold's choosing users like best.
        tried: (objective, fold) -> rate -> their figure.
        at_edge: Of `chosen`, those that stand at the edge of their grid all the same.
    """

    chosen: dict[Key, float]
    tried: dict[Key, dict[float, float]]
    at_edge: tuple[Key, ...]

    def and_of(self, other: "Rates") -> "Rates":
        """Those of other objectives too."""
        return Rates({**self.chosen, **other.chosen}, {**self.tried, **other.tried}, self.at_edge + other.at_edge)


def next_rate(values: dict[float, float]) -> float | None:
    """The rate to try next: past the best one, if that stands at an edge; None: it does not."""
    best = max(values, key=lambda rate: values[rate])
    if best == max(values):
        return best * FACTOR
    return best / FACTOR if best == min(values) else None


def choose_rates(
    runner: Runner,
    keys: Sequence[Key],
    grid: Sequence[float],
    widenings: int,
    make_try: Callable[[Key, float], Task],
    figure: str,
) -> Rates:
    """Tries a grid for every objective and fold, and widens it while the best is at its edge.

    Args:
        keys: In order of importance.
        grid: One rate: it is taken, and nothing tried.
        widenings: At most so often.
        make_try: -> the task that tries a rate.
        figure: What the choosing users judge by.
    """
    if len(grid) == 1:
        return Rates({key: grid[0] for key in keys}, {}, ())
    asked = {key: list(grid) for key in keys}
    tried: dict[Key, dict[float, float]] = {}
    for turn in range(widenings + 1):
        runner.run([make_try(key, rate) for key, rates in asked.items() for rate in rates])
        for key, rates in asked.items():
            for rate in rates:
                path = make_try(key, rate).path
                if os.path.exists(path):
                    tried.setdefault(key, {})[rate] = read_result(path)["choice"]["once"][figure][0]
        if turn == widenings:
            break
        wider = {key: next_rate(values) for key, values in tried.items()}
        asked = {key: [rate] for key, rate in wider.items() if rate is not None}
        if not asked:
            break
    chosen = {key: max(values, key=lambda rate: values[rate]) for key, values in tried.items()}
    return Rates(chosen, tried, tuple(key for key, values in tried.items() if next_rate(values) is not None))
