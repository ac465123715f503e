"""What `pinnerformer train` is asked for: its flags, read into one request."""

import dataclasses
import datetime

from pinnerformer_model.config import FEATURES, PRESETS
from pinnerformer_model.training_settings import (
    MODES,
    OBJECTIVES,
    Negatives,
    Objective,
    Schedule,
    StartSettings,
    TrainingSettings,
)
from pipelines.arguments import Parser, date, positive
from stores.errors import UsageError

DESCRIPTION = """\
Trains the two towers on the timelines that `pinnerformer training-data` wrote, and writes a model that `daily` takes:
that of the evaluation with the best recall@10 on held-out users, or the last where there is none. The weights it
starts from are evaluated first: if nothing beats them, they are kept, and the exit code is 4.

Training sees what was before --until; evaluation asks half of the held-out users, embedded at that moment, for what
they engaged with positively in the 14 days after it; `evaluate` reports the other half. Killed? Run the same command
again: it goes on from the last saved state, with the same result. Several cores or devices: --processes N; several
machines: torchrun ... -m pinnerformer train ...
"""

EPILOG = """\
example:
  pinnerformer train --timelines TIMELINES --preset demo --steps 2000 --out MODEL
"""


LEARNING_RATE = 3e-4  # at 1e-3 what a fresh model knows is lost in the first steps, and not won back in hundreds


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The evaluation during training: the days after its end, at most so many users; `skip` leaves it out."""

    days: int
    users: int
    skip: bool


@dataclasses.dataclass(frozen=True)
class TrainRequest:
    """What `pinnerformer train` is asked for.

    Attributes:
        timelines: Of `pinnerformer training-data`.
        out: A new folder for the model.
        state: Where training stands, and TensorBoard's files.
        model: An existing model's folder, to start from; None: new weights.
        preset: The sizes of a model of new weights.
        drop_features: Those left out; sorted, each once.
        until: Training sees what was before; None: what was before the held-out days.
        held_out: The evaluation during training.
        choose_by: `new` or `all`: which kind of recall chooses the checkpoint.
        keep_last: Keep the last weights, whatever is best.
        length: M of new weights; None: the preset's.
        start: How new weights weigh the vectors; None: chosen by the users that choose the checkpoint.
        settings: Of training.
        default_negatives: Whether the flags leave the number of random negatives open: no more than the corpus has.
        default_temperature: Whether they leave the temperature open: that of `model`, if it has one.
        schedule: When there is an evaluation, when a state is saved, when training ends early.
        device: `cpu` or `cuda`.
        processes: That train together, on this machine.
        quiet: Without progress display and summary.
    """

    timelines: str
    out: str
    state: str
    model: str | None
    preset: str
    drop_features: tuple[str, ...]
    until: datetime.date | None
    held_out: HeldOut
    choose_by: str
    keep_last: bool
    length: int | None
    start: StartSettings | None
    settings: TrainingSettings
    default_negatives: bool
    default_temperature: bool
    schedule: Schedule
    device: str
    processes: int
    quiet: bool

    def settings_for(self, corpus_size: int) -> TrainingSettings:
        """The settings on a corpus of so many pins."""
        negatives = self.settings.negatives
        if self.default_negatives:
            negatives = dataclasses.replace(negatives, random=min(negatives.random, corpus_size))
        return dataclasses.replace(self.settings, negatives=negatives)


def make_parser() -> Parser:
    """The flags of `pinnerformer train`."""
    default = TrainingSettings()
    parser = Parser(prog="pinnerformer train", description=DESCRIPTION, epilog=EPILOG, own=("model", "device"))
    parser.add_argument("--timelines", required=True, metavar="DIR", help="of `pinnerformer training-data`")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the model")
    parser.add_argument(
        "--state", metavar="DIR", help="where training stands, and TensorBoard's (default OUT-training)"
    )
    start = parser.add_argument_group("what to start from").add_mutually_exclusive_group()
    start.add_argument("--preset", choices=sorted(PRESETS), default="small", help="new weights")
    start.add_argument("--model", metavar="DIR", help="an existing model's weights")
    new = parser.add_argument_group("new weights (which start is best is chosen, unless one of these is given)")
    new.add_argument(
        "--length", type=positive, metavar="M", help="engagements of a user at most (default the preset's)"
    )
    first = StartSettings()
    new.add_argument("--start-ridge", type=float, metavar="X", help=f"lambda of the start (default {first.ridge:g})")
    new.add_argument(
        "--start-prior", type=float, metavar="X", help=f"weight of everybody's last (default {first.prior:g})"
    )
    new.add_argument(
        "--start-prior-days", type=positive, metavar="DAYS", help=f"what is last (default {first.prior_days})"
    )
    new.add_argument(
        "--start-mean-scale", type=float, metavar="X", help=f"mean beside newest (default {first.mean_scale:g})"
    )
    when = parser.add_argument_group("when")
    when.add_argument(
        "--until", type=date, metavar="DATE", help="train on what was before (default 14 days before the end)"
    )
    when.add_argument("--evaluation-days", type=positive, default=14, help="after --until")
    when.add_argument("--evaluation-users", type=positive, default=1000, help="at most")
    when.add_argument(
        "--choose-by",
        choices=("new", "all"),
        default="new",
        help="the recall that chooses: of pins new to the user, or of all",
    )
    when.add_argument("--keep-last", action="store_true", help="evaluate, but keep the last weights and not the best")
    when.add_argument("--no-evaluation", action="store_true", help="train to the last step and keep that")
    what = parser.add_argument_group("what to learn")
    what.add_argument(
        "--objective", choices=OBJECTIVES, default=default.objective.name, help="what a window learns from"
    )
    what.add_argument("--days", type=float, default=default.objective.days, help="K, of all-action")
    what.add_argument("--positions", type=positive, default=32, help="of a window, dense all-action")
    what.add_argument("--labels", type=positive, default=32, help="of a window, all-action")
    what.add_argument(
        "--newest-weight", type=float, metavar="SHARE", help="of a user's weight, for the newest position"
    )
    what.add_argument(
        "--label-days", type=float, metavar="DAYS", help="labels of the last DAYS of training only (default all)"
    )
    what.add_argument("--full-windows", action="store_true", help="no labels whose K days pass the end of training")
    what.add_argument("--negatives", choices=MODES, default=default.negatives.mode, help="where they come from")
    what.add_argument(
        "--random-negatives",
        type=positive,
        metavar="N",
        help="of a step (default 8192, or the corpus if it is smaller)",
    )
    what.add_argument("--in-batch-limit", type=positive, default=5000, help="in-batch negatives at most")
    what.add_argument("--no-logq", action="store_true", help="without the log Q correction")
    what.add_argument("--positive-q", choices=("pool", "user"), default="pool", help="Q of a label")
    what.add_argument("--exact-counts", action="store_true", help="one counter per pin, no count-min sketch")
    what.add_argument(
        "--drop-feature", choices=FEATURES, action="append", default=[], help="leave a feature out, for ablations"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--steps", type=positive, default=default.steps, help="of training")
    how.add_argument("--warmup-steps", type=positive, default=default.warmup_steps, help="in which the rate rises")
    how.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="after the warm-up")
    how.add_argument("--weight-decay", type=float, default=default.weight_decay, help="of AdamW")
    how.add_argument(
        "--temperature", type=float, help="to start from (default that of --model, or what fits the start)"
    )
    how.add_argument("--dropout", type=float, default=0.0, help="of the user tower's blocks")
    how.add_argument("--repeat-weight", type=float, default=1.0, help="of labels the user had before")
    how.add_argument("--users-per-step", type=positive, default=128, help="of all devices together")
    how.add_argument("--windows-per-user", type=positive, default=1, help="drawn in a step")
    how.add_argument("--window-share", type=float, default=1.0, metavar="SHARE", help="of all windows")
    how.add_argument("--evaluate-every", type=positive, default=200, metavar="STEPS", help="between evaluations")
    how.add_argument("--patience", type=positive, default=5, help="evaluations without a better recall")
    how.add_argument("--save-every", type=positive, default=200, metavar="STEPS", help="between saved states")
    how.add_argument("--seed", type=int, default=0, help="of weights and draws")
    how.add_argument("--processes", type=positive, default=1, metavar="N", help="that train together")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what to train on")
    how.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="of the towers (default float32, bfloat16 on cuda)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress display, no summary")
    return parser


def parse(argv: list[str]) -> TrainRequest:
    """Reads the flags of `pinnerformer train`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    random_negatives, default = Negatives().random, TrainingSettings()
    try:
        settings = TrainingSettings(
            objective=Objective(
                found.objective,
                found.days,
                found.positions,
                found.labels,
                found.newest_weight,
                found.full_windows,
                found.label_days,
            ),
            negatives=Negatives(found.negatives, found.random_negatives or random_negatives, found.in_batch_limit),
            log_q=not found.no_logq,
            positive_q=found.positive_q,
            exact_counts=found.exact_counts,
            steps=found.steps,
            warmup_steps=min(found.warmup_steps, found.steps),
            learning_rate=found.learning_rate,
            weight_decay=found.weight_decay,
            users_per_step=found.users_per_step,
            windows_per_user=found.windows_per_user,
            window_share=found.window_share,
            temperature=default.temperature if found.temperature is None else found.temperature,
            dropout=found.dropout,
            repeat_weight=found.repeat_weight,
            precision=found.precision or ("bfloat16" if found.device == "cuda" else "float32"),
            seed=found.seed,
        )
        given = {name: getattr(found, f"start_{name}") for name in ("ridge", "prior", "prior_days", "mean_scale")}
        given = {name: value for name, value in given.items() if value is not None}
        start = StartSettings(**given) if given else None
    except ValueError as error:
        raise UsageError(str(error)) from None
    if found.model and (given or found.length):
        raise UsageError("--start-... and --length are of new weights; --model has its own")
    return TrainRequest(
        timelines=found.timelines,
        out=found.out,
        state=found.state or f"{found.out.rstrip('/')}-training",
        model=found.model,
        preset=found.preset,
        drop_features=tuple(sorted(set(found.drop_feature))),
        until=found.until,
        held_out=HeldOut(found.evaluation_days, found.evaluation_users, found.no_evaluation),
        choose_by=found.choose_by,
        keep_last=found.keep_last,
        length=found.length,
        start=start,
        settings=settings,
        default_negatives=found.random_negatives is None,
        default_temperature=found.temperature is None,
        schedule=Schedule(found.evaluate_every, found.patience, found.save_every),
        device=found.device,
        processes=found.processes,
        quiet=found.quiet,
    )
