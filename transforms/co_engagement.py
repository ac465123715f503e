"""Which pins are engaged with together: pairs counted within a window of each user's history, a bucket at a time."""

import dataclasses
import time
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from stores.files import FileEntry, Root
from stores.ids import bucket_of
from stores.names import Counter, Step
from stores.schemas import ENGAGEMENTS
from transforms.batches import from_ipc, to_ipc
from transforms.item_vector_rules import PairRules
from transforms.report_outputs import REPORTS, report
from transforms.run import RunFolder

PAIRS, USER_PINS = "pairs", "user_pins"

LATELY = -1  # no pin has this id
LATELY_UNIT = 1 << 20
_PAIRS_AT_ONCE = 1 << 24  # counted together before they are summed: 128 MB of keys


@dataclasses.dataclass(frozen=True)
class PairCounts:
    """How often two pins are a pair; sorted by (pin, other), no pair twice.

    Attributes:
        pin, other: int64 [N]; a pair stands here in both directions. A pin beside itself: how often it is engaged with;
            beside `LATELY`: how often lately, in 2^-20, since whole numbers add up to the same in any order.
        count: int64 [N], > 0.
    """

    pin: np.ndarray
    other: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.pin)


def count_pairs(
    user: np.ndarray, pin: np.ndarray, timestamp_ms: np.ndarray, rules: PairRules, before_ms: int = 0
) -> tuple[PairCounts, int]:
    """Counts the pairs of every user; two engagements with one pin are none, and those of one moment count once.

    Args:
        user, pin, timestamp_ms: int64 [N], every engagement of every one of the users, in any order.
        before_ms: The moment that "lately" is counted back from, later than all of them.

    Returns:
        The counts, summed over users; how many users had more pairs than `rules.most_pairs`.
    """
    order = np.lexsort((pin, timestamp_ms, user))
    user, pin, timestamp_ms = user[order], pin[order], timestamp_ms[order]
    first = np.ones(len(user), bool)
    first[1:] = (np.diff(user) != 0) | (np.diff(timestamp_ms) != 0) | (np.diff(pin) != 0)
    user, timestamp_ms = user[first], timestamp_ms[first]
    names, row = np.unique(pin[first], return_inverse=True)
    _, owner = np.unique(user, return_inverse=True)
    left = np.full(owner[-1] + 1 if len(owner) else 0, rules.most_pairs, np.int64)
    capped = np.zeros(len(left), bool)
    summed: list[tuple[np.ndarray, np.ndarray]] = []
    waiting: list[np.ndarray] = []
    # One pass per distance in the history, each a comparison of two columns: no loop over users or events.
    for distance in range(1, min(rules.window, len(user) - 1) + 1):
        same = owner[distance:] == owner[:-distance]
        if not same.any():
            break
        near = timestamp_ms[distance:] - timestamp_ms[:-distance] <= rules.window_ms
        late = np.flatnonzero(same & near & (row[distance:] != row[:-distance])) + distance
        late = _within_budget(owner, late, left, capped)
        low, high = np.minimum(row[late], row[late - distance]), np.maximum(row[late], row[late - distance])
        waiting.append(low * len(names) + high)
        if sum(map(len, waiting)) > _PAIRS_AT_ONCE:
            summed, waiting = [_sum(summed, waiting)], []
    key, count = _sum(summed, waiting)
    low, high = names[key // max(1, len(names))], names[key % max(1, len(names))]
    own = np.bincount(row, minlength=len(names))
    pins, others, counts = [low, high, names], [high, low, names], [count, count, own]
    if rules.half_life_ms:
        lately = np.floor(LATELY_UNIT * 0.5 ** ((before_ms - timestamp_ms) / rules.half_life_ms))
        pins.append(names)
        others.append(np.full_like(names, LATELY))
        counts.append(np.bincount(row, lately, len(names)).astype(np.int64))
    return _sorted(*map(np.concatenate, (pins, others, counts))), int(capped.sum())


def _within_budget(owner: np.ndarray, late: np.ndarray, left: np.ndarray, capped: np.ndarray) -> np.ndarray:
    """Of the pairs of one distance those that their user still may have, the newest first; takes them off `left`."""
    mine = owner[late]
    asked = np.bincount(mine, minlength=len(left))
    ends = np.cumsum(asked)
    from_newest = ends[mine] - np.arange(len(late))  # 1 for a user's newest pair
    kept = from_newest <= left[mine]
    capped |= asked > left
    left -= np.minimum(asked, left)
    return late[kept]


def _sum(summed: list[tuple[np.ndarray, np.ndarray]], keys: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Adds single keys to (keys, counts): sorted keys without repeats, counts int64."""
    parts = list(summed)
    if keys:
        parts.append(np.unique(np.concatenate(keys), return_counts=True))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    key, place = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    count = np.bincount(place, np.concatenate([part[1] for part in parts]), len(key))
    return key, count.astype(np.int64)


def _sorted(pin: np.ndarray, other: np.ndarray, count: np.ndarray) -> PairCounts:
    order = np.lexsort((other, pin))
    return PairCounts(pin[order], other[order], count[order])


def add_counts(parts: Iterable[PairCounts]) -> PairCounts:
    """Adds counts of several buckets, in whatever order they come."""
    joined = [np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*map(_columns, parts), strict=True)]
    if not joined:
        return PairCounts(*(np.empty(0, np.int64) for _ in range(3)))
    pairs = _sorted(*joined)
    first = np.ones(len(pairs), bool)
    first[1:] = (np.diff(pairs.pin) != 0) | (np.diff(pairs.other) != 0)
    start = np.flatnonzero(first)
    return PairCounts(
        pairs.pin[start], pairs.other[start], np.add.reduceat(pairs.count, start) if len(start) else start
    )


def _columns(counts: PairCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return counts.pin, counts.other, counts.count


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The strongest neighbours of some pins, and what is known of each pin itself.

    Attributes:
        pin: int64 [P], sorted, unique.
        engagements: int64 [P], how often it is engaged with.
        pairs: int64 [P], the sum of its counts with all others, kept or not.
        kept: Its counts with the others that were kept; no pin stands beside itself.
        lately: int64 [P], how often it is engaged with lately, in 2^-20; 0 where that was not asked.
    """

    pin: np.ndarray
    engagements: np.ndarray
    pairs: np.ndarray
    kept: PairCounts
    lately: np.ndarray


def strongest(counts: PairCounts, most: int) -> Neighbours:
    """Keeps of every pin the `most` others that it is counted with most often; equal counts: the lower id first.

    Args:
        counts: Everything that was counted of every one of the pins.
        most: > 0.
    """
    own = counts.pin == counts.other
    pin, engagements = counts.pin[own], counts.count[own]
    now = counts.other == LATELY
    lately = np.zeros(len(pin), np.int64)
    lately[np.searchsorted(pin, counts.pin[now])] = counts.count[now]
    pairs = PairCounts(*(column[~own & ~now] for column in _columns(counts)))
    at = np.searchsorted(pin, pairs.pin)
    total = np.bincount(at, pairs.count, len(pin)).astype(np.int64)
    order = np.lexsort((pairs.other, -pairs.count, pairs.pin))
    rank = np.arange(len(pairs)) - np.searchsorted(at, np.arange(len(pin)))[at]  # sorted by pin before and after
    kept = np.sort(order[rank < most])
    return Neighbours(pin, engagements, total, PairCounts(*(column[kept] for column in _columns(pairs))), lately)


def user_pins(user: np.ndarray, pin: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each user engaged with each pin: user_id, pin_id, count, int64 [N] each, sorted, no pair twice."""
    order = np.lexsort((pin, user))
    user, pin = user[order], pin[order]
    first = np.ones(len(user), bool)
    first[1:] = (np.diff(user) != 0) | (np.diff(pin) != 0)
    start = np.flatnonzero(first)
    return user[start], pin[start], np.diff(np.append(start, len(user)))


def split_by_shard(counts: PairCounts, shards: int) -> Iterator[tuple[int, bytes]]:
    """Yields (shard, Arrow IPC bytes) of counts, by the shard of `pin`."""
    shard = bucket_of(counts.pin, shards)
    for s in range(shards):
        mine = shard == s
        if mine.any():
            batch = pa.record_batch([pa.array(c[mine]) for c in _columns(counts)], names=["pin", "other", "count"])
            for chunk in to_ipc(batch):
                yield s, chunk


def write_columns(run: RunFolder, folder: str, part: int, columns: dict[str, np.ndarray]) -> FileEntry:
    """Writes int64 columns as an Arrow file into a folder of the run, under a name made of their content."""
    batch = pa.record_batch([pa.array(column) for column in columns.values()], names=list(columns))

    def write(path: str) -> None:
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    where = f"{run.staging}/{folder}"
    return run.root.write_named_by_content(where, f"{part:05d}", ".arrow", part, batch.num_rows, write)


def read_columns(root: Root, entry: FileEntry) -> dict[str, np.ndarray]:
    """Reads what `write_columns` wrote."""
    with root.open_input(entry.path) as source:
        table = pa.ipc.open_file(source).read_all()
    return {name: np.concatenate([np.empty(0, np.int64), table[name].to_numpy()]) for name in table.column_names}


class CountPairs(beam.DoFn):
    """(bucket, IPC chunks of rows) -> (shard, IPC bytes of counts); on `USER_PINS` a staged file, if asked for."""

    def __init__(self, run: RunFolder, rules: PairRules, before_ms: int, shards: int, keep_users: bool):
        self._run = run
        self._rules = rules
        self._before_ms = before_ms
        self._shards = shards
        self._keep_users = keep_users

    def setup(self):
        self._run.check_root()

    def process(self, element: tuple[int, Iterable[bytes]]):
        started = time.perf_counter()
        bucket, chunks = element
        rows = pa.Table.from_batches(from_ipc(chunks), ENGAGEMENTS)
        # A partition holds moments past the day of `--until` where its days are another zone's, or clocks are fast.
        known = rows["timestamp_ms"].to_numpy() < self._before_ms
        user, pin, at = (rows[name].to_numpy()[known] for name in ("user_id", "pin_id", "timestamp_ms"))
        counts, capped = count_pairs(user, pin, at, self._rules, self._before_ms)
        counters: dict[str, int] = {
            Counter.USERS: len(np.unique(user)),
            Counter.EVENTS: len(user),
            Counter.ROWS_AFTER_UNTIL: rows.num_rows - len(user),
            Counter.USERS_CAPPED: capped,
        }
        if self._keep_users and len(user):
            columns = dict(zip(("user", "pin", "count"), user_pins(user, pin), strict=True))
            yield beam.pvalue.TaggedOutput(USER_PINS, write_columns(self._run, "user_pins", bucket, columns))
        yield from split_by_shard(counts, self._shards)
        self._run.note_progress(Step.COUNT_PAIRS, counters[Counter.USERS])
        yield report(Step.COUNT_PAIRS, started, counters)


class KeepStrongest(beam.DoFn):
    """(shard, IPC chunks of counts) -> (FileEntry of the pins, FileEntry of their kept counts), both staged."""

    def __init__(self, run: RunFolder, most: int):
        self._run = run
        self._most = most

    def setup(self):
        self._run.check_root()

    def process(self, element: tuple[int, Iterable[bytes]]):
        started = time.perf_counter()
        shard, chunks = element
        batches = from_ipc(chunks)
        parts = [PairCounts(*(batch[n].to_numpy() for n in ("pin", "other", "count"))) for batch in batches]
        counts = add_counts(parts)
        found = strongest(counts, self._most)
        pins = {name: getattr(found, name) for name in ("pin", "engagements", "pairs", "lately")}
        kept = {"pin": found.kept.pin, "other": found.kept.other, "count": found.kept.count}
        yield write_columns(self._run, "pins", shard, pins), write_columns(self._run, "kept", shard, kept)
        self._run.note_progress(Step.KEEP_NEIGHBOURS, len(found.pin))
        counters: dict[str, int] = {
            Counter.PINS: len(found.pin),
            Counter.PAIRS: int(((counts.other != counts.pin) & (counts.other != LATELY)).sum()),
            Counter.PAIRS_KEPT: len(found.kept),
        }
        yield report(Step.KEEP_NEIGHBOURS, started, counters)


def read_neighbours(root: Root, entries: Iterable[tuple[FileEntry, FileEntry]]) -> Neighbours:
    """All shards' pins and kept counts as one, sorted by pin."""
    pins, kept = ([read_columns(root, entry) for entry in column] for column in zip(*entries, strict=True))
    joined = {name: np.concatenate([part[name] for part in pins]) for name in pins[0]}
    order = np.argsort(joined["pin"])
    columns = (np.concatenate([part[name] for part in kept]) for name in ("pin", "other", "count"))
    pin, engagements, pairs, lately = (joined[name][order] for name in ("pin", "engagements", "pairs", "lately"))
    return Neighbours(pin, engagements, pairs, _sorted(*columns), lately)


@dataclasses.dataclass
class CountCoEngagement(beam.PTransform):
    """Counts which pins are engaged with together, and keeps each pin's strongest neighbours.

    Input: (bucket, Arrow IPC bytes) of rows. Output: `main`, (FileEntry, FileEntry) as `read_neighbours` takes them;
    `user_pins`, FileEntry, if users are kept; `reports`.

    Attributes:
        before_ms: Engagements from this moment on are not looked at.
        shards: Of the pins.
        most: Neighbours kept of a pin.
        keep_users: Whether what each user engaged with is staged as well: what ALS is made of.
    """

    run: RunFolder
    rules: PairRules
    before_ms: int
    shards: int
    most: int
    keep_users: bool

    def expand(self, chunks: beam.PCollection[tuple[int, bytes]]):
        count = CountPairs(self.run, self.rules, self.before_ms, self.shards, self.keep_users)
        # Rows are grouped by user's bucket as everywhere; what is shuffled after that is counts, summed over a bucket.
        counted = (
            chunks
            | "GroupByBucket" >> beam.GroupByKey()
            | "CountPairs" >> beam.ParDo(count).with_outputs(USER_PINS, REPORTS, main=PAIRS)
        )
        kept = (
            counted[PAIRS]
            | "GroupByShard" >> beam.GroupByKey()
            | "KeepStrongest" >> beam.ParDo(KeepStrongest(self.run, self.most)).with_outputs(REPORTS, main="main")
        )
        reports = (counted[REPORTS], kept[REPORTS]) | "Reports" >> beam.Flatten()
        return {"main": kept["main"], USER_PINS: counted[USER_PINS], REPORTS: reports}
