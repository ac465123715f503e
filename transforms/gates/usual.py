"""What is usual: the middle of the last nights, and how far a night like them may be from it.

    s^2     = (3 (e^2 + g^2) + sum over k nights of (m - u)^2) / (3 + k - 1)
    allowed = max(floor, 3 sqrt(s^2 (1 + 1 / k) + max(0, e0^2 - e^2)))

u is the median of k usual nights' figures m, e^2 the mean of their squared errors (the spread between users), e0
tonight's error. s^2 is the spread between nights; before there are enough of them to tell it, it leans on a guess that
weighs three nights: the spread between users, and g from night to night. Were nights normal, one alike would be further
off than three of these once in 740 nights on one side; the floor, which every limit allows, makes it rarer still.
`docs/gates.md` has what was measured.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from stores.manifests import Manifest

GUESS_NIGHTS = 3
SIGMAS = 3.0
NIGHTS = 14  # usual nights that are looked at, the newest


@dataclasses.dataclass(frozen=True)
class Usual:
    """The usual nights' figures.

    Attributes:
        middle: Their median.
        spread: Between nights.
        error: Of one night's figure, root mean square.
        nights: How many there are.
    """

    middle: float
    spread: float
    error: float
    nights: int

    def allowed(self, floor: float, error: float) -> float:
        """How far from the middle a night like these may be.

        Args:
            floor: What is always allowed.
            error: Tonight's.
        """
        variance = self.spread**2 * (1 + 1 / self.nights) + max(0.0, error**2 - self.error**2)
        return max(floor, SIGMAS * math.sqrt(variance))


def usual_of(figures: Sequence[float], errors: Sequence[float], guess: float) -> Usual:
    """The usual, of the newest figures first, at least one.

    Args:
        errors: Of the figures, each by the spread between users.
        guess: g, the spread from night to night where few nights are known.
    """
    figures, errors = figures[:NIGHTS], errors[:NIGHTS]
    middle = statistics.median(figures)
    error2 = statistics.fmean(e * e for e in errors)
    known = sum((m - middle) ** 2 for m in figures)
    spread2 = (GUESS_NIGHTS * (error2 + guess**2) + known) / (GUESS_NIGHTS + len(figures) - 1)
    return Usual(middle, math.sqrt(spread2), math.sqrt(error2), len(figures))


def was_closed(manifest: Manifest, gate: str) -> bool:
    """Whether a release stands although a gate closed on it: it is nobody's measure for that gate."""
    return any(found["name"] == gate and not found["passed"] for found in manifest.gates)


def is_backfilled(manifest: Manifest) -> bool:
    """Whether a backfill made a release: its model may have been trained on that night, so they are a kind apart."""
    return str(manifest.settings.get("run", "")).startswith("backfill-")
