"""The rows that a model is compared with, in one table: what each may be set to, and what it gets.

A setting is chosen on users of their own and measured on others; both may be several evaluations (folds over users,
cuts in time), whose users' sums are pooled. Everything a baseline learns comes from before the cut: from all users, as
item vectors do, those included that are asked.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_model.baselines import MEAN_WINDOWS, count_engagements, own_counts_scorer, own_history
from pinnerformer_model.co_engagement import EASE_ITEMS, Fold, als, ease, item_cosine, missing_als, most_engaged, weigh
from pinnerformer_model.evaluation import Figures, pool_figures
from pinnerformer_model.evaluation_names import CHOOSE_BY, FIGURE_OF
from pinnerformer_model.pinnersage import SERVED, THRESHOLDS
from pinnerformer_model.timelines import stops_before
from transforms.evaluation import POPULARITY_DAYS, Evaluation

if TYPE_CHECKING:  # an extra: whoever calls brings it, and --help does without
    import scipy.sparse as sparse


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One kind of baseline.

    Attributes:
        name: Its key.
        settings: evaluation -> what is tried; its first is taken where nothing tells them apart.
        title: (setting, evaluation) -> the row's name.
        measure: (evaluation, setting, frequency, with diversity) -> its figures.
        frequencies: At which it is measured; empty: at every one asked for.
        missing: -> what must be installed for it; None where nothing must.
        once: Whether it has one row, and none for what the other kind of recall would choose.
    """

    name: str
    settings: Callable[[Evaluation], Sequence[Any]]
    title: Callable[[Any, Evaluation], str]
    measure: Callable[[Evaluation, Any, str, bool], Figures]
    frequencies: tuple[str, ...] = ("once",)
    missing: Callable[[], str | None] = lambda: None
    once: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """What one contestant got.

    Attributes:
        name: A baseline's key, or a model's folder.
        title: As it is shown.
        made: The frequency; `-` where nothing is made of a user.
        figures: Pooled over what it was measured on.
        setting: Of a baseline; None for a model.
        chosen_by: `new`, `all`, or `both` where they agree; None where nothing was chosen.
    """

    name: str
    title: str
    made: str
    figures: Figures
    setting: Any = None
    chosen_by: str | None = None


def of_days(days: int | None) -> str:
    return f"last {days} days" if days else "all time"


def training_counts(evaluation: Evaluation, positive: bool) -> "sparse.csr_array":
    """How often the users of `past` engaged with each pin before the cut: float32 [U, P], sparse."""
    past, pins = evaluation.past, len(evaluation.vectors)

    def make() -> "sparse.csr_array":
        stops = stops_before(past, evaluation.cut_ms)
        rows = np.arange(len(past))
        return count_engagements(past, past.offsets[:-1], stops, rows, pins, positive=positive)

    return evaluation.once(("counts", positive), make)


def kinds_of(evaluation: Evaluation) -> tuple[bool, ...]:
    """Whether baselines count positives only: both ways are tried where some events are none."""
    all_positive = bool(evaluation.past.positive.all())
    return (False,) if all_positive else (True, False)


def what_counts(positive: bool) -> str:
    return "positives" if positive else "engagements"


def folded(key: str, learn: Callable[[Evaluation, Any], Fold]) -> Callable[[Evaluation, "Learned", str, bool], Figures]:
    """Measures what learns from users' counts: learned once a setting, for both halves."""

    def measure(evaluation: Evaluation, setting: "Learned", frequency: str, diversity: bool) -> Figures:
        fold = evaluation.once((key, dataclasses.replace(setting, last=None)), lambda: learn(evaluation, setting))
        moments = evaluation.moments(frequency)
        own = own_history(
            evaluation.timelines, moments, len(evaluation.vectors), positive=setting.positive, last=setting.last
        )
        return evaluation.score(fold(weigh(own, setting.weight)), frequency, diversity=diversity)

    return measure


@dataclasses.dataclass(frozen=True)
class Learned:
    """A setting of what learns from counts.

    Attributes:
        positive: Of positives only; else of all engagements.
        weight: See `weigh`.
        last: Of the user asked, only so many of the newest; None: all.
        value: The baseline's own.
    """

    positive: bool
    weight: str
    last: int | None
    value: tuple[float, ...] = ()


def shown(setting: Learned) -> str:
    newest = f", the last {setting.last} of the user" if setting.last else ""
    return f"{what_counts(setting.positive)}{newest}"


def learn_cosine(evaluation: Evaluation, setting: Learned) -> Fold:
    return item_cosine(weigh(training_counts(evaluation, setting.positive), setting.weight), bool(setting.value[0]))


def ease_items(evaluation: Evaluation, positive: bool) -> np.ndarray:
    return most_engaged(training_counts(evaluation, positive), EASE_ITEMS)


def learn_ease(evaluation: Evaluation, setting: Learned) -> Fold:
    counts = weigh(training_counts(evaluation, setting.positive), setting.weight)
    return ease(counts, setting.value[0], ease_items(evaluation, setting.positive))


def title_ease(setting: Learned, evaluation: Evaluation) -> str:
    items = len(ease_items(evaluation, setting.positive))
    of = f"the {items:,} most engaged of {len(evaluation.vectors):,} items" if items == EASE_ITEMS else "all items"
    weight = "log of " if setting.weight == "log" else ""
    return f"EASE, penalty {setting.value[0]:g}, {of}, {weight}{shown(setting)}"


def learn_als(evaluation: Evaluation, setting: Learned) -> Fold:
    factors, regularization, alpha = setting.value
    counts = weigh(training_counts(evaluation, setting.positive), setting.weight)
    return als(counts, int(factors), regularization, alpha)


def title_als(setting: Learned, _: Evaluation) -> str:
    factors, regularization, alpha = setting.value
    return f"ALS, folded in, {factors:g} factors, lambda {regularization:g}, alpha {alpha:g}, {shown(setting)}"


def measure_own_counts(
    evaluation: Evaluation, setting: tuple[bool, int | None, int | None], frequency: str, diversity: bool
) -> Figures:
    positive, days, popular_days = setting
    moments = evaluation.moments(frequency)
    own = own_history(evaluation.timelines, moments, len(evaluation.vectors), positive=positive, days=days)
    return evaluation.score(own_counts_scorer(own, evaluation.popular(popular_days)), frequency, diversity=diversity)


BASELINES: tuple[Baseline, ...] = (
    Baseline(
        "popularity",
        lambda _: POPULARITY_DAYS,
        lambda days, _: f"popularity, {of_days(days)}",
        lambda evaluation, days, _, diversity: evaluation.popularity(days, diversity),
    ),
    Baseline(
        "own_counts",
        lambda e: [(kind, days, popular) for kind in kinds_of(e) for days in (None, 90) for popular in (28, 7, 3)],
        lambda s, _: f"own counts of {what_counts(s[0])}, {of_days(s[1])}, then popularity, {of_days(s[2])}",
        measure_own_counts,
    ),
    Baseline(
        "mean_of_last",
        lambda _: MEAN_WINDOWS,
        lambda window, _: f"mean of the last {window}",
        lambda evaluation, window, frequency, diversity: evaluation.mean_of_last(
            window, frequency, diversity=diversity
        ),
        frequencies=(),
    ),
    Baseline(
        "whitened_mean",
        lambda _: MEAN_WINDOWS,
        lambda window, _: f"mean of the last {window}, whitened",
        lambda evaluation, window, frequency, diversity: evaluation.mean_of_last(window, frequency, True, diversity),
        frequencies=(),
    ),
    Baseline(
        "item_cosine",
        lambda e: [
            Learned(kind, weight, last, (float(own),))
            for kind in kinds_of(e)
            for weight in ("log", "once")
            for last in (None, 100)
            for own in (False, True)
        ],
        lambda s, _: f"item-item cosine, {shown(s)}",
        folded("item_cosine", learn_cosine),
    ),
    Baseline(
        "ease",
        lambda e: [
            Learned(kind, weight, None, (penalty,))
            for kind in kinds_of(e)
            for weight in ("once", "log")
            for penalty in (100.0, 1000.0, 10_000.0)
        ],
        title_ease,
        folded("ease", learn_ease),
    ),
    Baseline(
        "als",
        lambda e: [
            Learned(kind, "log", None, (float(factors), regularization, alpha))
            for kind in kinds_of(e)
            for factors in (32, 64, 128)
            for regularization, alpha in ((0.01, 1.0), (1.0, 10.0))
        ],
        title_als,
        folded("als", learn_als),
        missing=missing_als,
    ),
    Baseline(
        "pinnersage_served",
        lambda _: THRESHOLDS,
        lambda threshold, _: f"PinnerSage served, {SERVED} medoids share the places, alpha {threshold:g}",
        lambda evaluation, threshold, _, diversity: evaluation.pinnersage_served(
            evaluation.clusters(threshold), diversity
        ),
    ),
    *(
        Baseline(
            f"pinnersage_{count}",
            lambda _: THRESHOLDS,
            lambda threshold, _, count=count: f"PinnerSage, oracle of {count}",  # type: ignore[misc]
            lambda evaluation, threshold, _, diversity, count=count: evaluation.pinnersage(  # type: ignore[misc]
                evaluation.clusters(threshold), count, diversity
            ),
            once=True,
        )
        for count in (5, 20)
    ),
)
ORACLES = ("pinnersage_5", "pinnersage_20")  # which know what is asked, and are no baselines to be beaten
NAMES = tuple(baseline.name for baseline in BASELINES)


def measure_baseline(
    baseline: Baseline, setting: Any, evaluations: Sequence[Evaluation], frequency: str = "once", diversity: bool = True
) -> Figures:
    """What a baseline of a setting gets, pooled over folds and cuts."""
    return pool_figures([baseline.measure(e, setting, frequency, diversity) for e in evaluations])


def choose_settings(
    baseline: Baseline, evaluations: Sequence[Evaluation], choose_by: Sequence[str] = CHOOSE_BY
) -> dict[str, Any]:
    """The best setting by each kind of recall.

    Args:
        evaluations: Of the users that choose; figures must be of others.

    Returns:
        Of `choose_by` -> setting. Where no positive is new to its user, `new` takes the first setting.
    """
    settings = list(baseline.settings(evaluations[0]))
    if len(settings) == 1:
        return dict.fromkeys(choose_by, settings[0])
    found = [measure_baseline(baseline, setting, evaluations, diversity=False) for setting in settings]

    def value(place: int, by: str) -> float:
        recall = getattr(found[place], FIGURE_OF[by])[0]
        return -1.0 if math.isnan(recall) else recall

    return {by: settings[max(range(len(settings)), key=lambda i, by=by: value(i, by))] for by in choose_by}  # type: ignore[misc]


def baseline_rows(
    choosing: Sequence[Evaluation],
    reporting: Sequence[Evaluation],
    *,
    choose_by: str = "new",
    frequencies: Sequence[str] = ("once",),
    names: Sequence[str] = NAMES,
    say: Callable[[str], None] = lambda what: None,
) -> list[Row]:
    """The baselines; one row each, and a second where the other kind of recall chooses another setting.

    Args:
        choosing: Evaluations of the users that settings are chosen on.
        reporting: Of the users that figures are of, as many and in the same order of cuts.
        choose_by: `new` or `all`: which kind of recall chooses the first row.
        frequencies: How often vectors are made.
        names: Of `NAMES`; what misses its package is left out, see `missing_baselines`.
        say: Told what is measured.
    """
    rows = []
    kinds = (choose_by, *(kind for kind in CHOOSE_BY if kind != choose_by))
    for baseline in BASELINES:
        if baseline.name not in names or baseline.missing():
            continue
        say(baseline.name)
        chosen = choose_settings(baseline, choosing)
        agree = chosen["new"] == chosen["all"]
        for by in kinds[:1] if agree or baseline.once else kinds:
            title = baseline.title(chosen[by], reporting[0]) + ("" if agree or baseline.once else f" (by {by})")
            for frequency in baseline.frequencies or frequencies:
                made = "-" if baseline.name == "popularity" else frequency
                figures = measure_baseline(baseline, chosen[by], reporting, frequency)
                rows.append(Row(baseline.name, title, made, figures, chosen[by], "both" if agree else by))
    return rows


def missing_baselines(names: Sequence[str] = NAMES) -> dict[str, str]:
    """Name -> why it is left out, of those that miss a package."""
    found = {baseline.name: baseline.missing() for baseline in BASELINES if baseline.name in names}
    return {name: why for name, why in found.items() if why}
