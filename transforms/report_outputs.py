"""The way of reports through a pipeline: the output `reports` of a DoFn, and their sum."""

from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from stores.files import FileEntry
from stores.names import Step
from transforms.step_reports import StageReport, part_report

REPORTS = "reports"


def tagged(stage: str, report: StageReport) -> beam.pvalue.TaggedOutput:
    """A part's report, for the `reports` output of its DoFn; its counters also show in the engine's dashboard.

    Reports travel as elements, so that they count the attempts that the engine kept, and those only.
    """
    for name, number in report.counters.items():
        Metrics.counter(stage, name).inc(number)
    return beam.pvalue.TaggedOutput(REPORTS, (stage, report))


def report(
    stage: str,
    started: float,
    counters: Mapping[str, int],
    *,
    files: Mapping[str, Iterable[FileEntry]] | None = None,
    lowest: Mapping[str, float] | None = None,
    highest: Mapping[str, float] | None = None,
) -> beam.pvalue.TaggedOutput:
    """`part_report` for the `reports` output, where no receipt is kept of the part."""
    return tagged(stage, part_report(started, counters, files=files, lowest=lowest, highest=highest))


class MergeReports(beam.CombineFn):
    """(stage, report) elements -> one dict, stage -> report."""

    def create_accumulator(self) -> dict[Step, StageReport]:
        return {}

    def add_input(self, accumulator: dict[Step, StageReport], element: tuple[Step, StageReport]) -> Any:
        stage, part = element
        accumulator.setdefault(stage, StageReport()).add(part)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[dict[Step, StageReport]]) -> dict[Step, StageReport]:
        merged: dict[Step, StageReport] = {}
        for accumulator in accumulators:
            for stage, part in accumulator.items():
                merged.setdefault(stage, StageReport()).add(part)
        return merged

    def extract_output(self, accumulator: dict[Step, StageReport]) -> dict[Step, StageReport]:
        return accumulator
