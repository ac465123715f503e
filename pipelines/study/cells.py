"""Trains and measures one cell of a study, in a worker process."""

import dataclasses
import datetime
import json
import os
import time
from typing import Any

import numpy as np
import torch

from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import ModelConfig
from pinnerformer_model.negatives import Negatives
from pinnerformer_model.objectives import Objective
from pinnerformer_model.training import BatchMaker, Feed, Trainer, TrainingSettings
from pipelines.study.grid import Cell, Size
from pipelines.training.evaluate import load_evaluation
from stores.files import replace_atomically
from transforms.evaluation import Evaluation
from transforms.training_data import TrainingData


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the data of a study are: `load_evaluation`'s arguments."""

    timelines: str
    pins: str | None
    cut: datetime.date | None
    days: int


@dataclasses.dataclass(frozen=True)
class Task:
    """One cell with one seed; `path` is where its result goes."""

    cell: Cell
    seed: int
    learning_rate: float
    size: Size
    path: str

    def identity(self, digest: str) -> dict[str, Any]:
        """What a finished result must have been made of to be reused."""
        size = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self.size).items()}
        for name in ("learning_rates", "lengths", "dims"):  # which others are tried does not affect this one
            del size[name]
        return {
            "cell": self.cell.as_json(),
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "size": size,
            "timelines": digest,
        }


_LOADED: dict[Source, tuple[Evaluation, TrainingData]] = {}


def run_task(source: Source, task: Task) -> str:
    """Trains, measures and writes one cell; returns its path. The same task gives the same figures."""
    if source not in _LOADED:
        evaluation, data, _ = load_evaluation(source.timelines, source.pins, source.cut, source.days)
        _LOADED[source] = (evaluation, data)
    evaluation, data = _LOADED[source]
    result = train_and_measure(evaluation, data, task)
    with replace_atomically(task.path) as temporary, open(temporary, "w") as file:
        json.dump(result, file)
    return os.path.basename(task.path)


def config_of(task: Task, description: dict[str, Any]) -> ModelConfig:
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
        action_vocabulary=tuple(description["action_vocabulary"]),
        surface_vocabulary=tuple(description["surface_vocabulary"]),
        pinsage_version=description["pinsage_version"],
        label_rule=description["label_rule"],
        dropped_features=cell.dropped,
    )


def train_cell(data: TrainingData, cut_ms: int, task: Task) -> Trainer:
    """Trains a cell's model on what lies before the cut."""
    size, cell = task.size, task.cell
    config = config_of(task, data.description)
    user_tower, pin_tower = new_model(config, task.seed, data.vectors)
    settings = TrainingSettings(
        objective=Objective(cell.objective, cell.days, size.positions),
        negatives=Negatives(cell.negatives, min(size.random_negatives, len(data.vectors))),
        log_q=cell.log_q,
        steps=size.steps,
        warmup_steps=max(1, size.steps // 10),
        learning_rate=task.learning_rate,
        users_per_step=size.users_per_step,
        seed=task.seed,
    )
    maker = BatchMaker(data.timelines.before(cut_ms), data.vectors, settings, config.max_sequence_length)
    trainer = Trainer(config, user_tower, pin_tower, settings, len(data.vectors))
    feed = Feed(maker, 0, size.steps)
    try:
        for step in range(size.steps):
            batch = feed.next()
            if cell.shuffled:
                # By the step's number: a control that is run again deals the same.
                dealt = torch.randperm(len(batch.pair_pin), generator=torch.Generator().manual_seed(step))
                batch = dataclasses.replace(batch, pair_pin=batch.pair_pin[dealt])
            trainer.step(batch)
    finally:
        feed.close()
    trainer.user_tower.eval()
    trainer.pin_tower.eval()
    return trainer


def train_and_measure(evaluation: Evaluation, data: TrainingData, task: Task) -> dict[str, Any]:
    """A cell's figures on both halves of the users, with each user's sums for the errors of differences."""
    started = time.process_time()
    trainer = train_cell(data, evaluation.cut_ms, task)
    trained = time.process_time()
    length = trainer.config.max_sequence_length
    result: dict[str, Any] = {"identity": task.identity(data.digest)}
    for name in ("choice", "report"):
        half = evaluation.half(name)
        # Choices need one figure; the other frequencies cost the most, a sequence per positive.
        frequencies = task.cell.frequencies if name == "report" else ("once",)
        found = half.model(trainer.user_tower, trainer.pin_tower, length, frequencies)
        result[name] = {frequency: figures.as_json() for frequency, figures in found.items()}
    # Of the half reported: the errors of differences between cells are taken over the same users.
    result["by_user"] = {
        frequency: {column: np.round(sums, 4).tolist() for column, sums in figures.by_user.items()}
        for frequency, figures in found.items()
    }
    result["cpu_s"] = {"training": trained - started, "all": time.process_time() - started}
    return result
