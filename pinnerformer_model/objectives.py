"""The four training objectives: which positions of a user predict which positives (paper, section 5).

All four are one rule with three settings. Every event has a label range: the positives it may be asked to predict, all
STRICTLY later than the event. A window is a user's newest M events up to the end of a moment that has a label; the
objective says which of its positions predict, and how many labels each of them draws from its range.

| objective | positions | labels of each | label range of an event |
|---|---|---|---|
| `next_action` | the newest | 1 | the next positive |
| `sasrec` | every one that has a label | 1 | the next positive |
| `all_action` | the newest | at most `labels`, no event twice | the positives of the next K days |
| `dense_all_action` | at most `positions`, drawn | 1 | the positives of the next K days |

Ours: positives that share one moment (the lines of a receipt) are all "the next positive", and one of them is drawn; a
window ends with the last of them, never inside a receipt, since no night serves a user in the middle of one. A label
may be a later token of the same window; the causal mask keeps it from the position that predicts it.
"""

import dataclasses

import numpy as np

from pinnerformer_model.days import DAY_MS
from pinnerformer_model.permutation import permuted
from pinnerformer_model.timelines import Timelines, ranges, search_sorted
from pinnerformer_model.training_settings import Objective


@dataclasses.dataclass(frozen=True)
class LabelRanges:
    """What each event may be asked to predict: a run of the user's positives, in order of time.

    Attributes:
        positives: int64 [L], places of the positive events in the timelines.
        first: int64 [E], place in `positives` of an event's first label.
        count: int64 [E], how many it has; 0 = none.
    """

    positives: np.ndarray
    first: np.ndarray
    count: np.ndarray


def label_ranges(
    timelines: Timelines, horizon_ms: int | None, end_ms: int | None = None, since_ms: int | None = None
) -> LabelRanges:
    """The labels of every event: positives of the same user, strictly later.

    Args:
        horizon_ms: Labels lie within so many milliseconds, the last one included; None: the next positive only, and
            those that share its moment.
        end_ms: The timelines hold what was before this moment, and an event whose horizon reaches it has no label;
            None: it has those that there are.
        since_ms: No label is before this moment; None: any may be.
    """
    events = len(timelines.timestamp_ms)
    may = timelines.positive if since_ms is None else timelines.positive & (timelines.timestamp_ms >= since_ms)
    positives = np.flatnonzero(may)
    time = timelines.timestamp_ms[positives]
    # All users' ranges at once: positives are sorted by place, so a user's are a range of them.
    edges = np.searchsorted(positives, timelines.offsets)  # positives per user, as a range of `positives`
    owner = np.repeat(np.arange(len(timelines)), timelines.lengths)
    stop = edges[1:][owner] if events else np.empty(0, np.int64)
    # `right`: strictly later. What shares the moment of an event, the lines of one receipt, is not its future.
    first = search_sorted(time, edges[:-1][owner], stop, timelines.timestamp_ms, "right")
    if horizon_ms is not None:
        last = timelines.timestamp_ms + horizon_ms
    else:
        last = np.zeros(events, np.int64)
        has_label = first < stop
        last[has_label] = time[first[has_label]]
    count = search_sorted(time, first, stop, last, "right") - first
    if horizon_ms is not None and end_ms is not None:
        count[last >= end_ms] = 0
    return LabelRanges(positives, first, count)


@dataclasses.dataclass(frozen=True)
class Draw:
    """The windows of one step, and what their positions predict.

    Attributes:
        rows: int64 [S], the user of every window, a row of the timelines.
        stops: int64 [S], place after its newest event.
        query_window: int64 [Q], the window of every position that predicts; never falls.
        query_position: int64 [Q], 0 = the newest.
        pair_query: int64 [P], the query of every (position, label) pair; never falls.
        pair_event: int64 [P], the event it predicts.
    """

    rows: np.ndarray
    stops: np.ndarray
    query_window: np.ndarray
    query_position: np.ndarray
    pair_query: np.ndarray
    pair_event: np.ndarray


def keep_at_most(
    group: np.ndarray, most: int, random: np.random.Generator, always: np.ndarray | None = None
) -> np.ndarray:
    """A random choice of at most `most` of the members of every group, all choices alike.

    Args:
        group: int64 [C], never falls.
        always: bool [C], members that are chosen before any other.

    Returns:
        int64: places in `group`, rising.
    """
    # Sorted by a random key within the group, the first `most` are a fair choice, for all groups in one sort.
    key = random.random(len(group))
    if always is not None:
        key[always] = -1
    order = np.lexsort((key, group))
    start = np.searchsorted(group, group)  # group[order] == group: sorting moves members within groups only
    return np.sort(order[np.arange(len(group)) - start < most])


class Sampler:
    """Draws the windows and labels of any training step; the same step gives the same draw, whatever came before.

    Users come in a new random order every epoch, so that each is seen as often as any other; those without any event
    that has a label are left out. A window ends with the last event of one of its user's moments that have a label,
    drawn uniformly. A step costs as much as its users, however many there are.

    Args:
        timelines: Of the training users, cut where training ends.
        objective: Which positions predict what.
        max_sequence_length: M.
        users_per_step: Different users of a step; fewer, if there are fewer.
        windows_per_user: Windows drawn per user.
        window_share: Of all windows there are, how many may be drawn (paper, section 6); every user keeps one.
        end_ms: Where the timelines were cut, for the objective's `full_windows` and `label_days`; None: after their
            latest event.
        seed: Of everything drawn.

    Raises:
        ValueError: no event of no user has a label.
    """

    def __init__(
        self,
        timelines: Timelines,
        objective: Objective,
        *,
        max_sequence_length: int,
        users_per_step: int,
        windows_per_user: int = 1,
        window_share: float = 1.0,
        end_ms: int | None = None,
        seed: int = 0,
    ):
        self.timelines = timelines
        self._objective = objective
        self._length = max_sequence_length
        self._windows = windows_per_user
        self._seed = seed
        end_ms = int(timelines.timestamp_ms.max(initial=-1)) + 1 if end_ms is None else end_ms
        since_ms = None if objective.label_days is None else end_ms - int(objective.label_days * DAY_MS)
        cut_off = end_ms if objective.full_windows else None
        self._labels = label_ranges(timelines, objective.horizon_ms, cut_off, since_ms)
        ends = np.flatnonzero((self._labels.count > 0) & ends_of_moments(timelines))
        self._ends = thin_out(ends, timelines, window_share, seed)  # events a window may end at
        self._edges = np.searchsorted(self._ends, timelines.offsets)
        self.users = np.flatnonzero(np.diff(self._edges))
        if not len(self.users):
            cut = " that training's end does not cut off" if objective.full_windows else ""
            raise ValueError(
                f"no event has a positive of the same user later than itself, within the objective's days{cut}"
            )
        self.users_per_step = min(users_per_step, len(self.users))

    @property
    def steps_per_epoch(self) -> int:
        return len(self.users) // self.users_per_step

    def draw(self, step: int) -> Draw:
        """The draw of a step, counted from 0."""
        epoch, turn = divmod(step, self.steps_per_epoch)
        # An order per epoch, from its number, looked up at this step's places only: step 10,000 can be drawn without
        # the 9,999 before it, and ten million users are not shuffled to take a hundred of them.
        places = np.arange(turn * self.users_per_step, (turn + 1) * self.users_per_step)
        chosen = self.users[permuted(places, len(self.users), [self._seed, 1, epoch])]
        random = np.random.default_rng([self._seed, 2, step])
        rows = np.repeat(chosen, self._windows)
        first, width = self._edges[rows], self._edges[rows + 1] - self._edges[rows]
        stops = self._ends[first + _below(width, random)] + 1
        return self._predict(rows, stops, random)

    def _predict(self, rows: np.ndarray, stops: np.ndarray, random: np.random.Generator) -> Draw:
        """Draws positions and labels of windows that end at events with a label."""
        name, labels = self._objective.name, self._labels
        if name in ("next_action", "all_action"):
            window, event = np.arange(len(rows)), stops - 1
        else:
            lengths = np.minimum(stops - self.timelines.offsets[rows], self._length)
            window = np.repeat(np.arange(len(rows)), lengths)
            event = np.repeat(2 * stops - 1 - lengths, lengths) - ranges(stops - lengths, lengths)  # newest first
            kept = np.flatnonzero(labels.count[event])
            if name == "dense_all_action":
                always = None if self._objective.newest_weight is None else (event == stops[window] - 1)[kept]
                kept = kept[keep_at_most(window[kept], self._objective.positions, random, always)]
            window, event = window[kept], event[kept]
        if name == "all_action":
            pair_query = np.repeat(np.arange(len(event)), labels.count[event])
            label = ranges(labels.first[event], labels.count[event])
            kept = keep_at_most(pair_query, self._objective.labels, random)
            pair_query, label = pair_query[kept], label[kept]
        else:
            pair_query = np.arange(len(event))
            label = labels.first[event] + _below(labels.count[event], random)
        return Draw(rows, stops, window, stops[window] - 1 - event, pair_query, labels.positives[label])


def ends_of_moments(timelines: Timelines) -> np.ndarray:
    """bool [E]: events after which their user's next one, if there is any, is later."""
    ends = np.ones(len(timelines.timestamp_ms), bool)
    ends[:-1] = timelines.timestamp_ms[1:] != timelines.timestamp_ms[:-1]
    lengths = timelines.lengths
    ends[timelines.offsets[1:][lengths > 0] - 1] = True  # whatever the next user's first moment is
    return ends


def thin_out(ends: np.ndarray, timelines: Timelines, share: float, seed: int) -> np.ndarray:
    """A share of the windows' ends, drawn once for the whole training; a user that has any keeps one at least.

    Args:
        ends: int64 [W], events; rising.
        share: In (0, 1].

    Returns:
        int64: of `ends`, rising.
    """
    if share >= 1 or not len(ends):
        return ends
    key = np.random.default_rng([seed, 4]).random(len(ends))
    owner = np.searchsorted(timelines.offsets, ends, side="right")
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    lowest = np.minimum.reduceat(key, starts)
    return ends[(key < share) | (key == np.repeat(lowest, np.diff(starts, append=len(ends))))]


def _below(bounds: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """int64: a whole number in [0, bound) for every bound."""
    return np.minimum((random.random(len(bounds)) * bounds).astype(np.int64), bounds - 1)
