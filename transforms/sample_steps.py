"""The sample that gates look at (`transforms.gates.sample`), measured where the data is: by bucket and by shard.

What is merged is the ten best of every drawn user, so it does not matter how many workers there were, nor in which
order they were done: equal scores stand by pin_id, and sums of float16 numbers are exact in float64.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from stores.indexes import IndexShard, search_shards
from stores.neighbours import Neighbours, count_found, exact_top_k, merge_top_k
from stores.schemas import from_binary_column
from stores.tables import draw_numbers, read_numbered
from transforms.gates.sample import TOP, Sample, SampleFigures, allowed_misses, seed_of_release, widths_from
from transforms.report_outputs import DayReport
from transforms.run import Run

FileSizes = tuple[tuple[int, str, int], ...]  # (part, path, rows) of the files of a table, sorted
Drawn = tuple[int, int, str, np.ndarray]  # day, part, path, float16 [n, d]: users drawn of one bucket


@functools.lru_cache(maxsize=8)
def drawn_of(sizes: FileSizes, count: int, seed: int) -> dict[str, np.ndarray]:
    """Path -> the rows that `stores.tables.read_drawn` draws of it, of files with any."""
    numbers = draw_numbers([rows for _, _, rows in sizes], count, seed)
    return {path: rows for (_, path, _), rows in zip(sizes, numbers, strict=True) if len(rows)}


def sizes_of(element: DayReport) -> list[tuple[int, int, str, int]]:
    """(day, part, path, rows) of the buckets of the snapshot that a report names."""
    day, (_, report) = element
    return [(day, entry.part, entry.path, entry.rows) for entry in report.files.get("user_embeddings", ())]


class ReadDrawn(beam.DoFn):
    """A report -> the `Drawn` users of the buckets of the snapshot that it names; of most buckets none.

    Args:
        count: Users to draw of every day.
    """

    def __init__(self, runs: Sequence[Run], count: int):
        self._runs = runs
        self._count = count
        self._rows: dict[str, np.ndarray] | None = None

    def setup(self):
        self._runs[0].check_root()

    def process(self, element: DayReport, sizes: list[tuple[int, int, str, int]]):
        """As `beam.DoFn`; `sizes` are those of all days: how many rows every bucket has decides which are drawn."""
        day, (_, report) = element
        for entry in report.files.get("user_embeddings", ()):
            if self._rows is None:
                self._rows = self._draw(sizes)
            # A bucket that nobody changed has one file on several days: which rows are drawn of it is another matter.
            rows = self._rows.get(f"{day} {entry.path}")
            if rows is not None:
                found = read_numbered(self._runs[day].root, entry, rows, ["embedding"])
                yield day, entry.part, entry.path, from_binary_column(found["embedding"])

    def _draw(self, sizes: list[tuple[int, int, str, int]]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for day, run in enumerate(self._runs):
            mine = tuple(sorted(size[1:] for size in sizes if size[0] == day))
            drawn = drawn_of(mine, self._count, seed_of_release(run.release))
            found |= {f"{day} {path}": rows for path, rows in drawn.items()}
        return found


def queries_of(drawn: Iterable[Drawn]) -> dict[int, np.ndarray]:
    """Day -> float32 [Q, d], the embeddings of the users drawn, in the order of their buckets."""
    days: dict[int, list[Drawn]] = {}
    for piece in sorted(drawn, key=lambda piece: piece[:3]):
        days.setdefault(piece[0], []).append(piece)
    return {day: np.concatenate([piece[3] for piece in pieces]).astype(np.float32) for day, pieces in days.items()}


@dataclasses.dataclass(frozen=True)
class Answers:
    """The ten best pins of every user drawn, of some shards.

    Attributes:
        best: Of exact search; None where it was not asked for.
        found: Of the indexes, by the width of search.
    """

    best: Neighbours | None
    found: dict[int, Neighbours]


def search_exactly(queries: np.ndarray, pin_ids: np.ndarray, embeddings: np.ndarray) -> Neighbours:
    """The ten best of a shard's pins."""
    return exact_top_k(queries, pin_ids, embeddings, TOP)


def search_index(graphs: list[IndexShard], queries: np.ndarray, ef: int) -> Neighbours:
    """The ten best that a shard's graphs find; with one thread, since other workers search other shards."""
    return search_shards(graphs, queries, TOP, ef, threads=1)


def merge_answers(parts: Iterable[Answers]) -> Answers:
    """Of several shards, or groups of them."""
    parts = list(parts)
    best = [part.best for part in parts if part.best is not None]
    widths = sorted({ef for part in parts for ef in part.found})
    found = {ef: merge_top_k([part.found[ef] for part in parts if ef in part.found], TOP) for ef in widths}
    return Answers(merge_top_k(best, TOP) if best else None, found)


def first_widths(find_ef: int, served: int) -> list[int]:
    """Those that are searched before it is known whether wider ones are needed.

    Args:
        served: The width that the release before is served with: as a rule it is tonight's too. 0 for none.
    """
    widths = widths_from(find_ef)
    return [ef for ef in widths if ef <= max(served, widths[0])]


def is_good(best: Neighbours, found: Neighbours) -> bool:
    """Whether the index finds enough of the best."""
    hits, wanted = count_found(found, best)
    return wanted - hits <= allowed_misses(best)


def needs_wider(answers: Answers | None) -> bool:
    """Whether the widths that were searched first, by all shards, find too little."""
    if answers is None or answers.best is None:
        return False
    return not any(is_good(answers.best, found) for found in answers.found.values())


def choose_width(answers: Answers) -> tuple[int, Neighbours]:
    """The smallest width that is good enough, the largest if none is, and what it finds."""
    assert answers.best is not None
    ordered = sorted(answers.found.items())
    return next((one for one in ordered if is_good(answers.best, one[1])), ordered[-1])


def describe_sample(
    wanted: int, release: str, queries: np.ndarray, answers: Answers, pins: int, pin_sum: np.ndarray
) -> dict[str, Any]:
    """What is kept of a sample, as `SampleFigures`.

    Args:
        wanted: Users that were to be drawn.
        queries: float32 [Q, d].
        answers: Of all shards.
        pins: All of them.
        pin_sum: float64 [d], the sum of their embeddings.
    """
    ef, found = choose_width(answers)
    assert answers.best is not None
    user_sum = queries.sum(axis=0, dtype=np.float64)
    drawn = Sample(seed_of_release(release), len(queries), user_sum, pins, pin_sum, ef, found, answers.best)
    return SampleFigures.of(wanted, drawn).to_json()
