"""Small drawings as numbers, which the page's macros turn into SVG."""

import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 120.0, 26.0  # of a small line, in its own units
AT_LIMIT = 0.8  # where along a gate's bar its limit stands


def line(values: Sequence[float | None]) -> str:
    """Points of a small line through some values, oldest first; those that are None are passed over.

    Returns:
        `x,y x,y ...` for an SVG polyline; empty of fewer than two values.
    """
    there = [(n, float(value)) for n, value in enumerate(values) if value is not None and math.isfinite(value)]
    if len(there) < 2:
        return ""
    low, high = min(v for _, v in there), max(v for _, v in there)
    span, steps = (high - low) or 1.0, max(len(values) - 1, 1)
    flat = high == low
    return " ".join(
        f"{2 + n / steps * (WIDTH - 4):.1f},{HEIGHT / 2 if flat else HEIGHT - 3 - (v - low) / span * (HEIGHT - 6):.1f}"
        for n, v in there
    )


def end_of(points: str) -> tuple[str, str]:
    """Where a line ends: x and y of its last point."""
    x, _, y = points.rpartition(" ")[2].partition(",")
    return x, y


def share_of_limit(measured: float, threshold: float, at_least: bool) -> float:
    """How much of what a gate allows is used up: 0 none, 1 all of it, more: closed.

    What may be at least so much is used up as it falls towards it.
    """
    if at_least:
        return threshold / measured if measured > 0 else (0.0 if measured >= threshold else math.inf)
    if threshold > 0:
        return max(0.0, measured / threshold)
    return 0.0 if measured <= threshold else math.inf


def bar(measured: float, threshold: float, at_least: bool) -> float:
    """How long a gate's bar is, of 100, its limit at `AT_LIMIT`."""
    return round(min(1.0, share_of_limit(measured, threshold, at_least) * AT_LIMIT) * 100, 1)


def columns(counts: Sequence[int], labels: Sequence[str]) -> list[tuple[float, int, str]]:
    """(height of 100, count, label) of a histogram's columns."""
    most = max(counts, default=0) or 1
    return [(round(count / most * 100, 1), count, label) for count, label in zip(counts, labels, strict=True)]


def length_columns(lengths: Sequence[int], bins: int = 24) -> list[tuple[float, int, str]]:
    """Columns of how many users have how many rows in their histories."""
    if not lengths:
        return []
    wide = max(1, math.ceil(max(lengths) / bins))
    edges = list(range(1, max(lengths) + wide + 1, wide))
    counts = np.histogram(lengths, [*edges[:-1], edges[-1]])[0].tolist() if len(edges) > 1 else [len(lengths)]
    labels = [f"{low:,}" if wide == 1 else f"{low:,} to {low + wide - 1:,}" for low in edges[: len(counts)]]
    return columns(counts, labels)
