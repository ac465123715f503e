"""What every task of a step reports back: seconds, counters, bounds, files, failures."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stores.files import FileEntry
from stores.upgrades import FILE_ENTRY, REPORT, read_record

NAMES_AT_ONCE = 1_000  # files and failures that one element of a pipeline names at most, 0.3 MB


@dataclasses.dataclass
class StepReport:
    """What one task of a step, or all of them together, did.

    Attributes:
        seconds: Of work, summed over tasks.
        tasks: How many.
        counters: Name -> sum.
        lowest: Name -> minimum over tasks.
        highest: Name -> maximum over tasks.
        histograms: Name -> counts per bin, summed.
        files: Table name -> files written or carried over.
        failures: (user_id, why) of users that could not be embedded.
        facts: Part, as text -> what the next release compares its own with.
        began, ended: Of the first task and of the last, seconds since 1970 by the clocks of whoever did them; None of
            what was not done tonight. For the report: nothing is computed from them.
    """

    seconds: float = 0.0
    tasks: int = 0
    counters: dict[str, int] = dataclasses.field(default_factory=dict)
    lowest: dict[str, float] = dataclasses.field(default_factory=dict)
    highest: dict[str, float] = dataclasses.field(default_factory=dict)
    histograms: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    files: dict[str, list[FileEntry]] = dataclasses.field(default_factory=dict)
    failures: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    facts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    began: float | None = None
    ended: float | None = None

    def add(self, other: "StepReport") -> None:
        """Adds another task's report to this one."""
        self.seconds += other.seconds
        self.tasks += other.tasks
        for name, number in other.counters.items():
            self.counters[name] = self.counters.get(name, 0) + number
        for name, value in other.lowest.items():
            self.lowest[name] = min(self.lowest.get(name, value), value)
        for name, value in other.highest.items():
            self.highest[name] = max(self.highest.get(name, value), value)
        for name, counts in other.histograms.items():
            before = self.histograms.get(name, [0] * len(counts))
            self.histograms[name] = [a + b for a, b in zip(before, counts, strict=True)]
        for table, entries in other.files.items():
            self.files.setdefault(table, []).extend(entries)
        self.failures += other.failures
        self.facts |= other.facts
        self.began = min((moment for moment in (self.began, other.began) if moment is not None), default=None)
        self.ended = max((moment for moment in (self.ended, other.ended) if moment is not None), default=None)

    def without_names(self) -> "StepReport":
        """The report without what grows with the parts of a root: files and failures."""
        return dataclasses.replace(self, files={}, failures=[])

    def names(self, limit: int) -> Iterator["StepReport"]:
        """Reports of nothing but the files and failures of this one, at most `limit` of them in each."""
        for table, entries in self.files.items():
            for start in range(0, len(entries), limit):
                yield StepReport(files={table: entries[start : start + limit]})
        for start in range(0, len(self.failures), limit):
            yield StepReport(failures=self.failures[start : start + limit])

    def of_before(self) -> "StepReport":
        """The report of what was not done tonight: it says what there is, and took no time."""
        return dataclasses.replace(self, seconds=0.0, tasks=0, began=None, ended=None)

    def count_names(self) -> int:
        """Files and failures."""
        return sum(map(len, self.files.values())) + len(self.failures)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "StepReport":
        """Reads a report that was written as a plain dict.

        Raises:
            TypeError, ValueError, AttributeError: it is something else.
        """
        report = read_record(REPORT, cls, found, "report")
        report.files = {
            table: [read_record(FILE_ENTRY, FileEntry, entry, table) for entry in entries]
            for table, entries in report.files.items()
        }
        report.failures = [(user, why) for user, why in report.failures]
        return report


def task_report(
    started: float,
    counters: Mapping[str, int],
    *,
    files: Mapping[str, Iterable[FileEntry]] | None = None,
    lowest: Mapping[str, float] | None = None,
    highest: Mapping[str, float] | None = None,
    histograms: Mapping[str, list[int]] | None = None,
    failures: Iterable[tuple[int, str]] = (),
    facts: Mapping[str, dict[str, Any]] | None = None,
) -> StepReport:
    """What one task of a step did.

    Args:
        started: `time.perf_counter()` when the task's work began.
    """
    seconds, now = time.perf_counter() - started, time.time()
    return StepReport(
        seconds=seconds,
        tasks=1,
        counters={name: int(number) for name, number in counters.items()},
        lowest=dict(lowest or {}),
        highest=dict(highest or {}),
        histograms=dict(histograms or {}),
        files={table: list(entries) for table, entries in (files or {}).items()},
        failures=list(failures),
        facts=dict(facts or {}),
        began=round(now - seconds, 3),
        ended=round(now, 3),
    )
