"""One training step: a draw made into tensors, the loss, the optimiser; and a thread that keeps them coming."""

import dataclasses
import math
import queue
import threading
import time

import numpy as np
import torch

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.count_min import CountMinSketch, ExactCounts
from pinnerformer_model.distributed import ALONE, Group
from pinnerformer_model.loss import ABSENT, LogQ, Temperature, sampled_softmax
from pinnerformer_model.negatives import Negatives, make_pool, pair_weights
from pinnerformer_model.objectives import Objective, Sampler
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.sequences import PaddedBatch, form_batches
from pinnerformer_model.timelines import Timelines, pad_windows
from pinnerformer_model.user_tower import UserTower


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Everything beside model and data that affects the result of training.

    Attributes:
        objective: What predicts what.
        negatives: What a positive competes with.
        log_q: Whether the softmax is corrected for how pins come into the pool.
        positive_q: `pool`: Q of a label is that of any pin of the pool; `user`: given that its user is in the batch.
        exact_counts: One counter per pin in place of the count-min sketch.
        sketch_width: Counters in a row of the sketch; two rows.
        steps: Length of training; the learning rate ends at 0 there.
        warmup_steps: The learning rate rises over these.
        learning_rate: The highest; AdamW.
        weight_decay: Of matrices; biases, norms, tables, phases and the temperature have none.
        clip_norm: Gradients are scaled down to this norm.
        users_per_step: Of all ranks together.
        windows_per_user: Windows drawn per user.
        token_budget: Padded tokens that go through the tower at once.
        precision: `float32`, or `bfloat16` autocast in the towers; the loss is float32 always.
        seed: Of every draw; the initial weights come with the model.
    """

    objective: Objective = Objective()
    negatives: Negatives = Negatives()
    log_q: bool = True
    positive_q: str = "pool"
    exact_counts: bool = False
    sketch_width: int = 1 << 20
    steps: int = 2000
    warmup_steps: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    users_per_step: int = 128
    windows_per_user: int = 1
    token_budget: int = 4096
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        if self.positive_q not in ("pool", "user"):
            raise ValueError(f"positive_q must be pool or user, got {self.positive_q!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {self.precision!r}")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a linear rise, then half a cosine down to 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """One rank's part of a step, as tensors; Q queries and P pairs of its own windows, N pins of all ranks.

    Attributes:
        windows: Padded batches of like lengths, each with the rows and positions [K] of its queries.
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

    windows: list[tuple[PaddedBatch, torch.Tensor, torch.Tensor]]
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
        return sum(int(batch.lengths.sum()) for batch, _, _ in self.windows)


class BatchMaker:
    """Makes the batch of any step from its number alone, so that data have no position to be saved.

    Every rank draws the whole step, which costs little, and gathers the vectors of its own part only.

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
            seed=settings.seed,
        )
        self._vectors, self._settings, self._length, self._group = vectors, settings, max_sequence_length, group
        if self.sampler.users_per_step < group.size:
            raise ValueError(f"{self.sampler.users_per_step} users cannot be shared among {group.size} processes")
        self._own = own_share(timelines, len(vectors)) if settings.positive_q == "user" else None

    def make(self, step: int) -> StepBatch:
        """The batch of a step, counted from 0, on the CPU."""
        settings, group, timelines = self._settings, self._group, self.sampler.timelines
        draw = self.sampler.draw(step)
        # From seed and step alone: a training that goes on draws what an undisturbed one would have drawn.
        random = np.random.default_rng([settings.seed, 3, step])
        pool = make_pool(draw, timelines.pin_row, settings.negatives, len(self._vectors), random)
        weight = pair_weights(draw)
        own = np.zeros(len(draw.pair_event))
        if self._own is not None:
            _, user = np.unique(draw.rows, return_inverse=True)
            pair_user = user[draw.query_window[draw.pair_query]]
            own = np.bincount(pair_user)[pair_user] * self._own[draw.pair_event]

        # By window, in turns: all queries of a window need the same pass through the tower.
        mine = draw.query_window % group.size == group.rank  # [Q]
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

    def _windows(self, rows: np.ndarray, stops: np.ndarray, window: np.ndarray, position: np.ndarray):
        """Batches of windows of like lengths, with their queries; and where each query went."""
        used, query_window = np.unique(window, return_inverse=True)
        rows, stops = rows[used], stops[used]
        lengths = np.minimum(stops - self.sampler.timelines.offsets[rows], self._length)
        batches, order = [], []
        # Like lengths together, as in serving: padding is computed too, and lengths are very uneven.
        for chosen in form_batches(lengths, self._settings.token_budget):
            place = np.full(len(used), -1)
            place[chosen] = np.arange(len(chosen))
            queries = np.flatnonzero(place[query_window] >= 0)
            batch = pad_windows(self.sampler.timelines, self._vectors, rows[chosen], stops[chosen], self._length)
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


class Trainer:
    """The model, its optimiser and the counts of labels; all of them change with every step, and nothing else does.

    Args:
        config: Of the model.
        user_tower, pin_tower: With their weights; trained in place.
        settings: Everything else.
        corpus_size: Pins there are.
        device: `cpu` or `cuda`.
        group: The processes that train together; every one holds the whole model.
    """

    def __init__(
        self,
        config: ModelConfig,
        user_tower: UserTower,
        pin_tower: PinTower,
        settings: TrainingSettings,
        corpus_size: int,
        device: str = "cpu",
        group: Group = ALONE,
    ):
        self.config, self.settings, self.group, self.device = config, settings, group, device
        self.user_tower = user_tower.to(device).train().requires_grad_(True)
        self.pin_tower = pin_tower.to(device).train().requires_grad_(True)
        self.temperature = Temperature().to(device)
        self.step_number = 0
        self.corpus_size = corpus_size
        self.counts: CountMinSketch | ExactCounts
        if settings.exact_counts:
            self.counts = ExactCounts(corpus_size, device)
        else:
            self.counts = CountMinSketch(settings.sketch_width, device=device)
        named = self.named_parameters()
        decayed = [p for name, p in named.items() if p.ndim == 2 and not _has_no_decay(name)]
        # By identity: `in` would compare tensors element by element.
        rest = [p for name, p in named.items() if not any(p is d for d in decayed)]
        self.parameters = decayed + rest
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            foreach=True,
        )

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Every parameter by the name it has in a checkpoint, and the temperature's."""
        modules = {"user_tower": self.user_tower, "pin_tower": self.pin_tower, "temperature": self.temperature}
        return {f"{prefix}.{name}": p for prefix, m in modules.items() for name, p in m.named_parameters()}

    def loss(self, batch: StepBatch) -> torch.Tensor:
        """This rank's part of the loss of a batch on the device; the sum over the ranks is the loss.

        The labels are counted first: what is read has been counted at least once.
        """
        settings = self.settings
        autocast = torch.autocast(
            torch.device(self.device).type, torch.bfloat16, enabled=settings.precision == "bfloat16"
        )
        with autocast:
            # Only queries get a head, and the last block stops at the oldest of them: most positions predict nothing.
            queries = torch.cat([self.user_tower.at(*window) for window in batch.windows])[batch.query_order]
            pins = self.group.gather(self.pin_tower(batch.pin_vectors).float())[: len(batch.pins)]
        with torch.no_grad():
            self.counts.add(batch.labels)
            pool_bias = torch.where(batch.copies > 0, batch.copies.clamp(min=1).log(), ABSENT)
            pair_bias = torch.zeros_like(batch.pair_weight)
            if settings.log_q:
                log_q = LogQ(self.counts, batch.in_batch_size, batch.random_size, self.corpus_size)
                pool_bias -= log_q(batch.pins)
                own = batch.pair_own if settings.positive_q == "user" else 0.0
                pair_bias -= log_q(batch.pins[batch.pair_pin], own)
        return sampled_softmax(
            queries.float(),
            pins,
            self.temperature(),
            pair_query=batch.pair_query,
            pair_pin=batch.pair_pin,
            pair_weight=batch.pair_weight,
            pair_bias=pair_bias,
            pool_bias=pool_bias,
            masked_query=batch.masked_query,
            masked_pin=batch.masked_pin,
        )

    def step(self, batch: StepBatch) -> tuple[float, float]:
        """One step of the optimiser on a batch of this rank; returns the loss and the norm of its gradient.

        Where either is not finite, the weights stay as they were: the caller decides.
        """
        batch = batch.to(self.device)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        self.group.sum_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        value, norm_value = float(self.group.sum(loss.detach())), float(norm)
        # Checked before the step: one NaN in the weights cannot be taken back.
        if math.isfinite(value) and math.isfinite(norm_value):
            for options in self.optimiser.param_groups:
                options["lr"] = self.settings.rate_at(self.step_number)
            self.optimiser.step()
            self.step_number += 1
        return value, norm_value

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a step changes, by name, on the CPU."""
        found = {name: p.detach() for name, p in self.named_parameters().items()}
        for name, parameter in self.named_parameters().items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser.{key}.{name}"] = value
        found["counts"] = self.counts.table
        return {name: value.to("cpu").contiguous() for name, value in found.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor], step_number: int) -> None:
        """Goes back to what `tensors` returned after `step_number` steps.

        Raises:
            KeyError, RuntimeError: they are of another model or of other settings.
        """
        for name, parameter in self.named_parameters().items():
            parameter.copy_(tensors[name])
            keys = [k for k in tensors if k.startswith("optimiser.") and k.split(".", 2)[2] == name]
            state = {}
            for key in keys:
                kind = key.split(".", 2)[1]
                # AdamW keeps its step counter on the CPU, wherever the weights are.
                state[kind] = tensors[key].clone() if kind == "step" else tensors[key].to(self.device, copy=True)
            if state:
                self.optimiser.state[parameter] = state
        self.counts.table.copy_(tensors["counts"])
        self.step_number = step_number


def _has_no_decay(name: str) -> bool:
    return name.endswith(("action.weight", "surface.weight", "user_tower.position"))
