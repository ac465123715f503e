"""How a new model weighs the item vectors before its first training step: chosen on the users that choose."""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch

from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import ModelConfig
from pinnerformer_model.days import midnight_ms
from pinnerformer_model.distributed import Group
from pinnerformer_model.evaluation import Figures
from pinnerformer_model.initialisation import Space, everybody_lately
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.timelines import Timelines
from pinnerformer_model.training_settings import StartSettings
from pinnerformer_model.user_tower import UserTower
from pipelines.telemetry.lines import say
from pipelines.training.choosing import Evaluation
from pipelines.training.train_request import TrainRequest
from transforms.training_data import TrainingData

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
PRIORS = (0.1, 0.3, 1.0, 3.0)
PRIOR_DAYS = (3, 7, 28)
Towers = tuple[UserTower, PinTower]


@dataclasses.dataclass(frozen=True, eq=False)
class Starts:
    """Makes fresh models of one config and one set of vectors.

    Attributes:
        config: Of the model.
        seed: Of its random parts.
        vectors: float [P, D].
        past: Timelines of the training users.
        until_ms: Training sees what was before.
    """

    config: ModelConfig
    seed: int
    vectors: np.ndarray
    past: Timelines
    until_ms: int

    @functools.cached_property
    def space(self) -> Space:
        return Space.of(self.vectors)

    @functools.cached_property
    def _lately(self) -> dict[int, np.ndarray]:
        return {}

    def make(self, settings: StartSettings) -> Towers:
        """The towers of a start."""
        everybody, days = None, settings.prior_days
        if settings.prior:
            # Starts that differ in its weight share it: it is a pass over everybody's events.
            if days not in self._lately:
                self._lately[days] = everybody_lately(self.past, self.vectors, self.until_ms, days)
            everybody = self._lately[days]
        return new_model(self.config, self.seed, self.space, settings, everybody)


def seed_of(config: ModelConfig) -> int | None:
    """The seed of the initial weights that a model was trained from; None where its config does not say."""
    known = config.provenance
    return known["seed"] if known.get("start") == "initial" and isinstance(known.get("seed"), int) else None


def rebuild_start(config: ModelConfig, data: TrainingData) -> Towers:
    """The towers that the training of a model began with, from what its config says of them.

    Args:
        data: Of the training users. A seed that is not known is taken for 0.
    """
    until_ms = midnight_ms(datetime.date.fromisoformat(config.until)) if config.until else 0
    starts = Starts(config, seed_of(config) or 0, data.vectors, data.timelines, until_ms)
    return starts.make(start_of(config))


def start_of(config: ModelConfig) -> StartSettings:
    """How the initial weights of a model weigh vectors; the default where its config does not say."""
    return StartSettings(**config.provenance.get("initial", {}))


def choose_start(
    measure: Callable[[StartSettings], Figures], compare: Callable[[Figures, Figures], tuple[float, float]]
) -> StartSettings:
    """The start that the users who choose are foreseen best by: first the ridge, then what everybody did lately.

    One by one and not all together: a dozen looks, not sixty. What is no better by a standard error of the difference
    over users is not taken: among a dozen, something always looks better.

    Args:
        measure: -> what they get from a start.
        compare: -> how much more the first of two gets than the second, and the error of that.
    """
    best = StartSettings()
    figures = measure(best)
    for candidates in (_ridges, _priors):
        for settings in list(candidates(best)):
            found = measure(settings)
            more, error = compare(found, figures)
            if more > error:
                best, figures = settings, found
    return best


def initial_towers(
    config: ModelConfig, request: TrainRequest, starts: Starts, evaluation: Evaluation | None, group: Group
) -> tuple[ModelConfig, Towers]:
    """New towers, and the config that says how they begin.

    Args:
        config: As it is without that.
        evaluation: Of the users that choose; None: nobody does.
    """
    start = request.start
    if start is None and evaluation is not None and not request.keep_last:
        # The first rank chooses for all: another processor's sums may differ in the last bits.
        chosen = StartSettings()
        if group.rank == 0:
            asked = evaluation
            chosen = choose_start(lambda tried: asked.measure(*starts.make(tried)), asked.compare)
        numbers = torch.tensor(dataclasses.astuple(chosen), dtype=torch.float64) * (group.rank == 0)
        ridge, prior, days, scale = group.sum(numbers).tolist()
        start = StartSettings(ridge, prior, int(days), scale)
    start = start or StartSettings()
    if group.rank == 0 and not request.quiet:
        say(f"the start: {start.describe()}")
    known = {**config.provenance, "initial": dataclasses.asdict(start)}
    return dataclasses.replace(config, provenance=known), starts.make(start)


def _ridges(best: StartSettings) -> Iterator[StartSettings]:
    return (dataclasses.replace(best, ridge=ridge) for ridge in RIDGES if ridge != best.ridge)


def _priors(best: StartSettings) -> Iterator[StartSettings]:
    return (dataclasses.replace(best, prior=prior, prior_days=days) for days in PRIOR_DAYS for prior in PRIORS)
