"""The way of reports through a pipeline: the output `reports` of a DoFn, and their sum."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.typehints import KV

from stores.files import FileEntry
from stores.names import Step
from transforms.step_reports import NAMES_AT_ONCE, StepReport, task_report

REPORTS, FIGURES = "reports", "figures"

DayReport = tuple[int, tuple[Step, StepReport]]  # the day's number in a range; 0 of a night
Figure = tuple[int, tuple[str, Any]]  # (day, (name, value)): what was measured of a day's release


def flatten_pairs(*inputs: beam.PCollection) -> tuple[beam.PCollection, ...]:
    """PCollections of pairs, for Beam's Flatten, with one type and so with one coder.

    Beam infers a pair of some, and knows nothing of others; Flink refuses to unite what is coded differently.
    """
    for pairs in inputs:
        pairs.element_type = KV[Any, Any]
    return inputs


def tagged(step: str, report: StepReport) -> beam.pvalue.TaggedOutput:
    """A task's report, for the `reports` output of its DoFn; its counters also show in the engine's dashboard.

    Reports travel as elements, so that they count the attempts that the engine kept, and those only.
    """
    # For the dashboard only: an engine's counters also count attempts that it threw away.
    for name, number in report.counters.items():
        Metrics.counter(step, name).inc(number)
    return beam.pvalue.TaggedOutput(REPORTS, (step, report))


def report(
    step: str,
    started: float,
    counters: Mapping[str, int],
    *,
    files: Mapping[str, Iterable[FileEntry]] | None = None,
    lowest: Mapping[str, float] | None = None,
    highest: Mapping[str, float] | None = None,
) -> beam.pvalue.TaggedOutput:
    """`task_report` for the `reports` output, where no marker is kept of the task."""
    return tagged(step, task_report(started, counters, files=files, lowest=lowest, highest=highest))


class MergeReports(beam.CombineFn):
    """(step, report) elements -> one dict, step -> report."""

    def create_accumulator(self) -> dict[Step, StepReport]:
        return {}

    def add_input(self, accumulator: dict[Step, StepReport], element: tuple[Step, StepReport]) -> Any:
        step, task = element
        accumulator.setdefault(step, StepReport()).add(task)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[dict[Step, StepReport]]) -> dict[Step, StepReport]:
        merged: dict[Step, StepReport] = {}
        for accumulator in accumulators:
            for step, task in accumulator.items():
                merged.setdefault(step, StepReport()).add(task)
        return merged

    def extract_output(self, accumulator: dict[Step, StepReport]) -> dict[Step, StepReport]:
        return accumulator


@dataclasses.dataclass
class CollectReports(beam.PTransform):
    """Adds reports up for the barrier, without making one value of what grows with the parts of a root.

    Input: (day, (step, report)). Output: `sums`, (day, {step: report without names}), and `names`, lists of
    (day, (step, report of nothing but files and failures)), each list of some `NAMES_AT_ONCE` names.
    """

    def expand(self, reports: beam.PCollection[DayReport]):
        return {
            "sums": reports
            | "WithoutNames" >> beam.MapTuple(lambda day, of: (day, (of[0], of[1].without_names())))
            | "MergeReports" >> beam.CombinePerKey(MergeReports()),
            "names": reports
            | "NamesOnly" >> beam.FlatMap(names_of_report)
            | "NamesAtOnce"
            >> beam.BatchElements(NAMES_AT_ONCE, NAMES_AT_ONCE, element_size_fn=lambda of: of[1][1].count_names()),
        }


def names_of_report(element: DayReport) -> list[DayReport]:
    """The files and failures that a report names, in reports of their own."""
    day, (step, found) = element
    return [(day, (step, piece)) for piece in found.names(NAMES_AT_ONCE)]


def with_names(sums: Mapping[Step, StepReport], names: Iterable[list[DayReport]], day: int) -> dict[Step, StepReport]:
    """The reports of a day as they were before `CollectReports`; files and failures in a fixed order."""
    reports = {step: dataclasses.replace(found, files={}, failures=[]) for step, found in sums.items()}
    for of_day, (step, piece) in itertools.chain.from_iterable(names):
        if of_day == day:
            reports[step].add(StepReport(files=piece.files, failures=piece.failures))
    for found in reports.values():
        found.failures.sort()
        for entries in found.files.values():
            entries.sort(key=lambda entry: (entry.part, entry.path))
    return reports
