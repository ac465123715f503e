"""Reports of tasks, added up: sums, extremes, histograms, files, failures."""

import dataclasses
import random

from stores.files import FileEntry
from transforms.report_outputs import MergeReports
from transforms.step_reports import StepReport


def entry(name: str) -> FileEntry:
    return FileEntry(name, 0, 1, 2, "ff")


ONE = StepReport(
    seconds=1.5,
    tasks=1,
    counters={"rows": 5, "dropped": 1},
    lowest={"norm": 0.9},
    highest={"norm": 1.0},
    histograms={"moved": [1, 0, 2]},
    files={"histories": [entry("a")]},
    failures=[(7, "NaN")],
)
TWO = StepReport(
    seconds=0.5,
    tasks=2,
    counters={"rows": 2, "late": 4},
    lowest={"norm": 0.95, "cosine": 0.5},
    highest={"norm": 1.2},
    histograms={"moved": [0, 1, 1], "other": [3]},
    files={"histories": [entry("b")], "dead_letters": [entry("c")]},
    failures=[(3, "out of memory")],
)
BOTH = StepReport(
    seconds=2.0,
    tasks=3,
    counters={"rows": 7, "dropped": 1, "late": 4},
    lowest={"norm": 0.9, "cosine": 0.5},
    highest={"norm": 1.2},
    histograms={"moved": [1, 1, 3], "other": [3]},
    files={"histories": [entry("a"), entry("b")], "dead_letters": [entry("c")]},
    failures=[(7, "NaN"), (3, "out of memory")],
)


def added(*reports: StepReport) -> StepReport:
    total = StepReport()
    for report in reports:
        total.add(report)
    return total


def test_they_add_up():
    assert added() == StepReport() and added(ONE) == ONE == added(ONE, StepReport()) and added(ONE, TWO) == BOTH


def test_json_and_back():
    for report in (StepReport(), ONE, BOTH):
        assert StepReport.from_json(dataclasses.asdict(report)) == report


def test_the_engine_may_merge_them_in_any_grouping():
    """Sums and extremes are the same; files and failures come in another order, and whoever needs one sorts."""
    merge, dice = MergeReports(), random.Random(1)
    elements = [("embed", ONE), ("embed", TWO), ("join", ONE), ("embed", ONE)] * 3

    def plain(found: dict[str, StepReport]) -> dict:
        return {
            step: dataclasses.replace(
                report,
                files={table: sorted(e.path for e in entries) for table, entries in report.files.items()},
                failures=sorted(report.failures),
            )
            for step, report in found.items()
        }

    expected = {"embed": added(*[ONE, TWO, ONE] * 3), "join": added(*[ONE] * 3)}
    for _ in range(10):
        dice.shuffle(elements)
        groups = [elements[start::3] for start in range(3)]
        accumulators = []
        for group in groups:
            accumulator = merge.create_accumulator()
            for element in group:
                accumulator = merge.add_input(accumulator, element)
            accumulators.append(accumulator)
        found = merge.extract_output(merge.merge_accumulators(accumulators))
        assert plain(found) == plain(expected)
    assert ONE.counters["rows"] == 5 and len(ONE.failures) == 1, "what was added is left as it was"
