"""What chooses a checkpoint in training: users whom `evaluate` does not report; the start is among the choices."""

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

import numpy as np

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.days import midnight_ms
from pinnerformer_model.evaluation import Figures, Moments, find_hits, measure, moments_of
from pinnerformer_model.evaluation_names import FIGURE_OF
from pinnerformer_model.fitting import Hooks
from pinnerformer_model.inference import UserEncoder, encode_pins
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.ranking import vector_scorer
from pinnerformer_model.timelines import Timelines, sequences_ending
from pinnerformer_model.user_tower import UserTower
from pipelines.telemetry import lines
from pipelines.training.train_request import TrainRequest
from stores.errors import InputError
from transforms.halves import are_choosers
from transforms.training_data import TrainingData

CORPUS = 1_000_000  # pins that a positive competes with in the evaluation, as in the paper
RECALL_OF = 10


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Recall@10 of held-out users, embedded at a moment, over the days after it; by exact search.

    Only the half `choice` of them is asked, which chooses the checkpoint: `evaluate` reports the other half.

    Attributes:
        timelines: Of the users asked.
        vectors: float [P, D], as the model takes them.
        moments: When they are embedded, and what they must foresee.
        in_corpus: bool [P], the pins that compete.
        length: M.
        device: `cpu` or `cuda`.
        choose_by: `new`: the figure is the recall of pins new to the user; `all`: of all.
    """

    timelines: Timelines
    vectors: np.ndarray
    moments: Moments
    in_corpus: np.ndarray
    length: int
    device: str
    choose_by: str = "all"

    @classmethod
    def of(
        cls, data: TrainingData, cut_ms: int, days: int, users: int, length: int, device: str, choose_by: str = "all"
    ) -> "Evaluation":
        """Prepares an evaluation at a moment.

        Args:
            data: Of the users held out.
            days: Length of the window.
            users: How many are asked at most.
        """
        timelines = data.timelines.users(are_choosers(data.timelines.user_ids))
        if len(timelines) > users:
            # From a fixed seed: figures of one training compare only if the same users are asked every time. Drawn and
            # not the first ones, though the order by id should say nothing of them.
            chosen = np.random.default_rng(0).choice(len(timelines), users, replace=False)
            timelines = timelines.users(np.sort(chosen))
        pins = np.zeros(len(data.vectors), bool)
        pins[np.random.default_rng(1).permutation(len(pins))[:CORPUS]] = True
        return cls(timelines, data.vectors, moments_of(timelines, cut_ms, days), pins, length, device, choose_by)

    @property
    def targets(self) -> int:
        """How many positives are to be foreseen, of those that choose."""
        return int(self.moments.new.sum()) if self.choose_by == "new" else len(self.moments.targets)

    def __call__(self, user_tower: UserTower, pin_tower: PinTower) -> float:
        """Recall of the towers as they are now, of the kind that chooses."""
        return self.figures(user_tower, pin_tower)[0]

    def figures(self, user_tower: UserTower, pin_tower: PinTower) -> tuple[float, float]:
        """That recall, and its standard error over users."""
        figures, name = self.measure(user_tower, pin_tower), FIGURE_OF[self.choose_by]
        return getattr(figures, name)[0], figures.errors[name]

    def compare(self, figures: Figures, others: Figures) -> tuple[float, float]:
        """How much more that recall is in the first of two of its figures, and the error of that over users."""
        return figures.less(others)[FIGURE_OF[self.choose_by]]

    def measure(self, user_tower: UserTower, pin_tower: PinTower) -> Figures:
        """Everything that is measured of the towers as they are now."""
        moments = self.moments
        sequences = sequences_ending(self.timelines, self.vectors, moments.user, moments.stop, self.length)
        users = UserEncoder(user_tower, device=self.device).encode(sequences)
        score = vector_scorer(users, encode_pins(pin_tower, self.vectors))
        return measure(find_hits(score, moments, self.in_corpus, RECALL_OF), moments)


def make_evaluation(
    request: TrainRequest, held_out: TrainingData, config: ModelConfig, until: datetime.date, device: str
) -> Evaluation | None:
    """The evaluation of users held out; None if it is left out.

    Raises:
        InputError: they have nothing to foresee.
    """
    days, users = request.held_out.days, request.held_out.users
    if request.held_out.skip:
        return None
    length, by = config.max_sequence_length, request.choose_by
    evaluation = Evaluation.of(held_out, midnight_ms(until), days, users, length, device, by)
    if not evaluation.targets:
        what = "a positive new to the user" if by == "new" and len(evaluation.moments.targets) else "a positive"
        raise InputError(
            f"nothing to evaluate: no user of the {len(evaluation.timelines):,} that choose, of "
            f"{len(held_out.timelines):,} held out, has an event before {until} and {what} in the {days} days after; "
            f"give an earlier --until, {'--choose-by all, ' if by == 'new' else ''}or --no-evaluation"
        )
    return evaluation


def measure_start(
    evaluation: Evaluation, figures: Callable[[], tuple[float, float]], hooks: Hooks, say: bool
) -> dict[str, Any]:
    """Keeps the weights that training starts from as the best so far: training that makes them worse keeps nothing.

    Says how well the users that choose tell one checkpoint from another, before hours are spent.

    Args:
        figures: -> the figure that chooses, and its standard error; on every rank.
        say: Say it: on one rank.

    Returns:
        What `fit` takes for the best so far.
    """
    figure, error = figures()
    if say:
        of = "pins new to the user" if evaluation.choose_by == "new" else "all pins"
        asked = f"{len(evaluation.moments):,} users that choose the checkpoint, {evaluation.targets:,} positives"
        little = "" if error < 0.2 * figure else "; that tells little apart: hold out more users (--evaluation-share)"
        text = f"the start has recall@{RECALL_OF} {figure:.4f} ± {error:.4f} of {of} ({asked}){little}"
        lines.say(text, stage="train", recall_at_10=figure, error=error)
    hooks.keep()
    hooks.on_evaluation(0, figure)
    return {"step": 0, "recall": figure}


def with_provenance(
    config: ModelConfig, request: TrainRequest, data: TrainingData, origin: str, until: datetime.date
) -> ModelConfig:
    """The config of a model that says what its training saw, and where its weights come from.

    Args:
        origin: Digest of the model that training starts from; of no meaning for new weights.
        until: Training sees what was before.
    """
    described = data.description
    known = provenance_of(request, data, origin)
    return config.trained(until, described.get("split_salt"), described.get("evaluation_share", 0.0), known)


def provenance_of(request: TrainRequest, data: TrainingData, origin: str) -> dict[str, Any]:
    """What `config.json` says of where the weights come from, beside the fields of `ModelConfig.trained`."""
    chooses = not request.held_out.skip and not request.keep_last
    known = {
        "timelines": data.digest,
        "objective": dataclasses.asdict(request.settings.objective),
        "seed": request.settings.seed,
        "start": origin if request.model else "initial",
        "vectors_until": data.description.get("vectors_until"),
        "choose_by": request.choose_by if chooses else "last",
        "choosers": "choice" if chooses else "nobody",
    }
    return {name: value for name, value in known.items() if value is not None}
