"""The training loop: when it ends, and what it keeps."""

import dataclasses

import numpy as np
import pytest
import torch

from pinnerformer_model.fitting import DivergedError, Hooks, Schedule, fit
from tests.pinnerformer_model.test_training import SETTINGS, make


def hooks(**changes) -> Hooks:
    nothing = Hooks(
        evaluate=None,
        keep=lambda: None,
        save=lambda state: None,
        on_step=lambda step, loss, norm: None,
        on_evaluation=lambda step, figure: None,
    )
    return dataclasses.replace(nothing, **changes)


def test_a_loss_that_is_no_number_stops_before_it_touches_the_weights(timelines):
    trainer, maker = make(timelines)
    kept, saved = [], []

    def poison(step: int, loss: float, norm: float) -> None:
        if step == 7:
            with torch.no_grad():
                trainer.user_tower.head_out.weight[0, 0] = torch.nan

    with pytest.raises(DivergedError, match="step 8: the loss is nan"):
        fit(
            trainer,
            maker,
            Schedule(evaluate_every=3, patience=9, save_every=5),
            hooks(evaluate=lambda: trainer.step_number, keep=lambda: kept.append(trainer.step_number),
                  save=lambda state: saved.append(state.step), on_step=poison),
            {},
        )  # fmt: skip
    assert kept == [3, 6] and saved == [5]
    trainer, maker = make(timelines)
    weights = trainer.tensors()
    batch = maker.make(0)
    batch.pin_vectors[0, 0] = torch.inf
    loss, norm = trainer.step(batch)
    assert not np.isfinite(loss + norm) and trainer.step_number == 0
    after = trainer.tensors()
    assert all(torch.equal(after[name], value) for name, value in weights.items() if name != "counts")


def test_it_stops_early_and_keeps_the_best(timelines):
    settings = dataclasses.replace(SETTINGS, steps=100)
    figures = iter([0.1, 0.3, 0.2, 0.3, 0.25, 9.0])
    trainer, maker = make(timelines, settings)
    kept = []
    fitted = fit(
        trainer,
        maker,
        Schedule(evaluate_every=2, patience=3, save_every=50),
        hooks(evaluate=lambda: next(figures), keep=lambda: kept.append(trainer.step_number)),
        {},
    )
    assert kept == [2, 4] and fitted.stopped_early and fitted.steps == 10
    assert fitted.best == {"step": 4, "recall": 0.3}


def test_a_training_that_ends_early_saves_where_it_ended(timelines):
    trainer, maker = make(timelines, dataclasses.replace(SETTINGS, steps=100))
    figures, saved = iter([0.3, 0.2, 0.1]), []
    schedule = Schedule(evaluate_every=2, patience=2, save_every=200)
    fitted = fit(trainer, maker, schedule, hooks(evaluate=lambda: next(figures), save=saved.append), {})
    assert fitted.stopped_early and [(state.step, state.best["step"]) for state in saved] == [(6, 2)]
