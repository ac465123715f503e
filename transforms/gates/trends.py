"""Gates that compare tonight's figures with those of the last releases."""

import dataclasses
import datetime
import statistics
from collections.abc import Sequence

from stores.manifests import Manifest
from stores.names import Counter, Step
from transforms.gates.gate import MOST, Measured, at_most
from transforms.gates.staged import StagedRelease, measured_once
from transforms.gates.thresholds import Threshold

MAX_WEEK_FACTOR = Threshold(
    "max_week_factor",
    4.0,
    "times more, or fewer, rows per day and active users than the median of the last 7 releases",
)
MAX_WEEKDAY_FACTOR = Threshold("max_weekday_factor", 2.5, "the same against the same weekday of the last 4 weeks")
MAX_VECTORLESS_SHARE = Threshold("max_vectorless_share", 0.6, "share of the tokens looked up whose pin has no vector")
MAX_VECTORLESS_RISE = Threshold(
    "max_vectorless_rise", 0.1, "how far that share may be above the median of the last 7 releases"
)
NEWEST_PARTITIONS = "the newest partitions: was a file left out, or written twice?"
USER_IDS = "the newest partitions: are the user ids what they were?"
WEEK, WEEKS = 7, 4
FEWEST = 3  # releases that a median of the week is taken over, at least


@dataclasses.dataclass(frozen=True)
class ReleaseStats:
    """The figures of one release that read whole partitions.

    Attributes:
        date: Of the release.
        days: Partitions it was the first to read; more than one where nights were missed.
        rows: Log rows read, per day.
        active: Users whose history changed.
    """

    date: datetime.date
    days: int
    rows: float
    active: int


def share_without_vector(manifest: Manifest) -> float | None:
    """Share of a release's tokens looked up whose pin has no vector; None if none was looked up."""
    without = manifest.count(Step.JOIN_VECTORS, Counter.TOKENS_WITHOUT_VECTOR)
    looked_up = without + manifest.count(Step.JOIN_VECTORS, Counter.TOKENS)
    return without / looked_up if looked_up else None


def release_stats(manifest: Manifest, previous: Manifest | None) -> ReleaseStats | None:
    """A release's figures; None for a first one and for a date released again, which are like no other night."""
    days = (manifest.day - previous.day).days if previous else 0
    if days < 1:
        return None
    rows = manifest.count(Step.READ_LOGS, Counter.ROWS_READ) / days
    active = manifest.count(Step.UPDATE_HISTORIES, Counter.USERS_CHANGED)
    return ReleaseStats(manifest.day, days, rows, active)


def factor(measured: float, usual: float) -> float:
    """How many times more or fewer: never below 1. Of nothing against something it is the something."""
    low, high = sorted((max(measured, 1.0), max(usual, 1.0)))
    return min(MOST, high / low)


@dataclasses.dataclass(frozen=True)
class Nights:
    """Tonight, and what it is compared with, newest first.

    Attributes:
        week: The last 7 releases that read whole partitions.
        weekday: Those of the last 4 weeks of tonight's weekday.
    """

    tonight: ReleaseStats
    week: list[ReleaseStats]
    weekday: list[ReleaseStats]


@measured_once
def nights_of(staged: StagedRelease) -> Nights | None:
    """Weekdays differ, so the same weekday counts apart, and more strictly; None where tonight is like no other."""
    newest_first = [staged.manifest, *staged.chain]
    tonight, *before = [release_stats(*pair) for pair in zip(newest_first, [*staged.chain, None], strict=True)]
    if tonight is None:
        return None
    known = [night for night in before[: WEEK * WEEKS] if night]
    return Nights(tonight, known[:WEEK], [n for n in known if n.date.weekday() == tonight.date.weekday()])


def compare_rows(tonight: ReleaseStats, before: list[ReleaseStats], fewest: int) -> Measured | None:
    """Tonight's rows per day against the median; a night that caught up on several days is compared by them.

    Args:
        fewest: Releases that a median is taken over, at least.
    """
    return against_median("log rows a day", tonight.rows, [night.rows for night in before], fewest)


def compare_active(tonight: ReleaseStats, before: list[ReleaseStats], fewest: int) -> Measured | None:
    """Tonight's active users against the median; those of a night that caught up on several days are no measure."""
    if tonight.days != 1:
        return None
    usual = [night.active for night in before if night.days == 1]
    return against_median("users whose history changed", tonight.active, usual, fewest)


def against_median(reads: str, measured: float, usual: Sequence[float], fewest: int) -> Measured | None:
    """How many times a figure is more or fewer than the median of the usual ones."""
    if len(usual) < fewest:
        return None
    median = statistics.median(usual)
    words = f"{reads}: {measured:,.0f} against a usual {median:,.0f} ({len(usual)} releases), as a factor"
    return Measured(factor(measured, median), words)


@at_most(MAX_WEEK_FACTOR, advice=NEWEST_PARTITIONS)
def rows_against_week(staged: StagedRelease) -> Measured | None:
    """Log rows per day are many times more, or fewer, than the median of the last 7 releases (3 at least)."""
    nights = nights_of(staged)
    return compare_rows(nights.tonight, nights.week, FEWEST) if nights else None


@at_most(MAX_WEEKDAY_FACTOR, advice=NEWEST_PARTITIONS)
def rows_against_weekday(staged: StagedRelease) -> Measured | None:
    """Log rows per day are many times more, or fewer, than the median of the same weekday of the last 4 weeks."""
    nights = nights_of(staged)
    return compare_rows(nights.tonight, nights.weekday, 1) if nights else None


@at_most(MAX_WEEK_FACTOR, advice=USER_IDS)
def active_against_week(staged: StagedRelease) -> Measured | None:
    """Users whose history changed are many times more, or fewer, than in the last 7 releases (3 at least)."""
    nights = nights_of(staged)
    return compare_active(nights.tonight, nights.week, FEWEST) if nights else None


@at_most(MAX_WEEKDAY_FACTOR, advice=USER_IDS)
def active_against_weekday(staged: StagedRelease) -> Measured | None:
    """Users whose history changed are many times more, or fewer, than on the same weekday of the last 4 weeks."""
    nights = nights_of(staged)
    return compare_active(nights.tonight, nights.weekday, 1) if nights else None


@at_most(MAX_VECTORLESS_SHARE, advice="--pins against the pins in the logs: do the ids agree?")
def vectorless_share(staged: StagedRelease) -> Measured | None:
    """Too many of the tokens looked up are of a pin without a vector."""
    share = share_without_vector(staged.manifest)
    return None if share is None else Measured(share, "share of tokens without a pin vector")


@at_most(MAX_VECTORLESS_RISE, advice="--pins against the pins in the logs: was the export cut off?")
def vectorless_rise(staged: StagedRelease) -> Measured | None:
    """The share of tokens looked up whose pin has no vector is far above the median of the last 7 releases."""
    share = share_without_vector(staged.manifest)
    before = [found for found in map(share_without_vector, staged.chain[:WEEK]) if found is not None]
    if share is None or not before:
        return None
    usual = statistics.median(before)
    return Measured(share - usual, f"share of tokens without a pin vector, above the usual {usual:.4f}")
