"""How long the bars of a page are, and what falls into the bins of a histogram."""

import math
from collections.abc import Sequence

import numpy as np

AT_LIMIT = 0.8  # where along a gate's bar its limit stands


def share_of_limit(measured: float, threshold: float, at_least: bool) -> float:
    """How much of what a gate allows is used up: 0 none, 1 all of it, more: closed.

    What may be at least so much is used up as it falls towards it; where the limit is near 1, the best that a share or
    a cosine can be, as it falls from there.
    """
    if at_least and 0.5 <= threshold < 1 >= measured:
        return (1 - measured) / (1 - threshold)
    if at_least:
        return threshold / measured if measured > 0 else (0.0 if measured >= threshold else math.inf)
    if threshold > 0:
        return max(0.0, measured / threshold)
    return 0.0 if measured <= threshold else math.inf


def bar(measured: float, threshold: float, at_least: bool) -> float:
    """How long a gate's bar is, of 100, its limit at `AT_LIMIT`."""
    return round(min(1.0, share_of_limit(measured, threshold, at_least) * AT_LIMIT) * 100, 1)


def length_bins(lengths: Sequence[int], bins: int = 24) -> tuple[list[int], list[str]]:
    """How many users have how many rows in their histories: counts, and what each bin is."""
    if not lengths:
        return [], []
    wide = max(1, math.ceil(max(lengths) / bins))
    lowest = list(range(1, max(lengths) + 1, wide))
    counts = np.bincount((np.asarray(lengths) - 1) // wide, minlength=len(lowest)).tolist()
    return counts, [f"{low:,}" if wide == 1 else f"{low:,} to {low + wide - 1:,}" for low in lowest]
