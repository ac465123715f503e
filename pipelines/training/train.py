"""`pinnerformer train`: timelines in, a model that `daily` takes out."""

import dataclasses
import datetime
import json
import os
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pinnerformer_model.checkpoint import CONFIG, load_model, load_temperature, new_model, save_model
from pinnerformer_model.config import ModelConfig, ModelError, preset
from pinnerformer_model.days import midnight_ms
from pinnerformer_model.distributed import Group
from pinnerformer_model.fitting import DivergedError, Fitted, Hooks, fit
from pinnerformer_model.memory import keep_freed_memory
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.step_batches import BatchMaker
from pinnerformer_model.training import Trainer
from pinnerformer_model.training_settings import TrainingSettings
from pinnerformer_model.training_state import TrainingState, changed_settings, load_state, save_state
from pinnerformer_model.user_tower import UserTower
from pipelines.launch.stages import duration
from pipelines.telemetry.lines import say
from pipelines.training.choosing import make_evaluation, measure_start, with_provenance
from pipelines.training.processes import join_group, run_processes, started_as_rank
from pipelines.training.start import Starts, initial_towers
from pipelines.training.train_request import TrainRequest, parse
from stores.errors import InputError, TrainingError, UsageError
from stores.extras import load
from transforms.training_data import TrainingData, config_fields, load_training_data, refuse_width

NOT_BETTER = 4  # the exit code where no checkpoint beat the start


def choose_model(
    request: TrainRequest, data: TrainingData
) -> tuple[ModelConfig, tuple[UserTower, PinTower] | None, str]:
    """The model that training starts from: its config, its towers, None where they are new, and what names it.

    Raises:
        InputError: the model was made for other vocabularies or another space than the timelines.
    """
    described = data.description
    try:
        if request.model:
            loaded = load_model(request.model)
            config = loaded.config
            for name in ("action_vocabulary", "surface_vocabulary", "pinsage_version"):
                theirs = described[name] if name == "pinsage_version" else tuple(described[name])
                if getattr(config, name) != theirs:
                    raise InputError(
                        f"{os.path.join(request.model, CONFIG)}: {name} is not that of the timelines; "
                        f"make them with `pinnerformer training-data --model {request.model}`"
                    )
            refuse_width(os.path.join(request.model, CONFIG), config, data)
            config = dataclasses.replace(
                config, label_rule=described["label_rule"], dropped_features=request.drop_features
            )
            user_tower, pin_tower = new_model(config, 0)
            user_tower.load_state_dict(loaded.user_tower.state_dict())
            pin_tower.load_state_dict(loaded.pin_tower.state_dict())
            return config, (user_tower, pin_tower), loaded.digest
        config = preset(
            request.preset,
            **config_fields(data),
            dropped_features=request.drop_features,
        )
        if request.length:
            config = dataclasses.replace(config, max_sequence_length=request.length)
        return config, None, f"{request.preset}, seed {request.settings.seed}"
    except ModelError as error:
        raise InputError(str(error)) from None


def explain_nothing_to_draw(data: TrainingData, until: datetime.date, error: ValueError) -> InputError:
    """Why there is no training step: what there is, in numbers."""
    seen = data.timelines.before(midnight_ms(until))
    lengths = seen.lengths
    return InputError(
        f"nothing to train on before {until}: {error}. There are {int((lengths > 0).sum()):,} training users with "
        f"{int(lengths.sum()):,} events, {int(seen.positive.sum()):,} of them positive by the label rule "
        f"{json.dumps(data.description['label_rule'])}; {int((lengths == 1).sum()):,} users have one event only. "
        "Look at --until and --days, or make timelines with another --label-rule"
    )


class Display:
    """The bar and the scalars of a run: the loss shown is the mean of the latest steps, those before a stop too."""

    def __init__(self, folder: str, first: int, steps: int, shown: bool):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(os.path.join(folder, "tensorboard"), purge_step=first + 1 if first else None)
        console = Console(stderr=True)
        self._live = shown and console.is_terminal
        self._plain = shown and not self._live
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(bar_width=28),
            TextColumn("step {task.completed:,} of {task.total:,}  {task.fields[so_far]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("train", total=steps, completed=first, so_far="")
        self._first, self._steps, self._loss, self._recall = first, steps, "", ""
        self._started = self._said = time.perf_counter()
        self._bar.start()

    def on_step(self, step: int, loss: float, recent: float, norm: float, rate: float, temperature: float) -> None:
        self._loss = f"loss {recent:.3f}"
        scalars = {"loss": loss, "gradient_norm": norm, "learning_rate": rate, "temperature": temperature}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._bar.update(self._task, completed=step, so_far=f"{self._loss}{self._recall}")
        # A line every ten seconds at first, and one a minute of what takes hours.
        if self._plain and time.perf_counter() - self._said > min(60.0, max(10.0, 0.1 * (self._said - self._started))):
            self._say(step)

    def on_evaluation(self, step: int, figure: float) -> None:
        self._writer.add_scalar("recall_at_10", figure, step)
        self._recall = f"  recall@10 {figure:.4f}"
        self._bar.update(self._task, so_far=f"{self._loss}{self._recall}")
        if self._plain:
            self._say(step)

    def _say(self, step: int) -> None:
        self._said = time.perf_counter()
        elapsed_s, done = self._said - self._started, step - self._first
        left_s = elapsed_s / done * (self._steps - step) if done else None
        rest = f"; about {duration(left_s)} left" if left_s else ""
        text = f"step {step:,} of {self._steps:,}  {self._loss}{self._recall}{rest}"
        say(f"[{elapsed_s:6.0f} s] {text}", stage="train", done=step, total=self._steps, left_s=left_s)

    def close(self) -> None:
        self._bar.stop()
        self._writer.close()


def train(request: TrainRequest, group: Group, device: str) -> Fitted:
    """Trains as it was asked for; writes model and state.

    Raises:
        PinnerFormerError: names the file or flag, and what to do.
    """
    data = load_training_data(request.timelines, "train")
    held_out = load_training_data(request.timelines, "evaluation")
    end = datetime.date.fromisoformat(data.description["end"]) + datetime.timedelta(1)
    until = request.until or end - datetime.timedelta(request.held_out.days)
    config, towers, origin = choose_model(request, data)
    settings = choose_settings(request, len(data.vectors))
    identity = identify(request, settings, config, origin, data.digest, until)
    config = with_provenance(config, request, data, origin, until)
    # Before the slow parts: a state of other settings is refused in a second, not after the evaluation was prepared.
    state = open_state(request, identity)
    evaluation = make_evaluation(request, held_out, config, until, device)
    maker = make_batches(data, settings, config, until, group)
    if towers is None:
        starts = Starts(config, settings.seed, data.vectors, maker.sampler.timelines, midnight_ms(until))
        config, towers = initial_towers(config, request, starts, evaluation, group)
    user_tower, pin_tower = towers
    trainer = Trainer(config, user_tower, pin_tower, settings, len(data.vectors), device, group)
    best = state.best if state else None
    if state is not None:
        resume(trainer, state, request.state)
    elif request.default_temperature and not request.model:
        trainer.calibrate(maker.make(0))
    if state is None and group.rank == 0:
        # Before any model is kept: a first attempt that is killed early leaves a state to go on from, not only a model
        # folder that the same command would refuse to write to.
        save_state(request.state, TrainingState(trainer.tensors(), 0, identity, None))

    first = group.rank == 0
    display = Display(request.state, trainer.step_number, settings.steps, not request.quiet) if first else None

    # On every rank, since `sum` waits for all; the first computes, the others add nothing.
    def figures() -> tuple[float, float]:
        found = evaluation.figures(user_tower, pin_tower) if first and evaluation else (0.0, 0.0)
        figure, error = group.sum(torch.tensor(found, device=device)).tolist()
        return figure, error

    def keep() -> None:
        if first:
            done = dataclasses.replace(config, provenance={**config.provenance, "steps": trainer.step_number})
            tau = float(trainer.temperature().detach())
            save_model(request.out, done, user_tower, pin_tower, temperature=tau, overwrite=True)

    def on_step(step: int, loss: float, norm: float) -> None:
        if display:
            tau = float(trainer.temperature().detach())
            display.on_step(step, loss, trainer.recent_loss, norm, settings.rate_at(step - 1), tau)

    hooks = Hooks(
        evaluate=(lambda: figures()[0]) if evaluation else None,
        keep=keep,
        save=lambda found: save_state(request.state, found) if first else None,
        on_step=on_step,
        on_evaluation=lambda step, figure: display.on_evaluation(step, figure) if display else None,
    )
    try:
        if evaluation and best is None and trainer.step_number == 0:
            best = measure_start(evaluation, figures, hooks, say=first and not request.quiet)
        fitted = fit(trainer, maker, request.schedule, hooks, identity, best)
        keep() if request.keep_last else None
        return fitted
    except DivergedError as error:
        kept = os.path.join(request.out, CONFIG)
        rest = f"the last good checkpoint is in {request.out}" if os.path.exists(kept) else "no checkpoint was kept"
        raise TrainingError(f"{error}; {rest}") from None
    finally:
        if display:
            display.close()


def choose_settings(request: TrainRequest, corpus_size: int) -> TrainingSettings:
    """The settings of a training, those included that the flags leave to the corpus and to the model gone on with.

    Raises:
        InputError: the model's header is damaged.
    """
    settings = request.settings_for(corpus_size)
    if not (request.model and request.default_temperature):
        return settings
    try:
        temperature = load_temperature(request.model)
    except ModelError as error:
        raise InputError(str(error)) from None
    return settings if temperature is None else dataclasses.replace(settings, temperature=temperature)


def resume(trainer: Trainer, state: TrainingState, folder: str) -> None:
    """Goes on from a state.

    Raises:
        InputError: it is not of this training, though its settings are.
    """
    try:
        trainer.load(state.tensors, state.step)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"--state {folder}: the state there does not fit the model ({error}); name another --state and --out"
        ) from None


def identify(
    request: TrainRequest,
    settings: TrainingSettings,
    config: ModelConfig,
    origin: str,
    timelines: str,
    until: datetime.date,
) -> dict[str, Any]:
    """What a saved state must have been made of to be gone on with."""
    held_out, schedule = request.held_out, request.schedule
    return {
        "training": dataclasses.asdict(settings),
        "model": json.loads(config.to_json()),
        "origin": origin,
        "timelines": timelines,
        "until": until.isoformat(),
        "evaluation": [held_out.days, held_out.users, held_out.skip],
        "choose_by": "last" if request.keep_last else request.choose_by,
        "start": dataclasses.asdict(request.start) if request.start else "chosen",
        "schedule": [schedule.evaluate_every, schedule.patience],
    }


def open_state(request: TrainRequest, identity: dict[str, Any]) -> TrainingState | None:
    """Where an earlier attempt of this training stands; None on the first.

    Raises:
        UsageError: what is there is of another training.
    """
    try:
        state = load_state(request.state)
    except ModelError as error:
        raise InputError(str(error)) from None
    if state is not None and (changed := changed_settings(state.settings, identity)):
        raise UsageError(
            f"--state {request.state}: training there began with other settings ({'; '.join(changed[:5])}); "
            "give those, or name another --state and --out"
        )
    if state is None and os.path.exists(os.path.join(request.out, CONFIG)):
        raise UsageError(f"--out {request.out}: holds a model already; name a new folder, or remove this one")
    return state


def make_batches(
    data: TrainingData, settings: TrainingSettings, config: ModelConfig, until: datetime.date, group: Group
) -> BatchMaker:
    """What draws the steps.

    Raises:
        UsageError: more random negatives than pins. InputError: there is nothing to draw from.
    """
    seen = data.timelines.before(midnight_ms(until))
    try:
        return BatchMaker(seen, data.vectors, settings, config.max_sequence_length, group, midnight_ms(until))
    except ValueError as error:
        if "random negatives" in str(error):
            raise UsageError(f"--random-negatives: {error}") from None
        raise explain_nothing_to_draw(data, until, error) from None


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    request = parse(argv)
    load("torch.utils.tensorboard", "train", "train")
    if request.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; leave the flag out to train on the CPU")
    if request.processes > 1 and not started_as_rank():
        return run_processes(["train", *argv], request.processes)
    keep_freed_memory()
    with join_group(request.device) as (group, device):
        fitted = train(request, group, device)
    worse = not request.keep_last and fitted.best is not None and fitted.best["step"] == 0
    if group.rank == 0 and not request.quiet:
        best = ""
        if fitted.best:
            kept = "the last model kept; the best was" if request.keep_last else "kept"
            best = f", {kept} that of step {fitted.best['step']:,}, recall@10 {fitted.best['recall']:.4f}"
        say(
            f"{fitted.steps:,} steps{' (stopped early)' if fitted.stopped_early else ''}{best}; "
            f"{fitted.tokens / max(fitted.seconds, 1e-9):,.0f} tokens/s, "
            f"{fitted.waited_s / max(fitted.seconds, 1e-9):.1%} of the time waiting for data\n"
            f"model  {os.path.abspath(request.out)}\nstate  {os.path.abspath(request.state)} (TensorBoard's too)"
        )
    if worse and group.rank == 0:
        say(
            f"pinnerformer train: no checkpoint beat the start on the users that choose: {request.out} holds the "
            "weights that training started from; try a lower --learning-rate, more --steps with a longer "
            "--warmup-steps, or more training data, with another --out"
        )
    # One rank says so: torchrun ends the others where one's exit code is not 0, and calls it a crash.
    return NOT_BETTER if worse and group.rank == 0 else 0


if __name__ == "__main__":
    from pipelines import cli

    sys.exit(cli.main(["train", *sys.argv[1:]]))
