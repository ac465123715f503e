"""How well vectors foresee what users do next: the rank of a user's own acts against that of other users' acts.

The MARGIN of a user is the mean rank of other active users' acts less the mean rank of the own ones, both by the user's
vector, among pins drawn at random. Ranks are shares of the drawn pins that are nearer, 0 to 1. Vectors that foresee
everybody alike, as popularity does, have a margin of 0; and so have users whose rows are somebody else's.
"""

import dataclasses
from typing import Any

import numpy as np

PARTNERS = 4  # other users whose acts a user's are compared with
FEWEST = 20  # users without whom nothing is said
BLOCK = 1_000  # users whose scores of the drawn pins are in memory at a time


@dataclasses.dataclass(frozen=True)
class Acts:
    """Acts of U users.

    Attributes:
        user_ids: int64 [U], sorted, distinct.
        offsets: int64 [U + 1] into `pins`.
        pins: [A]: ids, or rows of a matrix of vectors; each user's are distinct.
    """

    user_ids: np.ndarray
    offsets: np.ndarray
    pins: np.ndarray

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def owner(self) -> np.ndarray:
        """int64 [A]: the row in `user_ids` of the user of every act."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @staticmethod
    def of(users: np.ndarray, pins: np.ndarray) -> "Acts":
        """Acts of pairs (user, pin), both [A], sorted by user."""
        found, first = np.unique(users, return_index=True)
        return Acts(found, np.append(first, len(users)).astype(np.int64), pins)

    def only(self, kept: np.ndarray) -> "Acts":
        """Some of the acts, by a mask bool [A]; users without any are left out."""
        return Acts.of(self.user_ids[self.owner[kept]], self.pins[kept])


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Mean ranks of each of U users, float64 [U]: of the own acts, and of those of `PARTNERS` other users."""

    own: np.ndarray
    other: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        return self.other - self.own


def draw_ring(count: int, seed: int) -> np.ndarray:
    """An order of `count` users that the seed draws, int64 [count].

    They stand in a ring: the partners of each are the next ones, `PARTNERS` or all others. Nobody is his own partner,
    and everybody is one as often.
    """
    return np.random.default_rng(seed).permutation(count)


def rank_acts(users: np.ndarray, acts: Acts, pins: np.ndarray, drawn: np.ndarray, ring: np.ndarray) -> Ranks:
    """Ranks of users' own and others' acts among drawn pins, by the users' vectors; ties count half.

    The sums of products of float16 unit vectors are exact in float64, in whatever order they are added up: the same
    ranks on every machine, and a pin ties with itself.

    Args:
        users: float16 [U, d], unit vectors.
        acts: Of the same U users, at least two, every one with an act; `pins` are rows of the matrix.
        pins: float16 [P, d], unit vectors.
        drawn: int64 [D], rows of the matrix.
        ring: int64 [U], from `draw_ring`.
    """
    own, other = np.empty(len(users)), np.empty(len(users))
    partners, across = min(PARTNERS, len(users) - 1), pins[drawn].astype(np.float64).T  # [d, D]
    lengths = np.diff(acts.offsets)
    for start in range(0, len(users), BLOCK):
        block = ring[start : start + BLOCK]
        vectors = users[block].astype(np.float64)  # [B, d]
        rivals = np.sort(vectors @ across, axis=1)  # [B, D]
        # The acts of the block's users and of the last one's partners: a user's own and his partners' are neighbours.
        members = np.take(ring, np.arange(start, start + len(block) + partners), mode="wrap")
        edges = np.append(0, np.cumsum(lengths[members]))
        taken = np.concatenate([acts.pins[acts.offsets[u] : acts.offsets[u + 1]] for u in members])
        asked = pins[taken].astype(np.float64)  # [acts, d]
        for row, user in enumerate(block):
            first, stop = edges[row], edges[row + partners + 1]
            scores = asked[first:stop] @ vectors[row]
            nearer = len(drawn) - 0.5 * (rivals[row].searchsorted(scores) + rivals[row].searchsorted(scores, "right"))
            groups = edges[row : row + partners + 1]
            means = np.add.reduceat(nearer, groups - first) / lengths[members[row : row + partners + 1]]
            own[user], other[user] = means[0] / len(drawn), means[1:].mean() / len(drawn)
    return Ranks(own, other)


def rank_by_popularity(acts: Acts, pins: int, drawn: np.ndarray) -> np.ndarray:
    """Mean rank of each user's own acts among drawn pins, by how many OTHER users took a pin; ties count half.

    Args:
        acts: `pins` are rows, below `pins`.
        drawn: int64 [D], rows.

    Returns:
        float64 [U].
    """
    counts = np.bincount(acts.pins, minlength=pins)
    rivals = counts[drawn]
    in_order = np.sort(rivals)
    is_drawn = np.zeros(pins, bool)
    is_drawn[drawn] = True
    mean = np.empty(len(acts))
    for row in range(len(acts)):
        mine = acts.pins[acts.offsets[row] : acts.offsets[row + 1]]
        ordered = in_order
        if is_drawn[mine].any():  # of the drawn pins too, the own act does not count
            ordered = np.sort(rivals - np.isin(drawn, mine))
        asked = counts[mine] - 1
        nearer = len(drawn) - 0.5 * (np.searchsorted(ordered, asked) + np.searchsorted(ordered, asked, "right"))
        mean[row] = nearer.mean() / len(drawn)
    return mean


def describe(values: np.ndarray) -> dict[str, float]:
    """Mean over users, spread (standard deviation) over users, and the error of the mean; six digits are kept."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    found = {"margin": float(values.mean()), "spread": spread, "error": spread / np.sqrt(max(1, len(values)))}
    return {name: round(float(value), 6) for name, value in found.items()}


def describe_ranks(ranks: Ranks, acts: Acts, drawn: int) -> dict[str, Any]:
    """What a manifest keeps of the ranks of some users."""
    return {
        "users": len(acts),
        "acts": len(acts.pins),
        "drawn": drawn,
        **describe(ranks.margin),
        "own": round(float(ranks.own.mean()), 6),
        "other": round(float(ranks.other.mean()), 6),
    }
