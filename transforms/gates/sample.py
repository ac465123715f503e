"""Users drawn at random and what they would be answered: what several gates look at, measured once."""

import dataclasses
import functools
import zlib
from typing import Any

import numpy as np

from pinnerformer_model.collapse import covering_pins
from stores.files import FileEntry, Root
from stores.indexes import EF_CANDIDATES, IndexShard, load_shards, search_shards
from stores.names import Step
from stores.neighbours import Neighbours, count_found, exact_top_k, merge_top_k, tie_aware_recall
from stores.schemas import from_binary_column
from stores.tables import read_drawn, read_files
from transforms.gates.staged import StagedRelease, measured_once
from transforms.gates.thresholds import Threshold

RECALL_USERS = Threshold("recall_users", 1000, "users drawn to measure it; all, if there are fewer", least=1)
EF_TARGET = 0.99  # of recall@10; the first width that reaches it is served
QUERIES = 100  # searched at a time
TOP = 10  # pins that a user is answered
SAMPLE = "sample"  # of the figures that are kept with a run


@dataclasses.dataclass(frozen=True)
class Sample:
    """Users of a staged release drawn at random, searched for exactly and in its indexes.

    Attributes:
        seed: They were drawn with.
        users: How many were drawn.
        user_sum: float64 [d], the sum of their embeddings.
        pins: All pins with an embedding.
        pin_sum: float64 [d], the sum of the pins' embeddings.
        ef: The width of search that is good enough.
        found: The top 10 of the indexes at that width.
        best: The exact top 10 over all shards.
    """

    seed: int
    users: int
    user_sum: np.ndarray
    pins: int
    pin_sum: np.ndarray
    ef: int
    found: Neighbours
    best: Neighbours

    @property
    def answers(self) -> int:
        """Pins that each user is answered."""
        return self.found.pin_ids.shape[1]

    @functools.cached_property
    def recall(self) -> float:
        """recall@10 of what was found against exact search."""
        return tie_aware_recall(self.found, self.best)

    @functools.cached_property
    def covering_pins(self) -> int:
        """Pins that make up 90 % of what was found."""
        return covering_pins(self.found.pin_ids)


@dataclasses.dataclass(frozen=True)
class SampleFigures:
    """What gates ask of a `Sample`, under the same names: it was measured by a run's steps, and is kept with the run.

    Attributes:
        wanted: How many users were to be drawn.
    """

    wanted: int
    seed: int
    users: int
    user_sum: np.ndarray
    pins: int
    pin_sum: np.ndarray
    ef: int
    recall: float
    covering_pins: int
    answers: int

    def to_json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        return {**found, "user_sum": self.user_sum.tolist(), "pin_sum": self.pin_sum.tolist()}

    @classmethod
    def of(cls, wanted: int, sample: Sample) -> "SampleFigures":
        names = [field.name for field in dataclasses.fields(cls) if field.name != "wanted"]
        return cls(wanted, **{name: getattr(sample, name) for name in names})

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "SampleFigures":
        """Reads what `to_json` gave.

        Raises:
            TypeError, KeyError, ValueError: it is something else.
        """
        sums = {name: np.array(found[name], np.float64) for name in ("user_sum", "pin_sum")}
        return cls(**{**found, **sums})


def seed_of_release(release: str) -> int:
    """What a release's users are drawn with: the same whenever it is checked again."""
    return zlib.crc32(release.encode())


def seed_of(staged: StagedRelease) -> int:
    return seed_of_release(staged.manifest.release)


def find_ef_of(staged: StagedRelease) -> int:
    """The smallest width of search that finds every pin by its own vector; none below it is served."""
    return int(staged.report(Step.BUILD_INDEXES).highest.get("find_ef", EF_CANDIDATES[0]))


@measured_once
def sample_of(staged: StagedRelease) -> Sample | SampleFigures | None:
    """What a run's steps measured, where they drew as many users; else measured now, in one process.

    None without users or without pins.
    """
    root, manifest, seed = staged.root, staged.manifest, seed_of(staged)
    pins, count = manifest.rows("pin_embeddings"), int(staged.thresholds[RECALL_USERS])
    if not manifest.rows("user_embeddings") or not pins:
        return None
    measured = staged.figures.get(SAMPLE)
    if measured is not None and measured["wanted"] == count:
        return SampleFigures.from_json(measured)
    queries = draw_users(root, manifest.tables["user_embeddings"], count, seed)  # [Q, d]
    # Exact search goes shard by shard, so that one shard's vectors are in memory at a time, and takes the sum of all
    # pins along: nothing else reads every pin.
    exact, total = [], np.zeros(queries.shape[1])
    for entry in manifest.tables["pin_embeddings"]:
        rows = read_files(root, [entry])
        embeddings = from_binary_column(rows["embedding"])
        exact.append(exact_top_k(queries, rows["pin_id"].to_numpy(), embeddings, TOP))
        total += embeddings.sum(axis=0, dtype=np.float64)
    best = merge_top_k(exact, TOP)
    shards = load_shards(root, manifest.tables["indexes"], queries.shape[1])
    found, ef = search_well_enough(shards, queries, best, find_ef_of(staged))
    return Sample(seed, len(queries), queries.sum(axis=0, dtype=np.float64), pins, total, ef, found, best)


def draw_users(root: Root, entries: list[FileEntry], count: int, seed: int) -> np.ndarray:
    """Draws users of a snapshot at random, without repeats.

    Returns:
        float32 [min(count, users), d]: their embeddings.
    """
    drawn = read_drawn(root, entries, count, seed, ["embedding"])
    return np.concatenate([from_binary_column(piece["embedding"]) for piece in drawn]).astype(np.float32)


def widths_from(find_ef: int) -> list[int]:
    """The widths of search that a release may be served with, none below the one that finds every pin."""
    return [ef for ef in EF_CANDIDATES if ef >= find_ef] or [find_ef]


def allowed_misses(best: Neighbours) -> float:
    """How many of the best pins a width may miss that reaches `EF_TARGET`."""
    return (1.0 - EF_TARGET) * np.isfinite(best.scores).sum()


def search_well_enough(
    shards: list[IndexShard], queries: np.ndarray, best: Neighbours, find_ef: int
) -> tuple[Neighbours, int]:
    """Searches at the smallest `ef` of `EF_CANDIDATES` that reaches `EF_TARGET`, the largest if none does.

    A width is given up at the query with which it has missed too much: one that is too small costs a few queries.

    Args:
        best: The exact answers to the queries.
        find_ef: The smallest `ef` to try.

    Returns:
        The answers to all queries, and the `ef`.
    """
    allowed, widths = allowed_misses(best), widths_from(find_ef)
    for ef in widths:
        pieces, missed = [], 0
        for start in range(0, len(queries), QUERIES):
            rows = slice(start, start + QUERIES)
            pieces.append(search_shards(shards, queries[rows], TOP, ef))
            hits, wanted = count_found(pieces[-1], best.take(rows))
            missed += wanted - hits
            if missed > allowed and ef != widths[-1]:
                break
        else:
            break
    pin_ids, scores = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("pin_ids", "scores"))
    return Neighbours(pin_ids, scores), ef
