"""What pin vectors of the logs can be asked to be made of; without Beam, so that flags are read without it."""

import dataclasses

METHODS = ("ppmi-svd", "walk-svd", "als", "mix")
NORMS = ("unit", "popularity")


@dataclasses.dataclass(frozen=True)
class PairRules:
    """Which two engagements of a user are a pair.

    Attributes:
        window: So many engagements apart at most, in the order of the history.
        window_ms: So many milliseconds apart at most.
        most_pairs: Of one user; the nearest in the history come first, of those the newest.
        half_life_ms: After so long an engagement counts half for how often a pin is engaged with lately; 0: not asked.
    """

    window: int
    window_ms: int
    most_pairs: int
    half_life_ms: int = 0

    def __post_init__(self):
        if min(self.window, self.most_pairs) < 1 or min(self.window_ms, self.half_life_ms) < 0:
            raise ValueError(f"a window of at least one engagement and a cap of at least one pair, got {self}")
