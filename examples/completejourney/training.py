"""Trains the demo's model on receipts of before its first day, and measures it on households it has not seen."""

import dataclasses
import datetime
from typing import Any

import numpy as np

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.collapse import most_covering_pins, overlap
from pinnerformer_model.days import midnight_ms
from pinnerformer_model.evaluation import Figures
from pinnerformer_model.ranking import coverage
from pipelines.training.start import rebuild_start
from stores.retriever import Retriever
from transforms.evaluation import make_evaluation
from transforms.training_data import load_training_data

FIRST_RECEIPT = datetime.date(2017, 1, 1)
EVALUATION_DAYS = 14
HELD_OUT = 0.4  # half of them choose, half are reported: some 490 households each
MEAN_OF = 300  # purchases; of 30, 100 and 300 the best for new products, on the households that choose
NOTHING_BETTER = 4  # exit code of `train`: no checkpoint beat the start, which is what it kept
# Found on this data: see README.md beside this file.
FLAGS = [
    "--preset=small",
    "--length=128",
    "--start-ridge=0.1",
    "--objective=all_action",
    "--steps=60",
    "--warmup-steps=5",
    "--learning-rate=0.0002",
    "--users-per-step=32",
    "--random-negatives=4096",
    "--in-batch-limit=1024",
    "--repeat-weight=0.1",
    "--evaluate-every=10",
    "--seed=1",
]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One way to recommend, and what it got of the households that neither trained nor chose.

    Attributes:
        name: Of the way.
        figures: Recall@10 of both kinds with errors over households, and how much answers are alike.
    """

    name: str
    figures: Figures


@dataclasses.dataclass(frozen=True)
class Served:
    """How much alike the answers are that the last release gives to its households.

    Attributes:
        households: That were asked: all that are served.
        overlap: Of the ten best of two households, the share that both are answered.
        coverage: P90 coverage@10, a share of the products.
        ceiling: What coverage can be at most with so many households.
    """

    households: int
    overlap: float
    coverage: float
    ceiling: float


def training_commands(world: str, timelines: str, model: str, first_day: datetime.date) -> list[list[str]]:
    """The two commands from receipts to a model that has seen nothing from `first_day` on.

    The timelines go on for the days of the evaluation: what held-out households bought then is only ever compared with.
    """
    end = first_day + datetime.timedelta(EVALUATION_DAYS - 1)
    where = ["--logs", f"{world}/logs", "--pins", f"{world}/pins", "--out", timelines]
    when = ["--start", FIRST_RECEIPT.isoformat(), "--end", end.isoformat()]
    return [
        [
            "training-data",
            *where,
            *when,
            "--label-rule",
            f"{world}/label-rule.json",
            "--evaluation-share",
            str(HELD_OUT),
        ],
        ["train", "--timelines", timelines, "--until", first_day.isoformat(), *FLAGS, "--out", model],
    ]


def measure_model(timelines: str, model: str, first_day: datetime.date) -> list[Measured]:
    """The trained model beside its start, popularity and the whitened mean of last vectors.

    The households asked are the half `report` of those held out: they have neither trained nor chosen anything.
    """
    trained = load_model(model)
    data, held_out = (load_training_data(timelines, split) for split in ("train", "evaluation"))
    cut = midnight_ms(first_day)
    report = make_evaluation(held_out.timelines, data.timelines, data.vectors, cut, EVALUATION_DAYS).half("report")

    def once(*towers: Any) -> Figures:
        return report.model(*towers, trained.config.max_sequence_length, ("once",))["once"]

    return [
        Measured("the model", once(trained.user_tower, trained.pin_tower)),
        Measured("its start, untrained", once(*rebuild_start(trained.config, data))),
        Measured("most sold in 7 days", report.popularity(7)),
        Measured(f"the mean of the last {MEAN_OF}, whitened", report.mean_of_last(MEAN_OF, whitened=True)),
    ]


def was_kept(model: str) -> int:
    """The step of the checkpoint that a training kept; 0: its start, because nothing beat it."""
    return int(load_model(model).config.provenance["steps"])


def measure_served(retriever: Retriever, users: np.ndarray, products: int) -> Served:
    """Asks for the ten products of every household, as `retrieve` does.

    Args:
        users: int64 [U], households that are served.
        products: In the release.
    """
    top = np.full((len(users), 10), -1, np.int64)
    for row, user in enumerate(users.tolist()):
        found = retriever.retrieve(user, 10).pin_ids
        top[row, : len(found)] = found
    ceiling = most_covering_pins(len(users), 10, products) / products
    return Served(len(users), overlap(top), coverage(top, products), ceiling)
