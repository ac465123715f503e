"""Whole timelines of many users, from which sequences and labels are drawn (paper, section 6)."""

import dataclasses

import numpy as np

from pinnerformer_model.sequences import TOKEN_COLUMNS, Sequences

EVENT_COLUMNS = ("pin_row", *TOKEN_COLUMNS, "positive")


@dataclasses.dataclass(frozen=True)
class Timelines:
    """Everything that N users did, E events in all, OLDEST FIRST within a user.

    Read backwards, a user's events are in the order of the histories that `daily` keeps, ties included: a model is
    trained on the sequences it is served with. Events whose pin has no vector, or whose action or surface the model
    does not know, are not in here; nor are they in the sequences that `daily` embeds.

    Attributes:
        user_ids: int64 [N], sorted, unique.
        offsets: int64 [N + 1]: user i has events offsets[i] to offsets[i + 1]; none is fine.
        pin_row: int32 [E], row of the event's pin in the matrix of pin vectors that comes with the timelines.
        action, surface: int32 [E], codes of the vocabularies.
        timestamp_ms: int64 [E], UTC; never falls within a user.
        duration_s: float32 [E]; NaN = not measured.
        positive: bool [E], whether the label rule counts the event as a positive engagement.
    """

    user_ids: np.ndarray
    offsets: np.ndarray
    pin_row: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    timestamp_ms: np.ndarray
    duration_s: np.ndarray
    positive: np.ndarray

    def __post_init__(self):
        if len(self.offsets) != len(self.user_ids) + 1:
            raise ValueError("offsets must hold one more entry than user_ids")
        for name in EVENT_COLUMNS:
            if len(getattr(self, name)) != self.offsets[-1]:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, offsets say {int(self.offsets[-1])}")

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: events per user."""
        return np.diff(self.offsets)

    def users(self, rows: np.ndarray) -> "Timelines":
        """The timelines of some users.

        Args:
            rows: int64 [K] row numbers of users, or a mask bool [N]; rows that do not rise give ids that do not.
        """
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        event = ranges(self.offsets[rows], lengths)
        return Timelines(self.user_ids[rows], offsets, **{name: getattr(self, name)[event] for name in EVENT_COLUMNS})

    def before(self, cut_ms: int) -> "Timelines":
        """The events strictly before a moment; every user stays, also one without any."""
        stops = stops_before(self, cut_ms)
        lengths = stops - self.offsets[:-1]
        event = ranges(self.offsets[:-1], lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Timelines(self.user_ids, offsets, **{name: getattr(self, name)[event] for name in EVENT_COLUMNS})


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64: starts[0], starts[0] + 1, ... (lengths[0] of them), starts[1], ...: many ranges, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def search_sorted(
    values: np.ndarray, starts: np.ndarray, stops: np.ndarray, targets: np.ndarray, side: str = "left"
) -> np.ndarray:
    """`np.searchsorted` in many slices of one array at once, by bisection.

    Args:
        values: [E], sorted within every slice.
        starts, stops: int64 [K], the slices.
        targets: [K], what to look for.
        side: `left`: the first place with values >= target; `right`: the first with values > target.

    Returns:
        int64 [K]: places in `values`, between start and stop.
    """
    low, high = starts.astype(np.int64), stops.astype(np.int64)
    # Bisection of all slices in step: as many passes as the longest slice has bits, none of them in Python per user.
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        found = values[np.where(open_, middle, 0)]
        before = found < targets if side == "left" else found <= targets
        low = np.where(open_ & before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def stops_before(timelines: Timelines, cut_ms: np.ndarray | int, rows: np.ndarray | None = None) -> np.ndarray:
    """Where a user's events strictly before a moment end.

    Args:
        cut_ms: int64 [K], one per user asked for, or one for all.
        rows: int64 [K], row numbers of users, may repeat; None: every user once.

    Returns:
        int64 [K]: the user's events offsets[row] to this place are before the cut.
    """
    rows = np.arange(len(timelines)) if rows is None else rows
    cuts = np.broadcast_to(np.asarray(cut_ms, np.int64), rows.shape)
    return search_sorted(timelines.timestamp_ms, timelines.offsets[rows], timelines.offsets[rows + 1], cuts)


def sequences_ending(
    timelines: Timelines, vectors: np.ndarray, rows: np.ndarray, stops: np.ndarray, max_sequence_length: int
) -> Sequences:
    """The newest M events before given places of timelines, as the user tower takes them.

    Args:
        vectors: float16 or float32 [P, D], the matrix of pin vectors.
        rows: int64 [K], row numbers of users; may repeat.
        stops: int64 [K], place after the newest event to take; at least one event must stand before it.
        max_sequence_length: M.

    Returns:
        K sequences, newest first.
    """
    lengths = np.minimum(stops - timelines.offsets[rows], max_sequence_length)
    newest_first = np.repeat(2 * stops - 1 - lengths, lengths) - ranges(stops - lengths, lengths)
    return Sequences(
        user_ids=timelines.user_ids[rows],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pin_vectors=vectors[timelines.pin_row[newest_first]],
        **{name: getattr(timelines, name)[newest_first] for name in TOKEN_COLUMNS},
    )


def merge_users(a: Timelines, b: Timelines) -> Timelines:
    """All users of two timelines, sorted by id.

    Raises:
        ValueError: a user is in both.
    """
    ids = np.concatenate([a.user_ids, b.user_ids])
    order = np.argsort(ids, kind="stable")
    if len(np.unique(ids)) < len(ids):
        raise ValueError("a user is in both splits of the timelines")
    lengths = np.concatenate([a.lengths, b.lengths])
    starts = np.concatenate([a.offsets[:-1], b.offsets[:-1] + a.offsets[-1]])
    event = ranges(starts[order], lengths[order])
    columns = {name: np.concatenate([getattr(a, name), getattr(b, name)])[event] for name in EVENT_COLUMNS}
    return Timelines(ids[order], np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64), **columns)
