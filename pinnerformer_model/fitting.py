"""The training loop: steps, evaluations, what is kept, and when it ends."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from pinnerformer_model.diverging import blame
from pinnerformer_model.step_batches import BatchMaker, Feed
from pinnerformer_model.training import Trainer
from pinnerformer_model.training_settings import Schedule
from pinnerformer_model.training_state import TrainingState


class DivergedError(RuntimeError):
    """The loss, or the norm of its gradient, is not a finite number; the weights are those before that step."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls; all of them on every rank, so that those who must act alone look at their rank.

    Attributes:
        evaluate: -> the figure that must rise; None: there is no evaluation, and the last weights are kept.
        keep: Keeps the weights as the best so far.
        save: Saves the state.
        on_step: Called with step, loss, norm of the gradient.
        on_evaluation: Called with step and figure.
    """

    evaluate: Callable[[], float] | None
    keep: Callable[[], None]
    save: Callable[[TrainingState], None]
    on_step: Callable[[int, float, float], None]
    on_evaluation: Callable[[int, float], None]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """How training went.

    Attributes:
        steps: Steps done.
        best: `{"step", "recall"}` of the kept checkpoint; None without evaluation.
        stopped_early: Whether patience ran out.
        seconds, waited_s: Of this process's steps and evaluations, and of it waiting for data.
        tokens: Of this process's steps.
    """

    steps: int
    best: dict[str, Any] | None
    stopped_early: bool
    seconds: float
    waited_s: float
    tokens: int


def fit(
    trainer: Trainer,
    maker: BatchMaker,
    schedule: Schedule,
    hooks: Hooks,
    settings: dict[str, Any],
    best: dict[str, Any] | None = None,
) -> Fitted:
    """Trains from where the trainer stands to its last step, or until patience runs out.

    The result depends on the settings alone, not on where training was stopped and taken up again.

    Args:
        settings: What a state must match to go on.
        best: Of the state that training goes on from.

    Raises:
        DivergedError: the loss is not finite; what was kept and saved before stays.
    """
    last = trainer.settings.steps
    started, tokens = time.perf_counter(), 0
    feed = Feed(maker, trainer.step_number, last)
    # Asked before the first step: a training whose patience had run out when it was saved must not do one step more.
    stopped = _out_of_patience(best, trainer.step_number, schedule)
    try:
        while trainer.step_number < last and not stopped:
            batch = feed.next()
            loss, norm = trainer.step(batch)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergedError(
                    f"step {trainer.step_number + 1}: the loss is {loss} and its gradient's norm {norm}: "
                    f"{blame(trainer, batch)}; "
                    "lower the learning rate or lengthen the warm-up"
                )
            step, tokens = trainer.step_number, tokens + batch.tokens
            hooks.on_step(step, loss, norm)
            if hooks.evaluate and (step % schedule.evaluate_every == 0 or step == last):
                figure = hooks.evaluate()
                hooks.on_evaluation(step, figure)
                if best is None or figure > best["recall"]:
                    best = {"step": step, "recall": figure}
                    hooks.keep()
                stopped = _out_of_patience(best, step, schedule)
            # After the evaluation of the same step, so that a saved state knows the best that there was.
            if step % schedule.save_every == 0 or step == last or stopped:
                hooks.save(TrainingState(trainer.tensors(), step, settings, best))
    finally:
        feed.close()
    if not hooks.evaluate:
        hooks.keep()
    seconds = time.perf_counter() - started
    return Fitted(trainer.step_number, best, stopped, seconds, feed.waited_s, tokens)


def _out_of_patience(best: dict[str, Any] | None, step: int, schedule: Schedule) -> bool:
    return best is not None and step - best["step"] >= schedule.patience * schedule.evaluate_every
