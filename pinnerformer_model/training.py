"""One training step: the loss of a batch, its gradient, the optimiser."""

import collections
import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.count_min import CountMinSketch, ExactCounts
from pinnerformer_model.distributed import ALONE, Group
from pinnerformer_model.loss import ABSENT, TEMPERATURES, LogQ, Temperature, pair_losses
from pinnerformer_model.packed import take_once
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.step_batches import BatchMaker, Feed, StepBatch
from pinnerformer_model.training_settings import TrainingSettings
from pinnerformer_model.user_tower import UserTower

__all__ = ["BatchMaker", "Feed", "StepBatch", "Trainer", "TrainingSettings"]

RECENT = 50  # steps whose mean loss is shown: some seconds, more than the noise of one, less than what it hides
TEMPERATURE_HASTE = 10.0  # times the learning rate


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
        self.temperature = Temperature(settings.temperature).to(device)
        self.step_number = 0
        self._losses: collections.deque[float] = collections.deque(maxlen=RECENT)
        self.corpus_size = corpus_size
        self.counts: CountMinSketch | ExactCounts
        if settings.exact_counts:
            self.counts = ExactCounts(corpus_size, device)
        else:
            self.counts = CountMinSketch(settings.sketch_width, device=device)
        named = self.named_parameters()
        decayed = [p for name, p in named.items() if p.ndim == 2 and not _has_no_decay(name)]
        # By identity: `in` would compare tensors element by element.
        apart = [*decayed, self.temperature.log]
        rest = [p for p in named.values() if not any(p is a for a in apart)]
        self.parameters = [*decayed, *rest, self.temperature.log]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay, "haste": 1.0},
                {"params": rest, "weight_decay": 0.0, "haste": 1.0},
                # One number among millions: Adam moves each by the learning rate at most, and the rates of a whole
                # training add up to a tenth, which kept the temperature within a tenth of where it began.
                {"params": [self.temperature.log], "weight_decay": 0.0, "haste": TEMPERATURE_HASTE},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )

    @property
    def recent_loss(self) -> float:
        """Mean of the latest losses, at most `RECENT`; NaN before the first step."""
        return sum(self._losses) / len(self._losses) if self._losses else math.nan

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Every parameter by the name it has in a checkpoint, and the temperature's."""
        modules = {"user_tower": self.user_tower, "pin_tower": self.pin_tower, "temperature": self.temperature}
        return {f"{prefix}.{name}": p for prefix, m in modules.items() for name, p in m.named_parameters()}

    def loss(self, batch: StepBatch) -> torch.Tensor:
        """This rank's part of the loss of a batch on the device; the sum over the ranks is the loss.

        The labels are counted first: what is read has been counted at least once.
        """
        self.counts.add(batch.labels)
        return (batch.pair_weight * self.pair_losses(batch, *self.embed(batch, self.settings.dropout))).sum()

    def embed(self, batch: StepBatch, dropout: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [Q, d], [N, d]: this rank's queries, and the pool's pins of all ranks."""
        kind, low = torch.device(self.device).type, self.settings.precision == "bfloat16"
        with torch.autocast(kind, torch.bfloat16, enabled=low):
            # Only queries get a head, and the last block computes them alone: most positions predict nothing.
            windows = [self.user_tower.at(*window, dropout) for window in batch.windows]
            queries = take_once(torch.cat(windows).float(), batch.query_order)
            pins = self.group.gather(self.pin_tower(batch.pin_vectors).float())[: len(batch.pins)]
        return queries, pins

    def pair_losses(self, batch: StepBatch, queries: torch.Tensor, pins: torch.Tensor) -> torch.Tensor:
        """float32 [P]: before they are weighted."""
        settings = self.settings
        with torch.no_grad():
            pool_bias = torch.where(batch.copies > 0, batch.copies.clamp(min=1).log(), ABSENT)
            pair_bias = torch.zeros_like(batch.pair_weight)
            if settings.log_q:
                log_q = LogQ(self.counts, batch.in_batch_size, batch.random_size, self.corpus_size)
                pool_bias -= log_q(batch.pins)
                own = batch.pair_own if settings.positive_q == "user" else 0.0
                pair_bias -= log_q(batch.pins[batch.pair_pin], own)
        return pair_losses(
            queries,
            pins,
            self.temperature(),
            pair_query=batch.pair_query,
            pair_pin=batch.pair_pin,
            pair_bias=pair_bias,
            pool_bias=pool_bias,
            masked_query=batch.masked_query,
            masked_pin=batch.masked_pin,
        )

    @torch.no_grad()
    def calibrate(self, batch: StepBatch) -> float:
        """Sets the temperature to that of `TEMPERATURES` with the least loss on a batch of this rank, and returns it.

        A fresh model ranks well before its scores are of any size: at a temperature that is far from theirs, the first
        steps spend what it knows on getting the size right. Nothing else changes.
        """
        batch, counted = batch.to(self.device), self.counts.table.clone()
        self.counts.add(batch.labels)
        embedded, found = self.embed(batch), []
        for temperature in TEMPERATURES:
            self.temperature.set(temperature)
            loss = (batch.pair_weight * self.pair_losses(batch, *embedded)).sum()
            found.append(float(self.group.sum(loss)))
        self.counts.table.copy_(counted)
        best = TEMPERATURES[min(range(len(found)), key=lambda place: found[place])]
        self.temperature.set(best)
        return best

    def step(self, batch: StepBatch) -> tuple[float, float]:
        """One step of the optimiser on a batch of this rank; returns the loss and the norm of its gradient.

        Where either is not finite, the weights stay as they were: the caller decides.
        """
        batch = batch.to(self.device)
        self.optimiser.zero_grad(set_to_none=True)
        with self._dropout_of_the_step():
            loss = self.loss(batch)
        loss.backward()
        self.group.sum_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        value, norm_value = float(self.group.sum(loss.detach())), float(norm)
        # Checked before the step: one NaN in the weights cannot be taken back.
        if math.isfinite(value) and math.isfinite(norm_value):
            for options in self.optimiser.param_groups:
                options["lr"] = options["haste"] * self.settings.rate_at(self.step_number)
            self.optimiser.step()
            self.step_number += 1
            self._losses.append(value)
        return value, norm_value

    @contextlib.contextmanager
    def _dropout_of_the_step(self) -> Iterator[None]:
        """Seeds torch's generators with the step's number, and leaves them as they were."""
        if not self.settings.dropout:
            yield
            return
        devices = [self.device] if torch.device(self.device).type == "cuda" else []
        with torch.random.fork_rng(devices):
            words = np.random.SeedSequence([self.settings.seed, 5, self.step_number, self.group.rank])
            torch.manual_seed(int(words.generate_state(1)[0]))
            yield

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a step changes, by name, on the CPU."""
        found = {name: p.detach() for name, p in self.named_parameters().items()}
        for name, parameter in self.named_parameters().items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser.{key}.{name}"] = value
        found["counts"] = self.counts.table
        found["losses"] = torch.tensor(self._losses, dtype=torch.float64)
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
                state[kind] = tensors[key].to(self.device, copy=True)
            if state:
                self.optimiser.state[parameter] = state
        self.counts.table.copy_(tensors["counts"])
        self._losses = collections.deque(tensors["losses"].tolist(), RECENT)
        self.step_number = step_number


def _has_no_decay(name: str) -> bool:
    return name.endswith(("action.weight", "surface.weight", "user_tower.position"))
