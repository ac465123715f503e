"""Gates on the rhythm of the rows: how many a user, at which hours, and with words that the model knows."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from stores.manifests import Manifest
from stores.names import Counter, Step
from transforms.gates.drift import CHANCE
from transforms.gates.gate import Measured, at_most
from transforms.gates.staged import StagedRelease
from transforms.gates.thresholds import Threshold
from transforms.gates.usual import NIGHTS, SIGMAS, usual_of, was_closed

T = TypeVar("T")

HOURS = "hours"  # the histogram of `read_logs.count_hours` in reports, and under a manifest's `statistics`

MAX_ROWS_PER_USER = Threshold(
    "max_rows_per_user_change", 0.25, "how far rows per user may be from the usual, in the logarithm"
)
MAX_HOURS_SHIFT = Threshold("max_hours_shift", 0.1, "KS distance of the rows' hours from the usual, beyond chance")
MAX_VOCABULARY_RISE = Threshold(
    "max_vocabulary_rise", 0.05, "how far the share of new rows out of vocabulary may be above the usual"
)
# Nights that a rhythm is known from, at least: a whole week, or so many of one weekday.
FEWEST_NIGHTS, FEWEST_OF_WEEKDAY = 7, 3
ROWS_GUESS, HOURS_GUESS = 0.05, 0.02  # spread from night to night where few are known: `transforms.gates.usual`
# The error of the logarithm of rows per user, times the root of the users: users' rows spread a little more than their
# mean is.
ROWS_SPREAD = 1.5


def nights_with(staged: StagedRelease, gate: str, figure: Callable[[Manifest], T | None]) -> list[tuple[Manifest, T]]:
    """(release, figure) of the nights before that read one partition and did not close the gate, newest first."""
    found = []
    for manifest, previous in itertools.pairwise([*staged.chain, None]):
        value = figure(manifest) if manifest and is_a_night(manifest, previous) else None
        if manifest and value is not None and not was_closed(manifest, gate):
            found.append((manifest, value))
    return found


def is_a_night(manifest: Manifest, previous: Manifest | None) -> bool:
    """Whether a release read one new partition: no first one, no catch-up, no date released again."""
    return previous is not None and (manifest.day - previous.day).days == 1


def kinds(staged: StagedRelease, before: list[tuple[Manifest, T]]) -> Iterator[list[T]]:
    """The figures of the last nights, and those of tonight's weekday: each as far as there are enough.

    Rows per user are compared with whichever has the smaller limit: where weekdays differ, nights of one weekday are
    more alike. Of hours, which holidays and weekends move, the nearer counts.
    """
    weekday = [night for night in before if night[0].day.weekday() == staged.manifest.day.weekday()]
    for nights, fewest in ((before, FEWEST_NIGHTS), (weekday, FEWEST_OF_WEEKDAY)):
        if len(nights) >= fewest:
            yield [figure for _, figure in nights[:NIGHTS]]


def rows_of_users(manifest: Manifest) -> tuple[float, float] | None:
    """The logarithm of new rows per user whose history changed, and its error; None without any."""
    counters = manifest.counters.get(Step.UPDATE_HISTORIES, {})
    users = counters.get(Counter.USERS_CHANGED, 0)
    rows = counters.get(Counter.ROWS_NEW, 0) - counters.get(Counter.ROWS_REPEATED, 0)
    return (math.log(rows / users), ROWS_SPREAD / math.sqrt(users)) if users and rows > 0 else None


@at_most(MAX_ROWS_PER_USER, advice="the newest partitions: is a part of every user's rows missing, or there twice?")
def rows_per_user(staged: StagedRelease) -> Measured | None:
    """Users have many more, or fewer, new rows each than usual: the logarithm of the factor, beyond chance."""
    tonight = rows_of_users(staged.manifest)
    if tonight is None or not is_a_night(staged.manifest, staged.previous):
        return None
    floor, found = staged.thresholds[MAX_ROWS_PER_USER], []
    for nights in kinds(staged, nights_with(staged, rows_per_user.name, rows_of_users)):
        usual = usual_of([rows for rows, _ in nights], [error for _, error in nights], ROWS_GUESS)
        allowed = usual.allowed(floor, tonight[1])
        words = f"log of rows per user, {math.exp(tonight[0]):.2f}, to the usual {math.exp(usual.middle):.2f}"
        reads = f"{words} ({usual.nights} releases)"
        found.append(Measured(abs(tonight[0] - usual.middle), reads, allowed - floor))
    return min(found, key=lambda measured: measured.chance, default=None)


def hours_of(manifest: Manifest) -> tuple[np.ndarray, float] | None:
    """Shares of the valid rows by hour float64 [26], and a third of what chance makes of a distance to them.

    Rows of one user come in sessions: what counts is the number of users.
    """
    hours = np.asarray(manifest.statistics.get(HOURS, []), np.float64)
    users = manifest.counters.get(Step.UPDATE_HISTORIES, {}).get(Counter.USERS_CHANGED, 0)
    if not users or not hours.sum():
        return None
    return hours / hours.sum(), CHANCE / SIGMAS / math.sqrt(users)


def day_offset(manifest: Manifest) -> int:
    """How far ahead of UTC the days of a night's partitions were, in seconds."""
    return manifest.settings.get("partition_days", {}).get("day_offset_s", 0)


def hour_distance(shares: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """Kolmogorov-Smirnov distance of one night's hours from the mean of others'."""
    return float(np.abs(np.cumsum(shares - np.mean(others, axis=0))).max())


@at_most(MAX_HOURS_SHIFT, advice="the newest partitions: timestamps without hours, another zone, hours left out?")
def hours_shift(staged: StagedRelease) -> Measured | None:
    """The rows' hours of the day are not the usual ones: a KS distance, beyond what nights differ by."""
    tonight = hours_of(staged.manifest)
    if tonight is None or not is_a_night(staged.manifest, staged.previous):
        return None
    offset = day_offset(staged.manifest)
    floor, found = staged.thresholds[MAX_HOURS_SHIFT], []
    # Where --day-offset has changed the same hour is another moment: nights of other days tell nothing.
    before = nights_with(staged, hours_shift.name, lambda m: hours_of(m) if day_offset(m) == offset else None)
    for nights in kinds(staged, before):
        shares = [night for night, _ in nights]
        apart = [hour_distance(night, shares[:n] + shares[n + 1 :]) for n, night in enumerate(shares)]
        usual = usual_of(apart, [error for _, error in nights], HOURS_GUESS)
        allowed = usual.middle + usual.allowed(0.0, tonight[1])
        reads = f"KS distance of the rows' hours from the usual ({usual.nights} releases)"
        found.append(Measured(hour_distance(tonight[0], shares), reads, max(0.0, allowed - floor)))
    return min(found, key=lambda measured: measured.value - measured.chance, default=None)


def share_unknown(manifest: Manifest) -> tuple[float, int] | None:
    """The share of a night's new rows whose action or surface the model does not know, and the rows."""
    counters = manifest.counters.get(Step.UPDATE_HISTORIES, {})
    rows = counters.get(Counter.ROWS_ADDED, 0)
    return (counters[Counter.ROWS_OUT_OF_VOCABULARY] / rows, rows) if rows else None


def users_changed(manifest: Manifest) -> int:
    """How many users' history a night changed."""
    return manifest.count(Step.UPDATE_HISTORIES, Counter.USERS_CHANGED)


def error_of_share(share: float, users: int) -> float:
    """The error of a share of rows on a night of so many users, were all rows of a user so, or none.

    Users weigh as much as they have rows, which spread by `ROWS_SPREAD` of their mean: that makes 1 + `ROWS_SPREAD`^2
    times the variance of a share of users. One user of either kind is added to them, so that a night without an unknown
    row does not promise that none will have one (Laplace).
    """
    users = max(1, users)
    share = (share * users + 1) / (users + 2)
    return math.sqrt(share * (1 - share) * (1 + ROWS_SPREAD**2) / users)


@at_most(MAX_VOCABULARY_RISE, advice="the newest partitions and the model: actions or surfaces under new names?")
def vocabulary_rise(staged: StagedRelease) -> Measured | None:
    """The share of new rows whose action or surface the model does not know is far above the usual, beyond chance."""
    tonight = share_unknown(staged.manifest)
    before = [
        (found[0], error_of_share(found[0], users_changed(m)))
        for m in staged.chain
        if (found := share_unknown(m)) is not None
    ]
    if tonight is None or not before:
        return None
    usual = usual_of([share for share, _ in before], [error for _, error in before], 0.0)
    reads = f"share of {tonight[1]:,} new rows out of vocabulary, above the usual {usual.middle:.4f}"
    chance = usual.allowed(0.0, error_of_share(usual.middle, users_changed(staged.manifest)))
    return Measured(tonight[0] - usual.middle, reads, chance)
