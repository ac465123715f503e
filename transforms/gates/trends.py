"""Gates on tonight's figures against those of the last releases."""

import dataclasses
import datetime
import statistics
from collections.abc import Callable

from stores.manifests import Manifest
from transforms.gates.gate import MOST, Gate, at_most
from transforms.gates.thresholds import Thresholds

WEEK, WEEKS = 7, 4
FEWEST = 3  # releases that a median of the week is taken over, at least


@dataclasses.dataclass(frozen=True)
class Night:
    """The figures of one release that read whole partitions.

    Attributes:
        date: Of the release.
        days: Partitions it was the first to read; more than one where nights were missed.
        rows: Log rows read, a day.
        active: Users whose history changed.
    """

    date: datetime.date
    days: int
    rows: float
    active: int


def vectorless_share(manifest: Manifest) -> float | None:
    """Share of the tokens that a release looked up whose pin has no vector; None if none was looked up."""
    joined = manifest.counters.get("join_vectors", {})
    without = joined.get("tokens_without_vector", 0)
    looked_up = without + joined.get("tokens", 0)
    return without / looked_up if looked_up else None


def night_of(manifest: Manifest, previous: Manifest | None) -> Night | None:
    """A release's figures; None for a first one and for a date released again, which are like no other night."""
    days = (manifest.day - previous.day).days if previous else 0
    if days < 1:
        return None
    counters = manifest.counters
    rows = counters.get("read_logs", {}).get("rows_read", 0) / days
    active = counters.get("update_histories", {}).get("users_changed", 0)
    return Night(manifest.day, days, rows, active)


def factor(measured: float, usual: float) -> float:
    """How many times more or fewer: never below 1. Of nothing against something it is the something."""
    low, high = sorted((max(measured, 1.0), max(usual, 1.0)))
    return min(MOST, high / low)


def check_trends(staged: Manifest, releases: list[Manifest], thresholds: Thresholds) -> list[Gate]:
    """Compares a staged release with those before it.

    Weekdays differ, so the same weekday counts apart, and more strictly. A night that caught up on several days is
    compared by rows a day; its active users are nobody's measure.

    Args:
        releases: The chain that it was built on, newest first; the last 29 are enough.
    """
    chain = [staged, *releases]
    nights = [night_of(*pair) for pair in zip(chain, [*releases, None], strict=True)]
    tonight, before = nights[0], [night for night in nights[1 : 1 + WEEK * WEEKS] if night]
    gates: list[Gate] = []
    if tonight is None:
        return gates
    week = before[:WEEK]
    weekday = [n for n in before if n.date.weekday() == tonight.date.weekday()]
    figures: list[tuple[str, str, Callable[[Night], float], bool]] = [
        ("rows", "log rows a day", lambda night: night.rows, True),
        ("active", "users whose history changed", lambda night: night.active, tonight.days == 1),
    ]
    for name, reads, figure, comparable in figures:
        for title, against, fewest, limit in (
            ("week", week, FEWEST, thresholds.max_week_factor),
            ("weekday", weekday, 1, thresholds.max_weekday_factor),
        ):
            usual = [figure(night) for night in against if name == "rows" or night.days == 1]
            if not comparable or len(usual) < fewest:
                continue
            median = statistics.median(usual)
            words = (
                f"{reads}: {figure(tonight):,.0f} against a usual {median:,.0f} ({len(usual)} releases), as a factor"
            )
            gates.append(at_most(f"{name}_against_{title}", factor(figure(tonight), median), limit, words))
    return gates


def check_vectorless(staged: Manifest, releases: list[Manifest], thresholds: Thresholds) -> list[Gate]:
    """Share of the tokens whose pin has no vector: in itself, and against the last 7 releases."""
    share = vectorless_share(staged)
    if share is None:
        return []
    gates = [
        at_most("vectorless_share", share, thresholds.max_vectorless_share, "share of tokens without a pin vector")
    ]
    before = [found for found in map(vectorless_share, releases[:WEEK]) if found is not None]
    if before:
        usual = statistics.median(before)
        words = f"share of tokens without a pin vector, above the usual {usual:.4f}"
        gates.append(at_most("vectorless_rise", share - usual, thresholds.max_vectorless_rise, words))
    return gates
