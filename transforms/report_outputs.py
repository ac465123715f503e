"""The way of reports through a pipeline: the output `reports` of a DoFn, and their sum."""

from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from stores.files import FileEntry
from stores.names import Step
from transforms.step_reports import StepReport, task_report

REPORTS = "reports"


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
