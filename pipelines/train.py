"""`pinnerformer train`: timelines in, a model that `daily` takes out."""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pinnerformer_model.checkpoint import CONFIG, load_model, new_model, save_model
from pinnerformer_model.config import FEATURES, PRESETS, ModelConfig, ModelError, preset
from pinnerformer_model.distributed import ALONE, Group
from pinnerformer_model.evaluation import DAY_MS, moments_of
from pinnerformer_model.fitting import DivergedError, Fitted, Hooks, Schedule, fit
from pinnerformer_model.inference import UserEncoder, encode_pins
from pinnerformer_model.negatives import MODES, Negatives
from pinnerformer_model.objectives import OBJECTIVES, Objective
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.ranking import hits_at_k, recall, vector_scorer
from pinnerformer_model.timelines import sequences_ending
from pinnerformer_model.training import BatchMaker, Trainer, TrainingSettings
from pinnerformer_model.training_state import changed_settings, load_state, save_state
from pinnerformer_model.user_tower import UserTower
from pipelines.arguments import Parser, date, positive
from stores.errors import InputError, TrainingError, UsageError
from transforms.training_data import TrainingData, load_training_data

DESCRIPTION = """\
Trains the two towers on the timelines that `pinnerformer training-data` wrote, and writes a model that `daily` takes:
that of the evaluation with the best recall@10 on held-out users, or the last where there is none.

Training sees what was before --until; evaluation asks the held-out users, embedded at that moment, for what they
engaged with positively in the 14 days after it. Killed? Run the same command again: it goes on from the last
saved state, with the same result. Several devices: torchrun --nproc-per-node N -m pipelines.cli train ...
"""

EPILOG = """\
example:
  pinnerformer train --timelines TIMELINES --preset demo --steps 2000 --out MODEL
"""

CORPUS = 1_000_000  # pins that a positive competes with in the evaluation, as in the paper
RECALL_OF = 10


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Recall@10 of held-out users, embedded at a moment, over the days after it; by exact search."""

    data: TrainingData
    cut_ms: int
    days: int
    users: int
    length: int
    device: str

    def __post_init__(self):
        timelines = self.data.timelines
        if len(timelines) > self.users:  # the same ones every time; their order by id says nothing of them
            chosen = np.random.default_rng(0).choice(len(timelines), self.users, replace=False)
            timelines = timelines.users(np.sort(chosen))
        object.__setattr__(self, "_timelines", timelines)
        object.__setattr__(self, "_moments", moments_of(timelines, self.cut_ms, self.days))
        pins = np.zeros(len(self.data.vectors), bool)
        pins[np.random.default_rng(1).permutation(len(pins))[:CORPUS]] = True
        object.__setattr__(self, "_corpus", pins)

    @property
    def targets(self) -> int:
        return len(self._moments.targets)  # type: ignore[attr-defined]

    def __call__(self, user_tower: UserTower, pin_tower: PinTower) -> float:
        moments, timelines = self._moments, self._timelines  # type: ignore[attr-defined]
        sequences = sequences_ending(timelines, self.data.vectors, moments.user, moments.stop, self.length)
        users = UserEncoder(user_tower, device=self.device).encode(sequences)
        score = vector_scorer(users, encode_pins(pin_tower, self.data.vectors))
        hits = hits_at_k(score, len(moments), self._corpus, moments.targets, moments.others, RECALL_OF)  # type: ignore[attr-defined]
        return recall(hits, moments.target_user)[0]


@contextlib.contextmanager
def join_group(device: str) -> Iterator[tuple[Group, str]]:
    """The processes that torchrun started, and the device of this one; alone where it did not."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Group(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


def choose_model(arguments: argparse.Namespace, data: TrainingData) -> tuple[ModelConfig, UserTower, PinTower, str]:
    """The towers that training starts from, and what names them.

    Raises:
        InputError: the model was made for other vocabularies or another space than the timelines.
    """
    told = data.description
    try:
        if arguments.model:
            loaded = load_model(arguments.model)
            config = loaded.config
            for name in ("action_vocabulary", "surface_vocabulary", "pinsage_version"):
                theirs = told[name] if name == "pinsage_version" else tuple(told[name])
                if getattr(config, name) != theirs:
                    raise InputError(
                        f"{os.path.join(arguments.model, CONFIG)}: {name} is not that of the timelines; "
                        f"make them with `pinnerformer training-data --model {arguments.model}`"
                    )
            config = dataclasses.replace(
                config, label_rule=told["label_rule"], dropped_features=tuple(arguments.drop_feature)
            )
            user_tower, pin_tower = new_model(config, 0)
            user_tower.load_state_dict(loaded.user_tower.state_dict())
            pin_tower.load_state_dict(loaded.pin_tower.state_dict())
            return config, user_tower, pin_tower, loaded.digest
        config = preset(
            arguments.preset,
            action_vocabulary=tuple(told["action_vocabulary"]),
            surface_vocabulary=tuple(told["surface_vocabulary"]),
            pinsage_version=told["pinsage_version"],
            label_rule=told["label_rule"],
            dropped_features=tuple(arguments.drop_feature),
        )
        towers = new_model(config, arguments.seed, data.vectors)
        return config, *towers, f"{arguments.preset}, seed {arguments.seed}"
    except ModelError as error:
        raise InputError(str(error)) from None


def training_settings(arguments: argparse.Namespace, corpus_size: int) -> TrainingSettings:
    """What the flags say.

    Raises:
        UsageError: they do not go together.
    """
    try:
        return TrainingSettings(
            objective=Objective(arguments.objective, arguments.days, arguments.positions, arguments.labels),
            negatives=Negatives(
                arguments.negatives, arguments.random_negatives or min(8192, corpus_size), arguments.in_batch_limit
            ),
            log_q=not arguments.no_logq,
            positive_q=arguments.positive_q,
            exact_counts=arguments.exact_counts,
            steps=arguments.steps,
            warmup_steps=min(arguments.warmup_steps, arguments.steps),
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
            users_per_step=arguments.users_per_step,
            windows_per_user=arguments.windows_per_user,
            precision=arguments.precision or ("bfloat16" if arguments.device == "cuda" else "float32"),
            seed=arguments.seed,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def explain_nothing_to_draw(data: TrainingData, until: datetime.date, error: ValueError) -> InputError:
    """Why there is no training step: what there is, in numbers."""
    seen = data.timelines.before(_midnight_ms(until))
    lengths = seen.lengths
    return InputError(
        f"nothing to train on before {until}: {error}. There are {int((lengths > 0).sum()):,} training users with "
        f"{int(lengths.sum()):,} events, {int(seen.positive.sum()):,} of them positive by the label rule "
        f"{json.dumps(data.description['label_rule'])}; {int((lengths == 1).sum()):,} users have one event only. "
        "Look at --until and --days, or make timelines with another --label-rule"
    )


def _midnight_ms(day: datetime.date) -> int:
    return (day - datetime.date(1970, 1, 1)).days * DAY_MS


class Display:
    """The bar and the scalars of a run; says nothing on other ranks than the first."""

    def __init__(self, folder: str, first: int, steps: int, shown: bool):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(os.path.join(folder, "tensorboard"), purge_step=first + 1 if first else None)
        console = Console(stderr=True)
        self._live = shown and console.is_terminal
        self._plain = shown and not self._live
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(bar_width=28),
            TextColumn("step {task.completed:,} of {task.total:,}  {task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("train", total=steps, completed=first, told="")
        self._steps, self._loss, self._recall = steps, float("nan"), ""
        self._started = self._said = time.perf_counter()
        self._bar.start()

    def on_step(self, step: int, loss: float, norm: float, rate: float, temperature: float) -> None:
        self._loss = loss if self._loss != self._loss else 0.98 * self._loss + 0.02 * loss
        scalars = {"loss": loss, "gradient_norm": norm, "learning_rate": rate, "temperature": temperature}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._bar.update(self._task, completed=step, told=f"loss {self._loss:.3f}{self._recall}")
        if self._plain and time.perf_counter() - self._said > 10:
            self._say(step)

    def on_evaluation(self, step: int, figure: float) -> None:
        self._writer.add_scalar("recall_at_10", figure, step)
        self._recall = f"  recall@10 {figure:.4f}"
        self._bar.update(self._task, told=f"loss {self._loss:.3f}{self._recall}")
        if self._plain:
            self._say(step)

    def _say(self, step: int) -> None:
        self._said = time.perf_counter()
        told = f"step {step:,} of {self._steps:,}  loss {self._loss:.3f}{self._recall}"
        print(f"[{self._said - self._started:6.0f} s] {told}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.stop()
        self._writer.close()


def train(arguments: argparse.Namespace, group: Group, device: str) -> Fitted:
    """Trains as the flags say; writes model and state.

    Raises:
        PinnerFormerError: names the file or flag, and what to do.
    """
    data = load_training_data(arguments.timelines, "train")
    held_out = load_training_data(arguments.timelines, "evaluation")
    end = datetime.date.fromisoformat(data.description["end"]) + datetime.timedelta(1)
    until = arguments.until or end - datetime.timedelta(arguments.evaluation_days)
    config, user_tower, pin_tower, origin = choose_model(arguments, data)
    settings = training_settings(arguments, len(data.vectors))
    told = {
        "training": dataclasses.asdict(settings),
        "model": json.loads(config.to_json()),
        "origin": origin,
        "timelines": data.digest,
        "until": until.isoformat(),
        "evaluation": [arguments.evaluation_days, arguments.evaluation_users, arguments.no_evaluation],
        "schedule": [arguments.evaluate_every, arguments.patience],
    }
    try:
        state = load_state(arguments.state)
    except ModelError as error:
        raise InputError(str(error)) from None
    if state is not None and (changed := changed_settings(state.settings, told)):
        raise UsageError(
            f"--state {arguments.state}: training there began with other settings ({'; '.join(changed[:5])}); "
            "give those, or name another --state and --out"
        )
    if state is None and os.path.exists(os.path.join(arguments.out, CONFIG)):
        raise UsageError(f"--out {arguments.out}: holds a model already; name a new folder, or remove this one")
    evaluation = None
    if not arguments.no_evaluation:
        evaluation = Evaluation(
            held_out,
            _midnight_ms(until),
            arguments.evaluation_days,
            arguments.evaluation_users,
            config.max_sequence_length,
            device,
        )
        if not evaluation.targets:
            raise InputError(
                f"nothing to evaluate: no user of {len(held_out.timelines):,} held out has an event before {until} and "
                f"a positive in the {arguments.evaluation_days} days after; give an earlier --until, or --no-evaluation"
            )
    try:
        maker = BatchMaker(
            data.timelines.before(_midnight_ms(until)), data.vectors, settings, config.max_sequence_length, group
        )
    except ValueError as error:
        if "random negatives" in str(error):
            raise UsageError(f"--random-negatives: {error}") from None
        raise explain_nothing_to_draw(data, until, error) from None
    trainer = Trainer(config, user_tower, pin_tower, settings, len(data.vectors), device, group)
    if state is not None:
        trainer.load(state.tensors, state.step)

    first = group.rank == 0
    display = Display(arguments.state, trainer.step_number, settings.steps, not arguments.quiet) if first else None

    def evaluate() -> float:
        figure = torch.tensor(evaluation(user_tower, pin_tower) if first and evaluation else 0.0, device=device)
        return float(group.sum(figure))

    def keep() -> None:
        if first:
            save_model(arguments.out, config, user_tower, pin_tower, overwrite=True)

    def on_step(step: int, loss: float, norm: float) -> None:
        if display:
            display.on_step(step, loss, norm, settings.rate_at(step - 1), float(trainer.temperature().detach()))

    hooks = Hooks(
        evaluate=evaluate if evaluation else None,
        keep=keep,
        save=lambda found: save_state(arguments.state, found) if first else None,
        on_step=on_step,
        on_evaluation=lambda step, figure: display.on_evaluation(step, figure) if display else None,
    )
    every = arguments.evaluate_every
    schedule = Schedule(every, arguments.patience, arguments.save_every)
    try:
        return fit(trainer, maker, schedule, hooks, told, state.best if state else None)
    except DivergedError as error:
        kept = os.path.join(arguments.out, CONFIG)
        rest = f"the last good checkpoint is in {arguments.out}" if os.path.exists(kept) else "no checkpoint was kept"
        raise TrainingError(f"{error}; {rest}") from None
    finally:
        if display:
            display.close()


def make_parser() -> Parser:
    """The flags of `pinnerformer train`."""
    default = TrainingSettings()
    parser = Parser(prog="pinnerformer train", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--timelines", required=True, metavar="DIR", help="of `pinnerformer training-data`")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the model")
    parser.add_argument("--state", metavar="DIR", help="where training stands, and TensorBoard's (OUT-training)")
    start = parser.add_argument_group("what to start from").add_mutually_exclusive_group()
    start.add_argument("--preset", choices=sorted(PRESETS), default="small", help="new weights (default %(default)s)")
    start.add_argument("--model", metavar="DIR", help="an existing model's weights")
    when = parser.add_argument_group("when")
    when.add_argument("--until", type=date, metavar="DATE", help="train on what was before (14 days before the end)")
    when.add_argument("--evaluation-days", type=positive, default=14, help="after --until (default %(default)s)")
    when.add_argument("--evaluation-users", type=positive, default=1000, help="at most (default %(default)s)")
    when.add_argument("--no-evaluation", action="store_true", help="train to the last step and keep that")
    what = parser.add_argument_group("what to learn")
    what.add_argument("--objective", choices=OBJECTIVES, default=default.objective.name, help="(%(default)s)")
    what.add_argument("--days", type=float, default=default.objective.days, help="K, of all-action (%(default)s)")
    what.add_argument("--positions", type=positive, default=32, help="of a window, dense all-action (%(default)s)")
    what.add_argument("--labels", type=positive, default=32, help="of a window, all-action (%(default)s)")
    what.add_argument("--negatives", choices=MODES, default=default.negatives.mode, help="(%(default)s)")
    what.add_argument("--random-negatives", type=positive, metavar="N", help="8192, or the corpus if it is smaller")
    what.add_argument("--in-batch-limit", type=positive, default=5000, help="in-batch negatives at most (%(default)s)")
    what.add_argument("--no-logq", action="store_true", help="without the log Q correction")
    what.add_argument("--positive-q", choices=("pool", "user"), default="pool", help="Q of a label (%(default)s)")
    what.add_argument("--exact-counts", action="store_true", help="one counter a pin, no count-min sketch")
    what.add_argument(
        "--drop-feature", choices=FEATURES, action="append", default=[], help="leave a feature out, for ablations"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--steps", type=positive, default=default.steps, help="(%(default)s)")
    how.add_argument("--warmup-steps", type=positive, default=default.warmup_steps, help="(%(default)s)")
    how.add_argument("--learning-rate", type=float, default=default.learning_rate, help="(%(default)s)")
    how.add_argument("--weight-decay", type=float, default=default.weight_decay, help="(%(default)s)")
    how.add_argument("--users-per-step", type=positive, default=128, help="of all devices together (%(default)s)")
    how.add_argument("--windows-per-user", type=positive, default=1, help="(%(default)s)")
    how.add_argument("--evaluate-every", type=positive, default=200, metavar="STEPS", help="(%(default)s)")
    how.add_argument("--patience", type=positive, default=5, help="evaluations without a better recall (%(default)s)")
    how.add_argument("--save-every", type=positive, default=200, metavar="STEPS", help="(%(default)s)")
    how.add_argument("--seed", type=int, default=0, help="of weights and draws (%(default)s)")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    how.add_argument("--precision", choices=("float32", "bfloat16"), help="of the towers (bfloat16 on cuda)")
    parser.add_argument("--quiet", action="store_true", help="no progress display, no summary")
    return parser


def run(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    arguments = make_parser().parse_args(argv)
    arguments.state = arguments.state or f"{arguments.out.rstrip('/')}-training"
    arguments.drop_feature = sorted(set(arguments.drop_feature))
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; leave the flag out to train on the CPU")
    with join_group(arguments.device) as (group, device):
        fitted = train(arguments, group, device)
    if group.rank == 0 and not arguments.quiet:
        best = ""
        if fitted.best:
            best = f", the model of step {fitted.best['step']:,} kept, recall@10 {fitted.best['recall']:.4f}"
        print(
            f"{fitted.steps:,} steps{' (stopped early)' if fitted.stopped_early else ''}{best}; "
            f"{fitted.tokens / max(fitted.seconds, 1e-9):,.0f} tokens/s, "
            f"{fitted.waited_s / max(fitted.seconds, 1e-9):.1%} of the time waiting for data\n"
            f"model  {os.path.abspath(arguments.out)}\nstate  {os.path.abspath(arguments.state)} (TensorBoard's too)",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    from pipelines.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
