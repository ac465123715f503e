"""What is asked of an embedding: moments, the positives they must foresee, and the figures (paper, section 7)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pinnerformer_model.collapse import mean_length, most_covering_pins, overlap
from pinnerformer_model.days import DAY_MS
from pinnerformer_model.evaluation_names import FREQUENCIES
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.ranking import Pairs, Scorer, coverage, hits_at_k, interest_entropy, top_k
from pinnerformer_model.timelines import Timelines, ranges, sequences_ending, stops_before
from pinnerformer_model.user_errors import USER_IDS, difference, pool, ratio
from pinnerformer_model.user_tower import UserTower

_QUERIES_AT_ONCE = 4096  # sequences gathered at a time: 4096 x M x 256 numbers


@dataclasses.dataclass(frozen=True)
class Moments:
    """Q queries: at a moment a user's vector is made, and it must foresee the targets that follow.

    Attributes:
        user: int64 [Q], row of the user in the timelines.
        stop: int64 [Q], place in the timelines after the newest event that the vector may know.
        cut_ms: int64 [Q], every event before this is known.
        targets: The positives, each distinct (user, pin) once, at its first moment in the window.
        new: bool [T], whether the user had never engaged with the target's pin before the window.
        others: The positives of the whole window of a query's user, which do not compete.
        known: Those and the pins that the user had engaged with before the window.
    """

    user: np.ndarray
    stop: np.ndarray
    cut_ms: np.ndarray
    targets: Pairs
    new: np.ndarray
    others: Pairs
    known: Pairs

    def __len__(self) -> int:
        return len(self.user)

    @property
    def target_user(self) -> np.ndarray:
        """int64 [T]."""
        return self.user[self.targets.query]


def _distinct(user: np.ndarray, pin: np.ndarray) -> np.ndarray:
    """Places of the first occurrence of every (user, pin), in order of user and pin."""
    # Places ascend in time within a user, and a stable sort keeps that among equals.
    order = np.lexsort((pin, user))  # stable: the first of equals is the earliest
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(user[order]) != 0) | (np.diff(pin[order]) != 0)
    return order[first]


def moments_of(timelines: Timelines, cut_ms: int, days: int = 14, frequency: str = "once") -> Moments:
    """The queries of an evaluation over the window [cut, cut + days).

    `once`: one vector at the cut. `daily`: a positive is met by the vector made of everything before its day began, in
    whole days after the cut: what happens today counts from tomorrow on, the delay of a nightly job. `realtime`: by the
    vector of everything strictly before the positive; what shares its millisecond (the lines of one receipt) does not
    count.

    Users without an event before the cut, or without a positive in the window, ask nothing: `once` has no vector for
    the former, and the three frequencies must be asked the same.

    Args:
        cut_ms: int64; events from this moment on are the future.
        days: Length of the window.
        frequency: One of `FREQUENCIES`.

    Raises:
        ValueError: another frequency, or more users x milliseconds of the window than int64 counts.
    """
    if frequency not in FREQUENCIES:
        raise ValueError(f"frequency must be one of {', '.join(FREQUENCIES)}, got {frequency!r}")
    if len(timelines) * days * DAY_MS >= 1 << 63:  # 10 million users have 29 years each
        raise ValueError(
            f"{len(timelines):,} users x {days:,} days, in ms, are more than int64 counts; take a shorter window"
        )
    owner = np.repeat(np.arange(len(timelines)), timelines.lengths)
    time, pin = timelines.timestamp_ms, timelines.pin_row.astype(np.int64)
    # Asked alike at every frequency: `realtime` could embed a user from the first event on, and its recall would be of
    # other users.
    has_past = stops_before(timelines, cut_ms) > timelines.offsets[:-1]
    inside = (time >= cut_ms) & (time < cut_ms + days * DAY_MS) & timelines.positive & has_past[owner]
    event = np.flatnonzero(inside)
    # Before the moments are taken: a positive counts once, when it was first new.
    event = event[_distinct(owner[event], pin[event])]
    past = np.flatnonzero((time < cut_ms) & has_past[owner])
    past = past[_distinct(owner[past], pin[past])]

    # Everything a query may know ends at its moment; so a moment is all that tells the three frequencies apart.
    if frequency == "once":
        moment = np.full(len(event), cut_ms, np.int64)
    elif frequency == "daily":
        moment = cut_ms + (time[event] - cut_ms) // DAY_MS * DAY_MS
    else:
        moment = time[event]
    # A (user, moment) is one number, user x span + moment: one sort, where two columns would take two.
    span = days * DAY_MS
    asked, query = np.unique(owner[event] * span + (moment - cut_ms), return_inverse=True)  # by user, then time
    user, cut = asked // span, cut_ms + asked % span
    targets = Pairs.sorted(query, pin[event])
    # `Pairs.sorted` orders the targets by query and pin; what is said of each of them must follow.
    placed = np.lexsort((pin[event], query))
    new = ~np.isin(_pair_key(owner[event], pin[event], pin), _pair_key(owner[past], pin[past], pin))[placed]
    # A user has several queries at `daily` and `realtime`: positives of other moments are no wrong answers to this one.
    others = pairs_per_query(user, owner[event], pin[event])
    known = pairs_per_query(user, np.concatenate([owner[event], owner[past]]), np.concatenate([pin[event], pin[past]]))
    return Moments(user, stops_before(timelines, cut, user), cut, targets, new, others, known)


def _pair_key(user: np.ndarray, pin: np.ndarray, pins: np.ndarray) -> np.ndarray:
    """One int64 a (user, pin): pins are int32 rows of a matrix, so that 2^32 users have room."""
    return user * (int(pins.max(initial=0)) + 1) + pin


def pairs_per_query(query_user: np.ndarray, user: np.ndarray, pin: np.ndarray) -> Pairs:
    """Every query with all the pins that its user has in (user, pin)."""
    # Sorted by user once; then a query's pairs are a range, found by binary search.
    order = np.argsort(user, kind="stable")
    user, pin = user[order], pin[order]
    begin, end = np.searchsorted(user, query_user), np.searchsorted(user, query_user, side="right")
    query = np.repeat(np.arange(len(query_user)), end - begin)
    return Pairs.sorted(query, pin[ranges(begin, end - begin)])


def embed_moments(
    tower: UserTower, timelines: Timelines, vectors: np.ndarray, moments: Moments, max_sequence_length: int
) -> np.ndarray:
    """The served embedding of every query: float16 [Q, d].

    Args:
        tower: In eval mode.
        vectors: float [P, D], the matrix that `pin_row` counts in.
        max_sequence_length: M.
    """
    encoder = UserEncoder(tower)
    pieces = []
    # `realtime` has a sequence per positive: gathered all at once, their vectors would be many times the timelines.
    for start in range(0, len(moments), _QUERIES_AT_ONCE):
        rows, stops = (column[start : start + _QUERIES_AT_ONCE] for column in (moments.user, moments.stop))
        pieces.append(encoder.encode(sequences_ending(timelines, vectors, rows, stops, max_sequence_length)))
    return np.concatenate(pieces) if pieces else np.empty((0, tower.head_out.out_features), np.float16)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What was measured; recall is (per positive, per user).

    Attributes:
        users, positives, positives_new: How many there were.
        recall: Of all positives, among all pins of the corpus.
        recall_new: Of pins new to the user, among the pins new to the user (as `retrieve --exclude-engaged` serves).
        recall_repeat: Of pins that the user had engaged with before, among all pins.
        errors: Standard errors over users of the three per positive; see `user_errors`.
        entropy: Interest entropy@50 in nats; None without topics.
        coverage: P90 coverage@10.
        coverage_ceiling: What coverage can be at most with so many users.
        overlap: Of two users' ten best, on average, the share that both are answered.
        mean_length: Length of the mean of the users' unit vectors; None where users have none.
        by_user: See `Hits.by_user`, and `user_ids`; not in the JSON.
    """

    users: int
    positives: int
    positives_new: int
    recall: tuple[float, float]
    recall_new: tuple[float, float]
    recall_repeat: tuple[float, float]
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    entropy: float | None = None
    coverage: float | None = None
    coverage_ceiling: float | None = None
    overlap: float | None = None
    mean_length: float | None = None
    by_user: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        del found["by_user"]
        return found

    def less(self, other: "Figures") -> dict[str, tuple[float, float]]:
        """How far this is ahead of another row: `recall` and `recall_new`, each (difference, its standard error).

        Raises:
            ValueError: the two are not of the same users.
        """
        mine, theirs = self.by_user, other.by_user
        if not np.array_equal(mine[USER_IDS], theirs[USER_IDS]):
            raise ValueError("figures of other users: a difference is taken over the same ones")
        return {
            name: difference(
                mine[f"hits{kind}"], mine[f"targets{kind}"], theirs[f"hits{kind}"], theirs[f"targets{kind}"]
            )
            for name, kind in (("recall", ""), ("recall_new", "_new"))
        }


DIVERSITY = ("entropy", "coverage", "coverage_ceiling", "overlap", "mean_length")


def figures_of(by_user: dict[str, np.ndarray]) -> Figures:
    """Recall and its errors from the sums of every user, without the figures of diversity.

    Args:
        by_user: `user_ids`, and what `Hits.by_user` gives.
    """

    def both(kind: str) -> tuple[tuple[float, float], float]:
        hits, targets = by_user[f"hits{kind}"], by_user[f"targets{kind}"]
        value, error = ratio(hits, targets)
        asked = targets > 0
        return (value, float((hits[asked] / targets[asked]).mean()) if asked.any() else float("nan")), error

    found = {name: both(kind) for name, kind in (("recall", ""), ("recall_new", "_new"), ("recall_repeat", "_repeat"))}
    return Figures(
        users=len(by_user[USER_IDS]),
        positives=int(by_user["targets"].sum()),
        positives_new=int(by_user["targets_new"].sum()),
        recall=found["recall"][0],
        recall_new=found["recall_new"][0],
        recall_repeat=found["recall_repeat"][0],
        errors={name: error for name, (_, error) in found.items()},
        by_user=by_user,
    )


def pool_figures(parts: Sequence[Figures]) -> Figures:
    """Several folds or cuts in time as one; of diversity, the mean over them."""
    if len(parts) == 1:
        return parts[0]
    pooled = figures_of(pool([part.by_user for part in parts]))
    diversity: dict[str, Any] = {}
    for name in DIVERSITY:
        values = [getattr(part, name) for part in parts]
        diversity[name] = None if None in values else float(np.mean(values))
    return dataclasses.replace(pooled, **diversity)


@dataclasses.dataclass(frozen=True)
class Hits:
    """Which targets were hit.

    Attributes:
        everything: float64 [T], of all targets among all pins of the corpus.
        among_new: float64 [T_new], of the new targets among the pins new to their user.
    """

    everything: np.ndarray
    among_new: np.ndarray

    def by_user(self, moments: Moments) -> dict[str, np.ndarray]:
        """Sums a user, float64 [U] each, users in their order: `hits` of `targets`, and the same of what is `_new` to
        the user and of what the user had engaged with before, `_repeat`."""
        users, user = np.unique(moments.target_user, return_inverse=True)
        new, again = user[moments.new], user[~moments.new]

        def sums(user: np.ndarray, hits: np.ndarray | None = None) -> np.ndarray:
            return np.bincount(user, hits, len(users)).astype(np.float64)

        return {
            "hits": sums(user, self.everything),
            "targets": sums(user),
            "hits_new": sums(new, self.among_new),
            "targets_new": sums(new),
            "hits_repeat": sums(again, self.everything[~moments.new]),
            "targets_repeat": sums(again),
        }


def find_hits(score: Scorer, moments: Moments, in_corpus: np.ndarray, k: int = 10) -> Hits:
    """Which targets a scorer of the moments' queries hits.

    Args:
        score: Scores every candidate for a query, by its row number in the moments.
        in_corpus: bool [P], which pins compete.
        k: Of recall@k.
    """
    fresh = Pairs(moments.targets.query[moments.new], moments.targets.row[moments.new])
    return Hits(
        hits_at_k(score, len(moments), in_corpus, moments.targets, moments.others, k),
        hits_at_k(score, len(moments), in_corpus, fresh, moments.known, k),
    )


def measure(hits: Hits, moments: Moments, user_ids: np.ndarray | None = None) -> Figures:
    """Recall, without the figures of diversity.

    Args:
        user_ids: int64 [N], of the timelines that the moments are of; None: users are named by their rows.
    """
    users = np.unique(moments.target_user)
    return figures_of({USER_IDS: users if user_ids is None else user_ids[users], **hits.by_user(moments)})


def measure_diversity(
    figures: Figures,
    best: Callable[[int], np.ndarray],
    in_corpus: np.ndarray,
    topic: np.ndarray | None,
    queries: np.ndarray | None = None,
) -> Figures:
    """Adds how personal the answers are: interest entropy@50, P90 coverage@10 and its ceiling, overlap, mean length.

    Args:
        best: k -> the k best candidates of every user, int64 [U, k].
        in_corpus: bool [P].
        topic: int64 [P], >= 0; None: no entropy.
        queries: float [U, d], the users' vectors; None: users have none.
    """
    pins = int(in_corpus.sum())
    top = best(min(50, pins))
    ten = top[:, :10]
    return dataclasses.replace(
        figures,
        entropy=None if topic is None else interest_entropy(topic[top]),
        coverage=coverage(ten, pins),
        coverage_ceiling=most_covering_pins(len(ten), ten.shape[1], pins) / pins,
        overlap=overlap(ten),
        mean_length=None if queries is None else mean_length(queries),
    )


def best_of(score: Scorer, moments: Moments, in_corpus: np.ndarray) -> Callable[[int], np.ndarray]:
    """k -> the k best candidates of every query."""
    return lambda k: top_k(score, len(moments), in_corpus, k)
