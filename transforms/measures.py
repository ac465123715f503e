"""What gates ask of staged releases, measured by steps that run where the data is; the barrier gets figures.

| step | an element is | what it measures |
|---|---|---|
| `ReadDrawn` | a bucket of a day | the users drawn for the recall of the index |
| `ReadLeft` | a bucket of a day | acts and vectors of the users that are looked back at |
| `MeasureShard` | a shard | exact and indexed answers, sums of vectors, pins lost, pins that the look back asks for |
| `WidenShard` | a shard | the same answers from wider searches, where the first found too little |
| `LookBack` | a day | margins, consistency, pins that moved |
| `CheckCanaries` | all days | the canaries |

Norms, drift, findability and lost users are in the reports of the steps that make vectors, buckets and indexes.
"""

import dataclasses
from collections.abc import Sequence

import apache_beam as beam
import numpy as np

from stores.files import FileEntry
from transforms.canaries import CanaryCheck, CheckCanaries
from transforms.gates.sample import SAMPLE
from transforms.hindsight import HindsightCheck
from transforms.look_back import LookBack, ReadLeft
from transforms.report_outputs import FIGURES, REPORTS, flatten_pairs
from transforms.run import Run
from transforms.sample_steps import Answers, Drawn, ReadDrawn, describe_sample, merge_answers, queries_of, sizes_of
from transforms.shard_measures import (
    PICKED,
    TOTALS,
    WANTED,
    MeasureShard,
    PinTotals,
    WidenShard,
    facts_of,
    of_shards,
)


class DescribeSample(beam.DoFn):
    """(day, the answers of all shards) -> the figure `sample` of the day.

    Args:
        count: Users that were to be drawn.
    """

    def __init__(self, runs: Sequence[Run], count: int):
        self._runs = runs
        self._count = count

    def setup(self):
        self._runs[0].check_root()

    def process(self, element: tuple[int, Answers], drawn: list[Drawn], totals: list[PinTotals]):
        day, answers = element
        pins = sum(one.pins for one in totals)
        if pins:
            total = np.sum([one.total for one in totals if one.pins], axis=0)
            queries = queries_of(piece for piece in drawn if piece[0] == day)[day]
            yield day, (SAMPLE, describe_sample(self._count, self._runs[day].release, queries, answers, pins, total))


@dataclasses.dataclass
class MeasureReleases(beam.PTransform):
    """Measures the staged releases of some days, one built on the other, of which all have the same pins.

    Input: `users` and `pins`, the `DayReport`s that name the files of the users' and of the pins' branch. Output:
    `figures`, and `reports` of these steps.

    Few transforms: each costs a small night milliseconds before anything runs. So values of a kind travel with its name
    beside them, and not in an input of their own, and what is small is a side input as it is, added up by who takes it.

    Attributes:
        runs: One per day, in order.
        tables: Tonight's pin vectors, one table per shard.
        count: How many users are drawn to measure recall.
    """

    runs: Sequence[Run]
    canaries: CanaryCheck
    hindsight: HindsightCheck
    tables: beam.PCollection[FileEntry]
    count: int

    def expand(self, inputs):  # Beam warns of a hint that is a dict
        users, pins, tables = inputs["users"], inputs["pins"], beam.pvalue.AsList(self.tables)
        # Which rows are drawn of a bucket depends on how many all have: a second look at them, once all are written.
        sizes = users | "SizesOfBuckets" >> beam.FlatMap(sizes_of)
        drawn = beam.pvalue.AsList(
            users | "ReadDrawn" >> beam.ParDo(ReadDrawn(self.runs, self.count), sizes=beam.pvalue.AsList(sizes))
        )
        left = users | "ReadLeft" >> beam.ParDo(ReadLeft(self.runs)).with_outputs(WANTED, main="main")
        # A worker has one shard open, its embeddings and its index, for all that is measured on it, of all days.
        facts = beam.pvalue.AsList(pins | "FactsOfShards" >> beam.FlatMap(facts_of))
        shards = (
            flatten_pairs(pins | "OfShards" >> beam.FlatMap(of_shards), left[WANTED])
            | "FilesAndWanted" >> beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
        )
        measured = shards | "MeasureShard" >> beam.ParDo(
            MeasureShard(self.runs), facts=facts, drawn=drawn
        ).with_outputs(TOTALS, FIGURES, PICKED, REPORTS, main="main")
        answers = measured.main | "MergeAnswers" >> beam.CombinePerKey(merge_answers)
        # Whether a width finds enough is a matter of all shards: a wider search is a second look at each of them.
        wider = shards | "WidenShard" >> beam.ParDo(
            WidenShard(self.runs), answers=beam.pvalue.AsDict(answers), facts=facts, drawn=drawn
        )
        sample = (
            flatten_pairs(answers, wider)
            | "AllWidths" >> beam.Flatten()
            | "MergeWidths" >> beam.CombinePerKey(merge_answers)
            | "DescribeSample"
            >> beam.ParDo(
                DescribeSample(self.runs, self.count), drawn=drawn, totals=beam.pvalue.AsList(measured[TOTALS])
            )
        )
        looked = (
            flatten_pairs(left.main, measured[PICKED])
            | "LeftAndPicked" >> beam.Flatten()
            | "GroupByDay" >> beam.GroupByKey()
            | "LookBack"
            >> beam.ParDo(LookBack(self.runs, self.hindsight), tables=tables).with_outputs(REPORTS, main="main")
        )
        check = beam.ParDo(CheckCanaries(self.runs, self.canaries), tables=tables, reports=beam.pvalue.AsIter(users))
        canaries = users.pipeline | "Canaries" >> beam.Impulse() | "CheckCanaries" >> check
        return {
            FIGURES: flatten_pairs(sample, looked.main, measured[FIGURES]) | "AllFigures" >> beam.Flatten(),
            REPORTS: flatten_pairs(measured[REPORTS], looked[REPORTS], canaries) | "MeasureReports" >> beam.Flatten(),
        }
