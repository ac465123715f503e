"""What a benchmark found, kept for the table that `make bench` ends with.

A benchmark calls `record` beside what it prints, and needs no flag for it: `benchmarks.everything` says in the
environment where figures are to be kept. A benchmark that is run by hand only prints them.
"""

import dataclasses
import glob
import json
import os

FILE = "BENCHMARK_FIGURES"  # environment: the file that gets them


@dataclasses.dataclass(frozen=True)
class Figure:
    """A line of the table.

    Attributes:
        benchmark: The module that measured it, without the package: "nights".
        what: As the table says it.
        value: Of `unit`; of "" a ratio.
        at_least, at_most: What it is to be; both None where there is no goal.
        unit: "s", "GiB", ...
        note: What else belongs to it: a spread, the seconds above and below.
    """

    benchmark: str
    what: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        high_enough = self.at_least is None or self.value >= self.at_least
        return high_enough and (self.at_most is None or self.value <= self.at_most)

    @property
    def goal(self) -> str:
        """The goal as the table says it."""
        words = [f">= {self.at_least:g}"] if self.at_least is not None else []
        words += [f"<= {self.at_most:g}"] if self.at_most is not None else []
        return ", ".join(words)


def record(
    benchmark: str,
    what: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    unit: str = "",
    note: str = "",
) -> Figure:
    """Prints a figure, and keeps it where `make bench` has asked for it; arguments as of `Figure`."""
    figure = Figure(benchmark, what, float(value), at_least, at_most, unit, note)
    goal = f" (to be {figure.goal})" if figure.goal else ""
    print(f"{what}: {shown(figure)}{goal}{'; ' + note if note else ''}", flush=True)
    path = os.environ.get(FILE)
    if path:
        with open(path, "a") as file:
            file.write(json.dumps(dataclasses.asdict(figure)) + "\n")
    return figure


def shown(figure: Figure) -> str:
    """A value with three figures that count, and its unit."""
    value = figure.value
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {figure.unit}" if figure.unit else text


def read_figures(folder: str) -> list[Figure]:
    """Every figure in a folder, file by file in the order of their names."""
    found = []
    for path in sorted(glob.glob(f"{glob.escape(folder)}/*.jsonl")):
        with open(path) as file:
            found += [Figure(**json.loads(line)) for line in file]
    return found
