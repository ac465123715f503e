"""Looks at much in little memory: some of the row groups, ids by their hash, and how far the look is."""

import dataclasses
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pipelines.launch.stages import duration
from pipelines.telemetry.lines import say
from stores.ids import uniform_of

T = TypeVar("T")

MOST_IDS = 500_000  # distinct ids that are kept of a column, with their counts
SALT = 0xC4EC  # the same of users, of pins in the logs and of pins in the vectors
PENDING = 1 << 20  # ids that are kept before they are counted


class CountedIds:
    """How often ids occur, of all of them or, where they are too many, of a share of them that their hash draws.

    Attributes:
        share: Of all distinct ids, how large a share is kept: those with `uniform_of` below it.
    """

    def __init__(self, most: int = MOST_IDS):
        self.share = 1.0
        self._most = most
        self._ids, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._pending: list[np.ndarray] = []
        self._waiting = 0

    def add(self, ids: np.ndarray) -> None:
        """Counts ids int64 [N]."""
        if self.share < 1:
            ids = ids[uniform_of(ids, SALT) < self.share]
        self._pending.append(ids)
        self._waiting += len(ids)
        if self._waiting > PENDING:
            self._count()

    def _count(self) -> None:
        if not self._pending:
            return
        new, times = np.unique(np.concatenate(self._pending), return_counts=True)
        self._pending, self._waiting = [], 0
        ids, place = np.unique(np.concatenate([self._ids, new]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([self._counts, times]), len(ids)).astype(np.int64)
        while len(ids) > self._most:
            self.share /= 2
            kept = uniform_of(ids, SALT) < self.share
            ids, counts = ids[kept], counts[kept]
        self._ids, self._counts = ids, counts

    def counted(self, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Sorted distinct ids int64 [N] and how often each occurs, of those whose hash is below a share."""
        self._count()
        if share >= self.share:
            return self._ids, self._counts
        kept = uniform_of(self._ids, SALT) < share
        return self._ids[kept], self._counts[kept]

    @property
    def distinct(self) -> int:
        """How many distinct ids there are; about, where only a share is kept."""
        return round(len(self.counted()[0]) / self.share)

    @property
    def about(self) -> str:
        """What to put before a figure that is an estimate."""
        return "about " if self.share < 1 else ""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Of some things, those that are looked at.

    Attributes:
        rows, total: Of what is chosen, and of all.
    """

    things: list
    rows: int
    total: int

    @property
    def is_all(self) -> bool:
        return self.rows >= self.total

    @property
    def remark(self) -> str:
        """What has to be said of figures of it; empty where everything is looked at."""
        return "" if self.is_all else f"of a sample, {self.rows:,} of {self.total:,} rows"


def choose(things: Sequence[T], name: Callable[[T], str], rows: Callable[[T], int], most: int) -> Chosen:
    """Draws things by the hash of their names until they have `most` rows; the same ones every time.

    Args:
        most: 0: everything. The first thing drawn is looked at, however large it is.
    """
    total = sum(map(rows, things))
    if not most or total <= most:
        return Chosen(list(things), total, total)
    chosen: list[T] = []
    found = 0
    for thing in sorted(things, key=lambda one: (zlib.crc32(name(one).encode()), name(one))):
        if chosen and found + rows(thing) > most:
            continue
        chosen.append(thing)
        found += rows(thing)
    return Chosen(sorted(chosen, key=name), found, total)


class Watch:
    """Shows on stderr how far the look is: live on a terminal, a line when one takes long elsewhere, or nothing."""

    EVERY_S = 20.0

    def __init__(self, shown: bool):
        self._shown = shown

    def over(self, things: Sequence[T], what: str) -> Iterator[T]:
        """Yields things one by one and shows how many are done."""
        if not self._shown:
            yield from things
        elif sys.stderr.isatty():
            columns = (TextColumn("{task.description:<24}"), BarColumn(28), TaskProgressColumn(), TimeElapsedColumn())
            with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
                yield from bars.track(things, description=what)
        else:
            yield from self._in_lines(things, what)

    def _in_lines(self, things: Sequence[T], what: str) -> Iterator[T]:
        began = said = time.monotonic()
        for number, thing in enumerate(things):
            if time.monotonic() - said > self.EVERY_S:
                said = time.monotonic()
                left_s = (said - began) / number * (len(things) - number) if number else None
                rest = f"; about {duration(left_s)} left" if left_s else ""
                say(f"{what}: {number:,} of {len(things):,}{rest}", stage=what, left_s=left_s)
            yield thing
