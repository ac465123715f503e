"""Reports of tasks, added up: sums, extremes, histograms, files, failures."""

import dataclasses
import random

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from stores.files import FileEntry
from stores.names import Step
from transforms.report_outputs import CollectReports, MergeReports, with_names
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
    began=1000.5,
    ended=1002.0,
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
    began=1001.0,
    ended=1003.0,
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
    began=1000.5,
    ended=1003.0,
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


SEEN: dict[str, list] = {}


def remember(element, name: str) -> None:
    SEEN.setdefault(name, []).append(element)


def many(count: int) -> StepReport:
    """A report that names so many files, and as many failures."""
    files = {"histories": [FileEntry(f"histories/{n}", n, 1, 1, "") for n in range(count)]}
    return StepReport(
        seconds=1.0, tasks=count, counters={"rows": count}, files=files, failures=[(n, "x") for n in range(count)]
    )


def test_names_come_in_bounded_pieces_and_add_up():
    report = many(700)
    pieces = list(report.names(500))
    assert [piece.count_names() for piece in pieces] == [500, 200, 500, 200]
    assert added(report.without_names(), *pieces) == report
    assert list(StepReport(counters={"rows": 1}).names(500)) == []


def test_what_reaches_the_barrier_is_bounded_and_whole():
    """Reports of a hundred thousand files are not one element: sums without names, and names a thousand at a time."""
    elements = [
        (day, (step, many(40))) for day in range(2) for step in (Step.EMBED_USERS, Step.JOIN_VECTORS) for _ in range(30)
    ]
    elements.append((0, (Step.EMBED_USERS, many(2500))))  # what a run that goes on had done before
    seen: dict[str, list] = {"sums": [], "names": []}
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        collected = pipeline | beam.Create(elements) | CollectReports()
        for name in seen:
            _ = collected[name] | f"See {name}" >> beam.Map(remember, name=name)
    seen = {name: SEEN.pop(name) for name in seen}
    assert all(report.count_names() == 0 for _, sums in seen["sums"] for report in sums.values())
    sizes = [sum(report.count_names() for _, (_, report) in batch) for batch in seen["names"]]
    assert sum(sizes) == 2 * (120 * 40 + 2500) and max(sizes) < 2000
    whole = with_names(dict(seen["sums"])[0], seen["names"], 0)
    assert whole[Step.EMBED_USERS].tasks == len(whole[Step.EMBED_USERS].files["histories"]) == 30 * 40 + 2500
    assert len(with_names(dict(seen["sums"])[1], seen["names"], 1)[Step.EMBED_USERS].failures) == 30 * 40
    assert with_names(dict(seen["sums"])[0], seen["names"][::-1], 0) == whole
