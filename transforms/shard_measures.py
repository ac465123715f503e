"""What is measured on a shard of pins when both branches of a run are through: one worker has the shard open, once."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from stores.files import FileEntry, Root
from stores.ids import find_sorted
from stores.indexes import EF_CANDIDATES, IndexShard, load_shards
from stores.manifests import Manifest, read_manifest
from stores.names import Step
from stores.schemas import from_binary_column
from stores.tables import read_files, read_numbered, read_rows_of, write_rows
from transforms import hindsight
from transforms.gates.counts import LOST, count_lost
from transforms.gates.sample import widths_from
from transforms.report_outputs import FIGURES, REPORTS, DayReport
from transforms.run import Run
from transforms.sample_steps import (
    Answers,
    Drawn,
    FileSizes,
    drawn_of,
    first_widths,
    needs_wider,
    queries_of,
    search_exactly,
    search_index,
)
from transforms.step_reports import task_report

PICKED = "picked"  # the folder of a run, and the output, with the pins that the look back asks for
TOTALS, WANTED = "totals", "wanted"
EMBEDDINGS, INDEXES = "pin_embeddings", "indexes"

# (shard, values): of a table, a file; of `WANTED`, (day, pins that users took)
ShardGroup = tuple[int, Iterable[tuple[str, Any]]]


def of_shards(element: DayReport) -> list[tuple[int, tuple[str, Any]]]:
    """The files of shards that a report names."""
    _, (_, report) = element
    return [(entry.part, (table, entry)) for table in (EMBEDDINGS, INDEXES) for entry in report.files.get(table, ())]


@dataclasses.dataclass(frozen=True)
class ShardFacts:
    """What a report says that matters to all shards.

    Attributes:
        sizes: Of files of pin_embeddings.
        find_ef: The width of search that finds every pin of some shards.
    """

    sizes: FileSizes
    find_ef: int


def facts_of(element: DayReport) -> list[ShardFacts]:
    _, (step, report) = element
    sizes = tuple((entry.part, entry.path, entry.rows) for entry in report.files.get(EMBEDDINGS, ()))
    find_ef = int(report.highest.get("find_ef", 0)) if step == Step.BUILD_INDEXES else 0
    return [ShardFacts(sizes, find_ef)] if sizes or find_ef else []


def add_facts(found: Iterable[ShardFacts]) -> ShardFacts:
    """Of all shards, in whatever order they come."""
    every = list(found)
    sizes = tuple(sorted(size for facts in every for size in facts.sizes))
    return ShardFacts(sizes, max((facts.find_ef for facts in every), default=0) or EF_CANDIDATES[0])


@dataclasses.dataclass(frozen=True)
class PinTotals:
    """Sums over the pins of a shard: how many have an embedding; float64 [d], the sum of those."""

    pins: int
    total: np.ndarray


def files_of(values: Iterable[tuple[str, Any]], table: str) -> list[FileEntry]:
    """A shard's files of a table, in the order of a manifest."""
    return sorted((entry for name, entry in values if name == table), key=lambda entry: entry.path)


def open_index(root: Root, values: Iterable[tuple[str, Any]], dim: int) -> list[IndexShard]:
    """The index of a shard: one graph, or the old one and a small one of what changed."""
    return load_shards(root, files_of(values, INDEXES), dim)


@dataclasses.dataclass(frozen=True)
class PinsBefore:
    """The pins of the release that a day is built on: those of an older release, or of the run itself.

    Attributes:
        sizes: Of the files from which pins are drawn.
        parts: Shard -> files; None where they are tonight's.
    """

    sizes: FileSizes
    parts: dict[int, list[FileEntry]] | None


class MeasureShard(beam.DoFn):
    """A shard -> (day, `Answers`), and the outputs `totals`, `figures`, `picked` and `reports`.

    Args:
        runs: One per day, in order; all of them have the same pins.
    """

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs
        self._before: Manifest | None = None
        self._sound: list[FileEntry] | None = None

    def setup(self):
        run = self._runs[0]
        run.check_root()
        self._before = read_manifest(run.root, run.previous) if run.previous else None

    def process(self, group: ShardGroup, facts: list[ShardFacts], drawn: list[Drawn]):
        """As `beam.DoFn`.

        Args:
            facts: Of all shards.
            drawn: The users drawn, of all days.
        """
        started, root = time.perf_counter(), self._runs[0].root
        shard, values = group[0], list(group[1])
        tonight, of_all = files_of(values, EMBEDDINGS), add_facts(facts)
        if not tonight:
            return
        rows = read_files(root, tonight)
        ids, embeddings = rows["pin_id"].to_numpy(), from_binary_column(rows["embedding"])
        yield beam.pvalue.TaggedOutput(TOTALS, PinTotals(len(ids), embeddings.sum(axis=0, dtype=np.float64)))
        yield beam.pvalue.TaggedOutput(FIGURES, (0, (LOST, self._count_lost(shard, tonight))))
        yield from self._answer(values, ids, embeddings, of_all.find_ef, drawn)
        asked: dict[int, list[np.ndarray]] = {}
        for day, pin_ids in (value for name, value in values if name == WANTED):
            asked.setdefault(day, []).append(pin_ids)
        for day, run in enumerate(self._runs):
            mine = np.unique(np.concatenate([np.empty(0, np.int64), *asked.get(day, [])]))
            picked = self._pick(day, shard, mine, (tonight, rows), of_all.sizes)
            entry = write_rows(run.root, f"{run.staging}/{PICKED}", shard, picked)
            yield beam.pvalue.TaggedOutput(PICKED, (day, (PICKED, entry)))
        seconds = (time.perf_counter() - started) / len(self._runs)
        for day in range(len(self._runs)):
            done = dataclasses.replace(task_report(started, {}), seconds=seconds)
            yield beam.pvalue.TaggedOutput(REPORTS, (day, (Step.MEASURE_SHARDS, done)))

    def _answer(
        self, values: list[tuple[str, Any]], ids: np.ndarray, embeddings: np.ndarray, find_ef: int, drawn: list[Drawn]
    ) -> Iterator[tuple[int, Answers]]:
        """(day, answers of the shard) to the users drawn of every day."""
        if not drawn:
            return
        index = open_index(self._runs[0].root, values, embeddings.shape[1])
        served = self._before.settings.get("index", {}).get("ef_search", 0) if self._before else 0
        widths = first_widths(find_ef, served)
        for day, queries in queries_of(drawn).items():
            found = {ef: search_index(index, queries, ef) for ef in widths}
            yield day, Answers(search_exactly(queries, ids, embeddings), found)

    def _count_lost(self, shard: int, tonight: list[FileEntry]) -> int:
        """Pins of the previous release that the first day has no more; on the days after it none."""
        before = self._before.parts(EMBEDDINGS).get(shard) if self._before else None
        return count_lost(self._runs[0].root, {shard: before}, {shard: tonight}, "pin_id") if before else 0

    def _pins_before(self, day: int, tonight: FileSizes) -> PinsBefore:
        """The pins that a day's are compared with; of an older release those files that are still as they were."""
        if day > 0 or self._before is None:
            return PinsBefore(tonight, None if day > 0 else {})
        if self._sound is None:
            root = self._runs[0].root
            self._sound = [e for e in self._before.tables[EMBEDDINGS] if root.size(e.path) == e.bytes]
        parts: dict[int, list[FileEntry]] = {}
        for entry in self._sound:
            parts.setdefault(entry.part, []).append(entry)
        sizes = tuple((entry.part, entry.path, entry.rows) for entry in self._sound)
        return PinsBefore(sizes or tonight, parts)

    def _pick(
        self,
        day: int,
        shard: int,
        asked: np.ndarray,
        tonight: tuple[list[FileEntry], pa.Table],
        sizes: FileSizes,
    ) -> pa.Table:
        """The pins that the look back of a day asks a shard for, with both embeddings.

        Args:
            asked: Sorted distinct ids of pins that users took.
            tonight: The shard's files, and their rows.
            sizes: Of tonight's files of all shards.

        Returns:
            `pin_id`, `is_drawn`, `before`, `tonight` (fixed_size_binary; null where there is none), by id.
        """
        root, (entries, rows) = self._runs[0].root, tonight
        before = self._pins_before(day, sizes)
        mine = entries if before.parts is None or before.sizes == sizes else before.parts.get(shard, [])
        chosen = drawn_of(before.sizes, hindsight.DRAWN, hindsight.seed_of(self._runs[day].date))
        drawn = [
            read_numbered(root, entry, chosen[entry.path], ["pin_id"])["pin_id"].to_numpy()
            for entry in mine
            if entry.path in chosen
        ]
        drawn_ids = np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))
        wanted = np.union1d(asked, drawn_ids)
        column = _column_of(rows, wanted)
        old = column
        if before.parts is not None:
            held = before.parts.get(shard, [])
            old = pa.nulls(len(wanted), pa.binary(2))
            if held and len(wanted):
                old = _column_of(read_rows_of(root, held, "pin_id", wanted, ["pin_id", "embedding"]), wanted)
        is_drawn = np.isin(wanted, drawn_ids)
        return pa.table(
            {"pin_id": pa.array(wanted, pa.int64()), "is_drawn": is_drawn, "before": old, "tonight": column}
        )


def _column_of(rows: pa.Table, wanted: np.ndarray) -> pa.Array:
    """The embeddings of some pins, sorted distinct ids, as far as rows of pin_embeddings have them; null where not."""
    ids = rows["pin_id"].to_numpy()
    order = np.argsort(ids, kind="stable")
    at, there = find_sorted(ids[order], wanted)
    place = np.zeros(len(wanted), np.int64)
    place[there] = order[at[there]]
    return rows["embedding"].combine_chunks().take(pa.array(place, mask=~there))


class WidenShard(beam.DoFn):
    """A shard -> (day, `Answers` at wider searches), of days whose first width found too little."""

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs

    def setup(self):
        self._runs[0].check_root()

    def process(self, group: ShardGroup, answers: Mapping[int, Answers], facts: list[ShardFacts], drawn: list[Drawn]):
        """As `beam.DoFn`; `answers` are those of all shards, by day."""
        widths = widths_from(add_facts(facts).find_ef)
        wider = {day: set(widths) - set(found.found) for day, found in answers.items() if needs_wider(found)}
        days = [day for day, left in wider.items() if left]
        if not days:
            return
        queries = queries_of(drawn)
        index = open_index(self._runs[0].root, list(group[1]), queries[days[0]].shape[1])
        for day in days:
            yield day, Answers(None, {ef: search_index(index, queries[day], ef) for ef in sorted(wider[day])})
