"""A draw made into the tensors of one training step, and a thread that keeps them coming."""

import dataclasses
import queue
import threading
import time

import numpy as np
import torch

from pinnerformer_model.distributed import ALONE, Group
from pinnerformer_model.negatives import make_pool, pair_weights
from pinnerformer_model.objectives import Draw, Sampler
from pinnerformer_model.packed import PackedWindows, pack_windows
from pinnerformer_model.sequences import form_batches
from pinnerformer_model.timelines import Timelines
from pinnerformer_model.training_settings import TrainingSettings


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """One rank's part of a step, as tensors; Q queries and P pairs of its own windows, N pins of all ranks.

    Attributes:
        windows: Packed windows of like lengths, each with the rows and positions [K] of its queries.
        query_order: int64 [Q], undoes the order by length.
        pin_vectors: float32 [K, 256], this rank's share of the pool's vectors, padded to the same K everywhere.
        pins: int64 [N], rows of the corpus.
        copies: float32 [N].
        labels: int64, the labels of all ranks, repeats included: what is counted.
        pair_query, pair_pin, masked_query, masked_pin: int64, as `sampled_softmax` takes them.
        pair_weight: float32 [P].
        pair_own: float32 [P], copies of the label expected because its user is in the batch.
        in_batch_size, random_size: Of the pool.
    """

    windows: list[tuple[PackedWindows, torch.Tensor, torch.Tensor]]
    query_order: torch.Tensor
    pin_vectors: torch.Tensor
    pins: torch.Tensor
    copies: torch.Tensor
    labels: torch.Tensor
    pair_query: torch.Tensor
    pair_pin: torch.Tensor
    masked_query: torch.Tensor
    masked_pin: torch.Tensor
    pair_weight: torch.Tensor
    pair_own: torch.Tensor
    in_batch_size: int
    random_size: int

    def to(self, device: str | torch.device) -> "StepBatch":
        """The same batch on a device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), torch.Tensor)
        }
        windows = [(batch.to(device), row.to(device), position.to(device)) for batch, row, position in self.windows]
        return dataclasses.replace(self, windows=windows, **moved)

    @property
    def tokens(self) -> int:
        """Real tokens: nothing is padded."""
        return sum(len(windows.age) for windows, _, _ in self.windows)

    @property
    def query_user(self) -> torch.Tensor:
        """int64 [Q]: the id of every query's user."""
        return torch.cat([windows.user_ids[row] for windows, row, _ in self.windows])[self.query_order]


class BatchMaker:
    """Makes the batch of any step from its number alone, so that data have no position to be saved.

    Every rank draws the whole step, which costs little, and gathers the vectors of its own part only.

    Args:
        timelines: Of the training users, cut where training ends.
        vectors: float16 or float32 [P, D], the matrix of pin vectors.
        end_ms: Where the timelines were cut, see `Sampler`; None: after their latest event.

    Raises:
        ValueError: nothing to draw (see `Sampler`), or a corpus smaller than the negatives asked for.
    """

    def __init__(
        self,
        timelines: Timelines,
        vectors: np.ndarray,
        settings: TrainingSettings,
        max_sequence_length: int,
        group: Group = ALONE,
        end_ms: int | None = None,
    ):
        negatives = settings.negatives
        if negatives.mode != "in_batch" and negatives.random > len(vectors):
            raise ValueError(
                f"{negatives.random} random negatives asked for, the corpus has {len(vectors)} pins; ask for fewer"
            )
        self.sampler = Sampler(
            timelines,
            settings.objective,
            max_sequence_length=max_sequence_length,
            users_per_step=settings.users_per_step,
            windows_per_user=settings.windows_per_user,
            window_share=settings.window_share,
            end_ms=end_ms,
            seed=settings.seed,
        )
        self._vectors, self._settings, self._length, self._group = vectors, settings, max_sequence_length, group
        if self.sampler.users_per_step < group.size:
            raise ValueError(f"{self.sampler.users_per_step} users cannot be shared among {group.size} processes")
        self._own = own_share(timelines, len(vectors)) if settings.positive_q == "user" else None
        self._first = first_engagements(timelines, len(vectors)) if settings.repeat_weight < 1 else None

    def make(self, step: int) -> StepBatch:
        """The batch of a step, counted from 0, on the CPU."""
        settings, group, timelines = self._settings, self._group, self.sampler.timelines
        draw = self.sampler.draw(step)
        # From seed and step alone: a training that goes on draws what an undisturbed one would have drawn.
        random = np.random.default_rng([settings.seed, 3, step])
        pool = make_pool(draw, timelines.pin_row, settings.negatives, len(self._vectors), random)
        weight = pair_weights(draw, settings.objective.newest_weight)
        if self._first is not None:
            weight = weigh_repeats(weight, draw, self._first, settings.repeat_weight)
        own = np.zeros(len(draw.pair_event))
        if self._own is not None:
            _, user = np.unique(draw.rows, return_inverse=True)
            pair_user = user[draw.query_window[draw.pair_query]]
            own = np.bincount(pair_user)[pair_user] * self._own[draw.pair_event]

        # By window: all queries of a window need the same pass through the tower.
        mine = self._shares(draw)[draw.query_window] == group.rank  # [Q]
        number = np.cumsum(mine) - 1  # of a query among this rank's
        pairs = mine[draw.pair_query]
        masked = mine[pool.masked_query]
        windows, order = self._windows(draw.rows, draw.stops, draw.query_window[mine], draw.query_position[mine])
        share = -(-len(pool.pins) // group.size)
        # Every rank encodes an equal share, since `gather` wants equal lengths; the last one repeats a pin to fill its
        # share.
        place = np.minimum(np.arange(group.rank * share, (group.rank + 1) * share), len(pool.pins) - 1)
        return StepBatch(
            windows=windows,
            query_order=torch.from_numpy(order),
            pin_vectors=torch.from_numpy(self._vectors[pool.pins[place]]).float(),
            pins=torch.from_numpy(pool.pins),
            copies=torch.from_numpy(pool.copies).float(),
            labels=torch.from_numpy(pool.pins[pool.pair_pin]),
            pair_query=torch.from_numpy(number[draw.pair_query[pairs]]),
            pair_pin=torch.from_numpy(pool.pair_pin[pairs]),
            masked_query=torch.from_numpy(number[pool.masked_query[masked]]),
            masked_pin=torch.from_numpy(pool.masked_pin[masked]),
            pair_weight=torch.from_numpy(weight[pairs]).float(),
            pair_own=torch.from_numpy(own[pairs]).float(),
            in_batch_size=pool.in_batch_size,
            random_size=pool.random_size,
        )

    def _shares(self, draw: Draw) -> np.ndarray:
        """int64 [S]: the rank that computes a window; all of them get about as many tokens."""
        lengths = np.minimum(draw.stops - self.sampler.timelines.offsets[draw.rows], self._length)
        # Dealt by length, to and fro: the ranks wait for one another at every step, so for the one that has the most.
        turn = np.arange(len(lengths))
        rank, round_ = turn % self._group.size, turn // self._group.size
        share = np.empty(len(lengths), np.int64)
        share[np.argsort(-lengths, kind="stable")] = np.where(round_ % 2, self._group.size - 1 - rank, rank)
        return share

    def _windows(self, rows: np.ndarray, stops: np.ndarray, window: np.ndarray, position: np.ndarray):
        """Batches of windows of like lengths, with their queries; and where each query went."""
        used, query_window = np.unique(window, return_inverse=True)
        rows, stops = rows[used], stops[used]
        lengths = np.minimum(stops - self.sampler.timelines.offsets[rows], self._length)
        batches, order = [], []
        # Like lengths together: attention wants windows side by side, and lengths are very uneven.
        for chosen in form_batches(lengths, self._settings.token_budget):
            place = np.full(len(used), -1)
            place[chosen] = np.arange(len(chosen))
            queries = np.flatnonzero(place[query_window] >= 0)
            batch = pack_windows(self.sampler.timelines, self._vectors, rows[chosen], stops[chosen], self._length)
            batches.append((batch, torch.from_numpy(place[query_window[queries]]), torch.from_numpy(position[queries])))
            order.append(queries)
        return batches, np.argsort(np.concatenate(order), kind="stable")


def own_share(timelines: Timelines, corpus_size: int) -> np.ndarray:
    """float64 [E]: of the user's positives, the share that are of this positive event's pin; 0 for other events."""
    share = np.zeros(len(timelines.pin_row))
    positives = np.flatnonzero(timelines.positive)
    owner = np.repeat(np.arange(len(timelines)), timelines.lengths)[positives]
    # A (user, pin) is one number: one sort, where two columns would take two.
    key = owner * corpus_size + timelines.pin_row[positives]
    _, place, count = np.unique(key, return_inverse=True, return_counts=True)
    share[positives] = count[place] / np.bincount(owner, minlength=len(timelines))[owner]
    return share


def first_engagements(timelines: Timelines, corpus_size: int) -> np.ndarray:
    """int64 [E]: place of the user's first event with the event's pin; of a pin's first event its own."""
    owner = np.repeat(np.arange(len(timelines)), timelines.lengths)
    # A (user, pin) is one number; `unique` gives the first place of each, and places rise with time.
    _, first, place = np.unique(owner * corpus_size + timelines.pin_row, return_index=True, return_inverse=True)
    return first[place]


def weigh_repeats(weight: np.ndarray, draw: Draw, first: np.ndarray, share: float) -> np.ndarray:
    """Weights of pairs, those of repeats times a share: float64 [P], summing to 1.

    A user all of whose pairs are repeats then weighs less than others; where everybody's are, nothing changes.

    Args:
        weight: float64 [P], summing to 1.
        first: See `first_engagements`.
        share: In [0, 1].
    """
    position = draw.stops[draw.query_window] - 1 - draw.query_position  # [Q], the event of every query
    repeat = first[draw.pair_event] <= position[draw.pair_query]
    less = np.where(repeat, weight * share, weight)
    total = float(less.sum())
    return less / total if total else weight


class Feed:
    """Makes batches ahead in a thread, so that the model does not wait for them.

    Args:
        maker: Of the batches.
        first, last: Steps to make, `last` excluded.
        ahead: Batches ready at most.

    Attributes:
        waited_s: Seconds that `next` waited for a batch so far.
    """

    def __init__(self, maker: BatchMaker, first: int, last: int, ahead: int = 3):
        self.waited_s = 0.0
        self._ready: queue.Queue = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make, args=(maker, first, last), name="feed", daemon=True)
        self._thread.start()

    def _make(self, maker: BatchMaker, first: int, last: int) -> None:
        try:
            for step in range(first, last):
                if not self._put(maker.make(step)):
                    return
        except BaseException as error:  # handed to whoever waits for the batch
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._stop.is_set():
            try:
                # With a timeout: a consumer that is gone never makes room, and the thread must see that it is to stop.
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def next(self) -> StepBatch:
        """The batch of the next step; raises what making it raised."""
        started = time.perf_counter()
        item = self._ready.get()
        self.waited_s += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()
