"""`pinnerformer evaluate`: how well a model foresees what users of its own do next, beside simple baselines."""

import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pinnerformer_model.checkpoint import LoadedModel, check_model, load_model
from pinnerformer_model.config import ModelConfig, ModelError
from pinnerformer_model.days import DAY_MS, day_of, midnight_ms
from pinnerformer_model.evaluation import Figures, pool_figures
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.ranking import matrix_scorer
from pinnerformer_model.timelines import Timelines, merge_users
from pinnerformer_model.user_tower import UserTower
from pipelines.synthetic.oracle import oracle_scores, read_world
from pipelines.synthetic.world import World
from pipelines.telemetry import lines
from pipelines.training.evaluate_request import UNTRAINED, EvaluateRequest, parse
from pipelines.training.evaluate_table import as_json, print_rows
from pipelines.training.seen import check_unseen, check_vectors
from pipelines.training.start import rebuild_start, seed_of, start_of
from stores.column_names import OUR_NAMES, ColumnNames
from stores.errors import InputError, UsageError
from stores.extras import load
from stores.pin_topics import read_topics
from transforms.baselines import Row, baseline_rows, missing_baselines
from transforms.evaluation import Evaluation, cluster_topics, default_cut, make_evaluation
from transforms.model import local_model
from transforms.training_data import TrainingData, load_training_data, refuse_width


def load_evaluation(
    folder: str, pins: str | None, cut: datetime.date | None, days: int, **options: Any
) -> tuple[Evaluation, TrainingData, str]:
    """`load_evaluations` of one window.

    Args:
        cut: First day of the window; None: so that the window ends with the data.
        options: As those of `load_evaluations`.
    """
    (evaluation,), training, topics = load_evaluations(folder, pins, (cut,) if cut else (), days, **options)
    return evaluation, training, topics


def load_evaluations(
    folder: str,
    pins: str | None,
    cuts: Sequence[datetime.date],
    days: int,
    *,
    corpus: str = "uniform",
    corpus_size: int = 1_000_000,
    seed: int = 0,
    k: int = 10,
    columns: ColumnNames = OUR_NAMES,
) -> tuple[list[Evaluation], TrainingData, str]:
    """Loads timelines and prepares an evaluation of them at every cut.

    Args:
        pins: The vector set, for its topics; None: k-means clusters of the vectors.
        cuts: First days of the windows; empty: one window, that ends with the data.
        columns: How the vectors call their columns.

    Returns:
        An evaluation a cut, of all evaluation users; the training split; what the topics are.

    Raises:
        InputError: no evaluation users, or no positives of theirs in a window; says what there is.
        UsageError: a window is not inside the data.
    """
    training = load_training_data(folder, "train")
    held_out = load_training_data(folder, "evaluation")
    start, end = (datetime.date.fromisoformat(training.description[name]) for name in ("start", "end"))
    first_days = list(cuts) or [day_of(default_cut(midnight_ms(end) + DAY_MS, days))]
    for first in first_days:
        if not start < first <= end - datetime.timedelta(days - 1):
            raise UsageError(
                f"--cut {first}, --days {days}: the timelines hold {start} to {end}; the window [cut, cut + days) must "
                "lie inside, with something before it"
            )
    if not len(held_out.timelines):
        raise InputError(f"--timelines {folder}: no evaluation users; make them again with --evaluation-share above 0")
    topic = read_topics(pins, training.pin_ids, columns) if pins else None
    source = "the vector set's column `topic`"
    if topic is None:
        topic, source = cluster_topics(np.asarray(training.vectors, np.float32)), "350 k-means clusters of the vectors"
    # What item vectors are made of: all users' logs before the cut. Baselines that knew less would flatter models.
    everybody = merge_users(training.timelines, held_out.timelines)
    evaluations = [
        make_evaluation(
            held_out.timelines,
            training.timelines,
            training.vectors,
            midnight_ms(first),
            days,
            topic,
            corpus,
            corpus_size,
            seed,
            k,
            everybody,
        )
        for first in first_days
    ]
    # What does not depend on the cut, the vectors at unit length above all, is made once for all of them.
    evaluations = [dataclasses.replace(e, shared=evaluations[0].shared) for e in evaluations]
    for evaluation in evaluations:
        refuse_empty(folder, evaluation, held_out.timelines)
    return evaluations, training, source


def refuse_empty(folder: str, evaluation: Evaluation, timelines: Timelines) -> None:
    """Refuses a window in which there is nothing to foresee.

    Raises:
        InputError: says what there is.
    """
    if len(evaluation.moments("once").targets):
        return
    cut_ms, days = evaluation.cut_ms, evaluation.days
    inside = (timelines.timestamp_ms >= cut_ms) & (timelines.timestamp_ms < cut_ms + days * DAY_MS)
    raise InputError(
        f"--timelines {folder}: nothing to foresee from {day_of(cut_ms)} on for {days} days: {len(timelines):,} "
        f"evaluation users with {int(inside.sum()):,} events in the window, "
        f"{int((inside & timelines.positive).sum()):,} of them positive, none of a user with an event before it; look "
        "at --cut, and at the label rule"
    )


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
    refuse_width(f"--model {folder}", config, data)
    return model


def untrained_rows(
    models: Sequence[tuple[str, LoadedModel]],
    halves: Sequence[Evaluation],
    data: TrainingData,
    frequencies: tuple[str, ...],
) -> list[Row]:
    """The models' own initial weights, each once.

    The seed of a model that does not say it is taken for 0, which its row says.
    """
    rows, made = [], set()
    for folder, model in models:
        config = model.config
        bare = dataclasses.replace(
            config, until="", split_salt=None, evaluation_share=0.0, tower_marks={}, provenance={}
        )
        seed, start = seed_of(config), start_of(config)
        # Everybody's last positives are of what was before the end of training.
        same = (bare.to_json(), seed or 0, start, config.until if start.prior else "")
        if same in made:
            continue
        made.add(same)
        title = f"{folder}, untrained, seed {seed or 0}{', since its own is not known' if seed is None else ''}"
        for frequency, figures in measure_model(rebuild_start(config, data), bare, halves, frequencies).items():
            rows.append(Row(UNTRAINED, title, frequency, figures))
    return rows


def measure_model(
    towers: tuple[UserTower, PinTower], config: ModelConfig, halves: Sequence[Evaluation], frequencies: tuple[str, ...]
) -> dict[str, Figures]:
    """What two towers get at each frequency, pooled over the cuts."""
    found = [half.model(*towers, config.max_sequence_length, frequencies) for half in halves]
    return {frequency: pool_figures([one[frequency] for one in found]) for frequency in frequencies}


def main(argv: list[str]) -> int:
    """Runs the command: measures everything that was asked for and prints it; returns the exit code."""
    request = parse(argv)
    load("scipy.sparse", "train", "evaluate")
    for folder in request.models:
        refuse_unfit(folder)
    world = read_world(request.oracle) if request.oracle else None
    evaluations, data, topics = load_evaluations(
        request.timelines,
        request.pins,
        request.cuts,
        request.days,
        corpus=request.corpus,
        corpus_size=request.corpus_size,
        seed=request.seed,
        k=request.k,
        columns=request.columns,
    )
    halves = [evaluation.half(request.half) for evaluation in evaluations]
    if not any(len(half.moments("once").targets) for half in halves):
        raise InputError(f"--half {request.half}: no positives of these users in the window; try --half both")
    vectors = check_vectors(request.timelines, data.description, evaluations, request.allow_seen)
    models = [(folder, open_model(folder, data)) for folder in request.models]
    seen = {
        folder: check_unseen(folder, model.config, halves, request.half, request.allow_seen) for folder, model in models
    }
    facts = {**describe(request, halves, topics, seen), "vectors": vectors}
    say = lines.say if not request.as_json else lambda what: None
    say(facts["error"])  # before the slow part: whether it is worth waiting for
    rows = measure(request, evaluations, halves, models, world, data, say)
    if request.as_json:
        print(json.dumps(as_json(rows, facts), indent=1))
    else:
        print_rows(rows, request.k, [f"{name}: {value}" for name, value in facts.items()])
    return 0


def describe(
    request: EvaluateRequest, halves: Sequence[Evaluation], topics: str, seen: dict[str, str]
) -> dict[str, str]:
    """What the figures are of."""
    days = [day_of(half.cut_ms) for half in halves]
    popular = pool_figures([half.popularity(None, diversity=False) for half in halves])
    missing = missing_baselines(tuple(name for name in request.baselines if name != UNTRAINED))
    return {
        "window": ", ".join(f"{day} to {day + datetime.timedelta(request.days - 1)}" for day in days),
        "users": f"{popular.users:,} of the half `{request.half}`",
        **{f"seen by {folder}": what for folder, what in seen.items()},
        "positives": f"{popular.positives:,}, {popular.positives_new:,} of them new to the user",
        "corpus": f"{int(halves[0].in_corpus.sum()):,} pins, {request.corpus}",
        "topics": topics,
        "error": what_users_allow(popular, request.k),
        **{f"left out: {name}": why for name, why in missing.items()},
    }


def what_users_allow(popular: Figures, k: int) -> str:
    """How well so many users tell recall, from the figures of popularity on them: known before any model is asked."""
    told = []
    few = popular.users < 2
    for what, name in (("new items", "recall_new"), ("all items", "recall")):
        value, error = getattr(popular, name)[0], popular.errors[name]
        told.append(f"{error:.4f} of {what}" if error == error else f"nothing of {what}")
        few |= not error < 0.2 * value
    text = f"{popular.users:,} users tell the recall@{k} of a row to about ±{', ±'.join(told)} (popularity's error)"
    if few:
        text += "; that is little: pool windows with --cuts, or hold out more users with --evaluation-share"
    return text


def measure(
    request: EvaluateRequest,
    evaluations: Sequence[Evaluation],
    halves: Sequence[Evaluation],
    models: Sequence[tuple[str, LoadedModel]],
    world: World | None,
    data: TrainingData,
    say: Callable[[str], None],
) -> list[Row]:
    """The rows of the models, of the baselines and of the oracle of a world, as far as they were asked for."""
    rows: list[Row] = []
    for folder, model in models:
        say(f"measuring {folder} ...")
        found = measure_model((model.user_tower, model.pin_tower), model.config, halves, request.frequencies)
        rows += [Row(folder, folder, frequency, figures) for frequency, figures in found.items()]
    if UNTRAINED in request.baselines:
        rows += untrained_rows(models, halves, data, request.frequencies)
    rows += baseline_rows(
        [evaluation.half("choice") for evaluation in evaluations],
        halves,
        choose_by=request.choose_by,
        frequencies=request.frequencies,
        names=request.baselines,
        say=lambda name: say(f"measuring {name} ..."),
    )
    if world:
        say("measuring the oracle ...")
        found_by_cut = []
        for half in halves:
            users = half.timelines.user_ids[half.moments("once").user]
            scores = oracle_scores(world, users, data.pin_ids, half.cut_ms, request.days)
            found_by_cut.append(half.score(matrix_scorer(scores)))
        rows.append(Row("oracle", "oracle of the generator", "once", pool_figures(found_by_cut)))
    return rows
