"""`pinnerformer evaluate`: how well a model foresees what users of its own do next, beside simple baselines."""

import dataclasses
import datetime
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from pinnerformer_model.checkpoint import LoadedModel, check_model, load_model
from pinnerformer_model.config import ModelError
from pinnerformer_model.days import DAY_MS, day_of, midnight_ms
from pinnerformer_model.evaluation import FREQUENCIES, Figures
from pinnerformer_model.ranking import matrix_scorer
from pipelines.arguments import Parser, add_json, date, positive
from pipelines.synthetic.oracle import oracle_scores, read_world
from stores.errors import InputError, UsageError
from stores.pin_topics import read_topics
from transforms.evaluation import (
    HALVES,
    Evaluation,
    choose_baselines,
    cluster_topics,
    default_cut,
    make_evaluation,
)
from transforms.model import local_model
from transforms.training_data import TrainingData, load_training_data

DESCRIPTION = """\
Measures models on the users that training did not see: what they engage with positively in the window, [cut, cut + 14
days), must be near the vector made of what they did before. Exact search, no index.

recall@10: a positive is a hit if fewer than 10 pins of the corpus are nearer to the user; a user's positives do not
compete with one another; pins of an equal score stand in random order. "new": pins that the user had never engaged
with, among such pins. "again": the others. entropy: of the topics among a user's 50 nearest pins, in nats. P90: the
smallest share of the corpus that makes up 90 % of all users' 10 nearest.

once: one vector at the cut. daily: made again every midnight, so that a day's actions count from the next day on.
realtime: made again after every action.

Settings of the baselines (days of popularity, vectors in the mean, PinnerSage's threshold) are chosen on one half of
the users; every figure is of the other half.
"""

EPILOG = """\
example:
  pinnerformer evaluate --timelines TIMELINES --pins WORLD/pins --model MODEL
"""


@dataclasses.dataclass(frozen=True)
class EvaluateRequest:
    """What `pinnerformer evaluate` is asked for.

    Attributes:
        models: Folders of what to measure.
        pins: The vector set, for its topics; None: clusters of the vectors.
        cut: First day of the window; None: so that the window ends with the data.
        days: Its length.
        k: Of recall@k.
        frequencies: How often vectors are made.
        corpus: `uniform` or `popular`.
        corpus_size: Pins at most.
        half: Of the users.
        baselines: Whether they are measured too.
        oracle: The folder of a synthetic world, to measure what its generator would know; None: not.
        seed: Of the corpus.
        as_json: Whether programs read it.
    """

    timelines: str
    models: tuple[str, ...]
    pins: str | None
    cut: datetime.date | None
    days: int
    k: int
    frequencies: tuple[str, ...]
    corpus: str
    corpus_size: int
    half: str
    baselines: bool
    oracle: str | None
    seed: int
    as_json: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer evaluate`."""
    parser = Parser(prog="pinnerformer evaluate", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--timelines", required=True, metavar="DIR", help="of `pinnerformer training-data`")
    parser.add_argument("--model", action="append", default=[], metavar="DIR", help="what to measure; may be repeated")
    parser.add_argument("--pins", metavar="DIR", help="the vector set; its column `topic` is what entropy is of")
    parser.add_argument(
        "--cut", type=date, metavar="DATE", help="first day of the window (default: 14 days to the end)"
    )
    parser.add_argument("--days", type=positive, default=14, help="length of the window (default %(default)s)")
    parser.add_argument("--k", type=positive, default=10, help="of recall@k (default %(default)s)")
    parser.add_argument(
        "--frequency", action="append", choices=FREQUENCIES, help="may be repeated (default: once, daily and realtime)"
    )
    parser.add_argument(
        "--corpus",
        choices=("uniform", "popular"),
        default="uniform",
        help="popular: pins drawn in proportion to their positives in training, harder to beat (default %(default)s)",
    )
    parser.add_argument("--corpus-size", type=positive, default=1_000_000, help="pins at most (default %(default)s)")
    parser.add_argument("--half", choices=HALVES, default="report", help="of the users (default %(default)s)")
    parser.add_argument("--no-baselines", action="store_true", help="the models only")
    parser.add_argument("--oracle", metavar="WORLD", help="the folder of `synth`: adds what its generator would know")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus (default %(default)s)")
    add_json(parser)
    return parser


def parse(argv: list[str]) -> EvaluateRequest:
    """Reads the flags of `pinnerformer evaluate`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    if not found.model and found.no_baselines:
        raise UsageError("--no-baselines without a --model leaves nothing to measure")
    return EvaluateRequest(
        timelines=found.timelines,
        models=tuple(found.model),
        pins=found.pins,
        cut=found.cut,
        days=found.days,
        k=found.k,
        frequencies=tuple(found.frequency or FREQUENCIES),
        corpus=found.corpus,
        corpus_size=found.corpus_size,
        half=found.half,
        baselines=not found.no_baselines,
        oracle=found.oracle,
        seed=found.seed,
        as_json=found.json,
    )


def load_evaluation(
    folder: str,
    pins: str | None,
    cut: datetime.date | None,
    days: int,
    corpus: str = "uniform",
    corpus_size: int = 1_000_000,
    seed: int = 0,
    k: int = 10,
) -> tuple[Evaluation, TrainingData, str]:
    """Loads timelines and prepares an evaluation of them.

    Args:
        pins: The vector set, for its topics; None: k-means clusters of the vectors.
        cut: First day of the window; None: so that the window ends with the data.

    Returns:
        The evaluation of all evaluation users; the training split; what the topics are.

    Raises:
        InputError: no evaluation users, or no positives of theirs in the window; says what there is.
        UsageError: the window is not inside the data.
    """
    training = load_training_data(folder, "train")
    held_out = load_training_data(folder, "evaluation")
    start, end = (datetime.date.fromisoformat(training.description[name]) for name in ("start", "end"))
    end_ms = midnight_ms(end) + DAY_MS
    cut_ms = midnight_ms(cut) if cut else default_cut(end_ms, days)
    first = day_of(cut_ms)
    if not start < first <= end - datetime.timedelta(days - 1):
        raise UsageError(
            f"--cut {first}, --days {days}: the timelines hold {start} to {end}; the window [cut, cut + days) must lie "
            "inside, with something before it"
        )
    if not len(held_out.timelines):
        raise InputError(f"--timelines {folder}: no evaluation users; make them again with --evaluation-share above 0")
    topic = read_topics(pins, training.pin_ids) if pins else None
    source = "the vector set's column `topic`"
    if topic is None:
        topic, source = cluster_topics(np.asarray(training.vectors, np.float32)), "350 k-means clusters of the vectors"
    evaluation = make_evaluation(
        held_out.timelines, training.timelines, training.vectors, cut_ms, days, topic, corpus, corpus_size, seed, k
    )
    if not len(evaluation.moments("once").targets):
        timelines = held_out.timelines
        inside = (timelines.timestamp_ms >= cut_ms) & (timelines.timestamp_ms < cut_ms + days * DAY_MS)
        raise InputError(
            f"--timelines {folder}: nothing to foresee from {first} on for {days} days: {len(timelines):,} evaluation "
            f"users with {int(inside.sum()):,} events in the window, {int((inside & timelines.positive).sum()):,} of "
            "them positive, none of a user with an event before it; look at --cut, and at the label rule"
        )
    return evaluation, training, source


def refuse_unfit(folder: str) -> None:
    """Looks at a model before any work begins.

    Raises:
        InputError: it cannot be used; names the file.
    """
    try:
        check_model(local_model(folder))
    except ModelError as error:
        raise InputError(f"--model {error}") from None


def open_model(folder: str, data: TrainingData) -> LoadedModel:
    """Loads a model that these timelines can be read with.

    Raises:
        InputError: not readable, of another PinSage version, or with other vocabularies.
    """
    try:
        model = load_model(local_model(folder))
    except ModelError as error:
        raise InputError(f"--model {error}") from None
    config, description = model.config, data.description
    if config.pinsage_version != description["pinsage_version"]:
        raise InputError(
            f"--model {folder}: trained on PinSage version {config.pinsage_version!r}, the timelines are of "
            f"{description['pinsage_version']!r}; another version is another space"
        )
    for name in ("action_vocabulary", "surface_vocabulary"):
        if list(getattr(config, name)) != description[name]:
            raise InputError(
                f"--model {folder}: its {name} is not that of the timelines; make them with "
                f"`pinnerformer training-data --model {folder}`"
            )
    return model


Row = tuple[str, str, Figures]  # contestant, frequency, figures


def baseline_rows(evaluation: Evaluation, half: Evaluation, frequencies: Sequence[str]) -> list[Row]:
    """The baselines, their settings chosen on the first half of the users."""
    chosen = choose_baselines(evaluation.half("choice"))
    days = f"last {chosen.popularity_days} days" if chosen.popularity_days else "all time"
    rows = [(f"popularity, {days}", "-", half.popularity(chosen.popularity_days))]
    name = f"mean of the last {chosen.mean_window}"
    rows += [(name, frequency, half.mean_of_last(chosen.mean_window, frequency)) for frequency in frequencies]
    clusters = half.clusters(chosen.threshold)
    rows += [(f"PinnerSage, oracle of {c}", "once", half.pinnersage(clusters, c)) for c in (5, 20)]
    return rows


def print_rows(rows: list[Row], k: int, facts: list[str]) -> None:
    """Prints a table for a person."""
    table = Table(box=box.SIMPLE)
    table.add_column("", overflow="fold")
    for name in ("made", f"recall@{k}", "by user", "new", "by user", "again", "entropy@50", "P90@10"):
        table.add_column(name, justify="left" if name == "made" else "right")

    def shown(value: float | None) -> str:
        return "-" if value is None or math.isnan(value) else f"{value:.4f}"

    for name, frequency, figures in rows:
        entropy = "-" if figures.entropy is None else f"{figures.entropy:.2f}"
        numbers = [*figures.recall, *figures.recall_new, figures.recall_repeat[0]]
        table.add_row(name, frequency, *map(shown, numbers), entropy, shown(figures.coverage))
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    for line in facts:
        console.print(line, highlight=False, soft_wrap=True)


def describe(request: EvaluateRequest, evaluation: Evaluation, half: Evaluation, topics: str) -> dict[str, str | int]:
    """What the figures are of."""
    figures = half.moments("once")
    first = day_of(evaluation.cut_ms)
    return {
        "window": f"{first} to {first + datetime.timedelta(request.days - 1)}",
        "users": f"{len(figures):,} of the half `{request.half}`, none seen in training",
        "positives": f"{len(figures.targets):,}, {int(figures.new.sum()):,} of them new to the user",
        "corpus": f"{int(evaluation.in_corpus.sum()):,} pins, {request.corpus}",
        "topics": topics,
    }


def as_json(rows: list[Row], facts: dict[str, str | int]) -> dict[str, Any]:
    """Everything, for programs; what cannot be said is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and math.isnan(value):
            return None
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    found = [{"name": name, "made": made, **plain(figures.as_json())} for name, made, figures in rows]
    return {**facts, "rows": found}


def main(argv: list[str]) -> int:
    """Runs the command: measures everything that was asked for and prints it; returns the exit code."""
    request = parse(argv)
    for folder in request.models:
        refuse_unfit(folder)
    evaluation, data, topics = load_evaluation(
        request.timelines,
        request.pins,
        request.cut,
        request.days,
        request.corpus,
        request.corpus_size,
        request.seed,
        request.k,
    )
    half = evaluation.half(request.half)
    if not len(half.moments("once").targets):
        raise InputError(f"--half {request.half}: no positives of these users in the window; try --half both")
    rows = measure(request, evaluation, half, data)
    facts = describe(request, evaluation, half, topics)
    if request.as_json:
        print(json.dumps(as_json(rows, facts), indent=1))
    else:
        print_rows(rows, request.k, [f"{name}: {value}" for name, value in facts.items()])
    return 0


def measure(request: EvaluateRequest, evaluation: Evaluation, half: Evaluation, data: TrainingData) -> list[Row]:
    """The rows of the models, of the baselines and of the oracle, as far as they were asked for."""

    def say(what: str) -> None:
        if not request.as_json:
            print(f"measuring {what} ...", file=sys.stderr, flush=True)

    models = [(folder, open_model(folder, data)) for folder in request.models]
    rows: list[Row] = []
    for folder, model in models:
        say(folder)
        length = model.config.max_sequence_length
        found = half.model(model.user_tower, model.pin_tower, length, request.frequencies)
        rows += [(folder, frequency, figures) for frequency, figures in found.items()]
    if request.baselines:
        say("the baselines")
        rows += baseline_rows(evaluation, half, request.frequencies)
    if request.oracle:
        say("the oracle")
        moments = half.moments("once")
        users = half.timelines.user_ids[moments.user]
        scores = oracle_scores(read_world(request.oracle), users, data.pin_ids, evaluation.cut_ms, request.days)
        rows.append(("oracle of the generator", "once", half.score(matrix_scorer(scores))))
    return rows
