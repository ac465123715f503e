"""Trains the demo's model on receipts of before its first day, and measures it on households it has not seen."""

import dataclasses
import datetime

import numpy as np

from pinnerformer_model.baselines import mean_of_last, popularity
from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.days import midnight_ms
from pinnerformer_model.evaluation import embed_moments, find_hits, measure, moments_of
from pinnerformer_model.inference import encode_pins
from pinnerformer_model.ranking import Scorer, constant_scorer, vector_scorer
from transforms.training_data import load_training_data

FIRST_RECEIPT = datetime.date(2017, 1, 1)
EVALUATION_DAYS = 14
MEAN_OF = 30  # purchases
# Found on this data: see README.md beside this file.
FLAGS = [
    "--preset=demo",
    "--steps=400",
    "--warmup-steps=30",
    "--learning-rate=0.0005",
    "--users-per-step=64",
    "--positions=16",
    "--random-negatives=1024",
    "--in-batch-limit=1024",
    "--no-evaluation",  # so that the households it is measured on have chosen nothing
    "--seed=1",
]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Recall@10 of one way to recommend: share of the purchases of the 14 days that were among the ten nearest.

    Attributes:
        name: Of the way.
        all: Of all purchased products.
        new: Of products that the household had not bought before, among such products.
    """

    name: str
    all: float
    new: float


def training_commands(world: str, timelines: str, model: str, first_day: datetime.date) -> list[list[str]]:
    """The two commands from receipts to a model that has seen nothing from `first_day` on.

    The timelines go on for the days of the evaluation: what held-out households bought then is only ever compared with.
    """
    end = first_day + datetime.timedelta(EVALUATION_DAYS - 1)
    where = ["--logs", f"{world}/logs", "--pins", f"{world}/pins", "--out", timelines]
    when = ["--start", FIRST_RECEIPT.isoformat(), "--end", end.isoformat()]
    return [
        ["training-data", *where, *when, "--label-rule", f"{world}/label-rule.json", "--evaluation-share", "0.2"],
        ["train", "--timelines", timelines, "--until", first_day.isoformat(), *FLAGS, "--out", model],
    ]


def measure_model(timelines: str, model: str, first_day: datetime.date) -> tuple[list[Measured], int, int]:
    """The trained model beside popularity and the mean of last vectors, on households that training did not see.

    Returns:
        What was measured; how many households; how many of their purchases.
    """
    trained = load_model(model)
    data, held_out = (load_training_data(timelines, split) for split in ("train", "evaluation"))
    cut = midnight_ms(first_day)
    moments = moments_of(held_out.timelines, cut, EVALUATION_DAYS)
    vectors = np.asarray(held_out.vectors, np.float32)
    length = trained.config.max_sequence_length
    users = embed_moments(trained.user_tower, held_out.timelines, held_out.vectors, moments, length)
    mean = mean_of_last(held_out.timelines, held_out.vectors, moments, MEAN_OF)
    ways: list[tuple[str, Scorer]] = [
        ("the trained model", vector_scorer(users, encode_pins(trained.pin_tower, vectors))),
        ("the products sold most", constant_scorer(popularity(data.timelines, cut, len(vectors)))),
        (f"the mean of the last {MEAN_OF} products' vectors", vector_scorer(mean, vectors)),
    ]
    everything = np.ones(len(vectors), bool)
    found = []
    for name, scorer in ways:
        figures = measure(find_hits(scorer, moments, everything), moments)
        found.append(Measured(name, figures.recall[0], figures.recall_new[0]))
    return found, len(moments), len(moments.targets)
