"""Trains and measures one cell of a study, in a worker process."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.objectives import Sampler
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.step_batches import BatchMaker, Feed, StepBatch
from pinnerformer_model.timelines import Timelines
from pinnerformer_model.training import Trainer
from pinnerformer_model.training_settings import Negatives, Objective, StartSettings, TrainingSettings
from pinnerformer_model.user_tower import UserTower
from pipelines.study.grid import BASE, START_EXTRAS, Cell, Size
from pipelines.study.parts import Fold, Source, StudyData, load_study_data
from pipelines.study.pooling import as_part, pool
from pipelines.training.start import Starts
from stores.errors import InputError
from stores.files import replace_atomically
from transforms.evaluation import Evaluation
from transforms.training_data import TrainingData, config_fields


@dataclasses.dataclass(frozen=True)
class Task:
    """One cell with one seed, for one fold; `path` is where its result goes.

    Attributes:
        figure: What the choosing users judge by: `recall` or `recall_new`.
        steps: Of training; 0: the start is measured.
        only_choice: Whether the users that are reported are left alone: a learning rate is tried.
    """

    cell: Cell
    seed: int
    learning_rate: float
    size: Size
    path: str
    fold: int
    figure: str
    steps: int
    only_choice: bool = False

    def identity(self, source: Source, digest: str) -> dict[str, Any]:
        """What a finished result must have been made of to be reused."""
        cuts = source.cuts if isinstance(source.cuts, int) else [str(cut) for cut in source.cuts]
        found = {
            "cell": self.cell.as_json(),
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "size": self.size.as_json(),
            "timelines": digest,
            "fold": [self.fold, source.folds],
            "cuts": cuts,
            "days": source.days,
            "judged by": self.figure,
            "steps": self.steps,
        }
        return {**found, "only_choice": True} if self.only_choice else found


_LOADED: dict[Source, StudyData] = {}


def run_task(source: Source, task: Task) -> str:
    """Trains, measures and writes one cell; returns its path. The same task gives the same figures."""
    if source not in _LOADED:
        _LOADED[source] = load_study_data(source)
    result = train_and_measure(_LOADED[source], task)
    with replace_atomically(task.path) as temporary, open(temporary, "w") as file:
        json.dump(result, file)
    return os.path.basename(task.path)


def config_of(task: Task, data: TrainingData) -> ModelConfig:
    """The model of a cell."""
    size, cell = task.size, task.cell
    return ModelConfig(
        hidden_size=size.hidden_size,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        ffn_size=4 * size.hidden_size,
        max_sequence_length=cell.max_sequence_length or size.max_sequence_length,
        embedding_dim=cell.embedding_dim or size.embedding_dim,
        pin_hidden_size=size.pin_hidden_size,
        action_dim=16,
        surface_dim=16,
        **config_fields(data),
        dropped_features=cell.dropped,
    )


def _extras(cell: Cell, kind: type) -> dict[str, Any]:
    """A cell's further settings that are fields of a dataclass."""
    return {key: value for key, value in cell.extras if key in {field.name for field in dataclasses.fields(kind)}}


def objective_of(cell: Cell, size: Size) -> Objective:
    """The objective of a cell."""
    return Objective(cell.objective, cell.days, size.positions, size.positions, **_extras(cell, Objective))


def pairs_a_step(timelines: Timelines, objective: Objective, length: int, users: int, windows: int = 1) -> float:
    """(position, label) pairs that a training step draws, the mean of 16 steps."""
    sampler = Sampler(
        timelines, objective, max_sequence_length=length, users_per_step=users, windows_per_user=windows, seed=0
    )
    return float(np.mean([len(sampler.draw(step).pair_event) for step in range(16)]))


def equal_pairs(timelines: Timelines, cell: Cell, size: Size) -> tuple[int, int]:
    """Users a step and windows a user with which a cell draws as many pairs as the base.

    Objectives draw from 1 to M pairs a window, and short windows fewer: with the same users, one objective would learn
    from many times the labels of another.

    Raises:
        InputError: no event has a label.
    """
    length = cell.max_sequence_length or size.max_sequence_length
    base = Objective(positions=size.positions, labels=size.positions)
    try:
        wanted = pairs_a_step(timelines, base, size.max_sequence_length, size.users_per_step)
        own = pairs_a_step(timelines, objective_of(cell, size), length, size.users_per_step)
    except ValueError as error:
        raise InputError(f"cell {cell.name}: {error}; look at the label rule, or cut later") from None
    if cell.name == BASE:
        return size.users_per_step, 1
    windows = max(1, int(np.ceil(wanted / own - 0.02)))
    return max(1, round(size.users_per_step * wanted / own / windows)), windows


@dataclasses.dataclass(frozen=True)
class Trained:
    """A cell's model and how it came about.

    Attributes:
        user_tower, pin_tower: In eval mode, with the weights that were kept.
        length: M.
        facts: Steps, pairs a step, checks, the step that was kept, CPU seconds of the steps.
    """

    user_tower: UserTower
    pin_tower: PinTower
    length: int
    facts: dict[str, Any]

    def measure(self, asked: Sequence[Evaluation], frequency: str) -> dict[str, Any]:
        """Figures of some users at some cuts, pooled."""
        parts = []
        for evaluation in asked:
            found = evaluation.model(self.user_tower, self.pin_tower, self.length, (frequency,))[frequency]
            parts.append(as_part(found))
        return pool(parts)


def settings_of(task: Task, training: Timelines, pins: int) -> TrainingSettings:
    """How a cell is trained."""
    size, cell = task.size, task.cell
    users, windows = equal_pairs(training, cell, size)
    return TrainingSettings(
        objective=objective_of(cell, size),
        negatives=Negatives(cell.negatives, min(size.random_negatives, pins)),
        log_q=cell.log_q,
        steps=task.steps,
        warmup_steps=max(1, task.steps // 10),
        learning_rate=task.learning_rate,
        users_per_step=users,
        windows_per_user=windows,
        token_budget=size.token_budget,
        seed=task.seed,
        **_extras(cell, TrainingSettings),
    )


def train_cell(data: StudyData, fold: Fold, task: Task) -> Trained:
    """Trains a cell's model on what lies before the first cut; keeps the weights that the choosing users like best."""
    vectors, config = data.train.vectors, config_of(task, data.train)
    training = fold.training.before(data.cuts_ms[0])
    given: dict[str, Any] = {key: value for key, value in task.cell.extras if key in START_EXTRAS}
    starts = Starts(config, task.seed, vectors, training, data.cuts_ms[0])
    user_tower, pin_tower = starts.make(StartSettings(**given))
    length = config.max_sequence_length
    if not task.steps:
        return Trained(user_tower, pin_tower, length, {"steps": 0, "cpu_s": 0.0})
    settings = settings_of(task, training, len(vectors))
    maker = BatchMaker(training, vectors, settings, length, end_ms=data.cuts_ms[0])
    trainer = Trainer(config, user_tower, pin_tower, settings, len(vectors))
    if "temperature" not in dict(task.cell.extras):
        trainer.calibrate(maker.make(0))
    checks = {task.steps * turn // task.size.checks for turn in range(1, task.size.checks + 1)}
    feed = Feed(maker, 0, task.steps)
    seen: list[tuple[int, float]] = []
    best: dict[str, Any] = {}
    pairs, cpu, began, diverged = 0, 0.0, time.process_time(), None
    try:
        for step in range(1, task.steps + 1):
            batch = _deal(feed.next(), step) if task.cell.shuffled else feed.next()
            pairs += len(batch.pair_pin)
            if not all(map(math.isfinite, trainer.step(batch))):
                diverged = step  # the weights are those before this step: measured as they are, and no further
            if step in checks or diverged:
                cpu += time.process_time() - began  # what is measured is no training
                model = _frozen(trainer, length)
                value = float(model.measure(fold.choice, "once")["figures"][task.figure][0])
                seen.append((step, value))
                if value >= max(v for _, v in seen):
                    best = {name: p.detach().clone() for name, p in trainer.named_parameters().items()}
                trainer.user_tower.train()
                trainer.pin_tower.train()
                began = time.process_time()
            if diverged:
                break
    finally:
        feed.close()
    with torch.no_grad():
        for name, parameter in trainer.named_parameters().items():
            parameter.copy_(best.get(name, parameter))
    kept = max(reversed(seen), key=lambda check: check[1])[0]
    done = seen[-1][0]
    facts = {"steps": task.steps, "kept_step": kept, "checks": seen, "pairs_a_step": pairs / done, "cpu_s": cpu}
    facts["diverged_at"] = diverged
    return dataclasses.replace(_frozen(trainer, length), facts=facts)


def _frozen(trainer: Trainer, length: int) -> Trained:
    return Trained(trainer.user_tower.eval(), trainer.pin_tower.eval(), length, {})


def _deal(batch: StepBatch, step: int) -> StepBatch:
    """Deals the labels of a step out at random, by its number: a control that is run again deals the same."""
    dealt = torch.randperm(len(batch.pair_pin), generator=torch.Generator().manual_seed(step))
    return dataclasses.replace(batch, pair_pin=batch.pair_pin[dealt])


def train_and_measure(data: StudyData, task: Task) -> dict[str, Any]:
    """A cell's figures on the users that choose and on those reported, with each user's sums for the errors."""
    started = time.process_time()
    fold = data.fold(task.fold)
    model = train_cell(data, fold, task)
    result: dict[str, Any] = {"identity": task.identity(data.source, data.train.digest), "training": model.facts}
    # Choices need one figure; the other frequencies cost the most, a sequence per positive.
    result["choice"] = {"once": model.measure(fold.choice, "once")["figures"]}
    if not task.only_choice:
        found = {frequency: model.measure(fold.report, frequency) for frequency in task.cell.frequencies}
        result["report"] = {frequency: part["figures"] for frequency, part in found.items()}
        result["by_user"] = {frequency: part["by_user"] for frequency, part in found.items()}
    result["cpu_s"] = {"training": model.facts["cpu_s"], "all": time.process_time() - started}
    return result
