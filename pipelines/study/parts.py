"""The users and windows of a study: who trains, who chooses, who is reported."""

import dataclasses
import datetime
import functools

import numpy as np

from pinnerformer_model.days import DAY_MS, day_of, midnight_ms
from pinnerformer_model.timelines import Timelines, merge_users
from pipelines.study.study_request import Source
from stores.errors import InputError, UsageError
from stores.ids import uniform_of
from stores.pin_topics import read_topics
from transforms.evaluation import Evaluation, cluster_topics, default_cut, make_evaluation
from transforms.training_data import TrainingData, load_training_data

CHOICE_SHARE = 0.2  # of a fold's training side
_FOLD_SALT, _CHOICE_SALT = 7_018_001, 7_018_002  # no salt of `training-data` that anybody would type


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """One split of the users; the three parts have nobody in common.

    Attributes:
        number: Counted from 0.
        training: Whom models learn from; whole timelines.
        choice: A cut each: of the users that choices are made on.
        report: A cut each: of the users that figures are of.
    """

    number: int
    training: Timelines
    choice: tuple[Evaluation, ...]
    report: tuple[Evaluation, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class StudyData:
    """Everything that the cells of a study are made of.

    Attributes:
        source: Where it is from.
        train: The training split, with the vectors and what `timelines.json` says.
        held_out: The evaluation split's users.
        cuts_ms: First moments of the windows, rising.
        topic, topics: int64 [P], and what they are.
    """

    source: Source
    train: TrainingData
    held_out: Timelines
    cuts_ms: tuple[int, ...]
    topic: np.ndarray
    topics: str

    @functools.cached_property
    def _everybody(self) -> Timelines:
        return merge_users(self.train.timelines, self.held_out)

    @functools.cached_property
    def _of_everybody(self) -> tuple[Evaluation, ...]:
        """An evaluation a cut, whose baselines learn from all users: what one fold learned is not learned again."""
        everybody, vectors, days = self._everybody, self.train.vectors, self.source.days
        made = [make_evaluation(everybody, everybody, vectors, cut, days, self.topic) for cut in self.cuts_ms]
        return tuple(dataclasses.replace(e, shared=made[0].shared) for e in made)

    def _asked(self, users: Timelines) -> tuple[Evaluation, ...]:
        return tuple(dataclasses.replace(e, timelines=users) for e in self._of_everybody)

    def fold(self, number: int) -> Fold:
        """The split of a fold; the one asked for last is kept.

        Raises:
            InputError: its users have nothing to foresee.
        """
        if number not in self._folds:
            self._folds.clear()  # every fold copies all timelines
            self._folds[number] = self._make(number)
        return self._folds[number]

    @functools.cached_property
    def _folds(self) -> dict[int, Fold]:
        return {}

    def _make(self, number: int) -> Fold:
        if self.source.folds == 1:
            asked = self._asked(self.held_out)
            choice, report = (tuple(e.half(name) for e in asked) for name in ("choice", "report"))
            fold = Fold(number, self.train.timelines, choice, report)
        else:
            everybody = self._everybody
            mine = (uniform_of(everybody.user_ids, _FOLD_SALT) * self.source.folds).astype(int) == number
            chooses = ~mine & (uniform_of(everybody.user_ids, _CHOICE_SALT) < CHOICE_SHARE)
            training = everybody.users(~mine & ~chooses)
            choice, report = (self._asked(everybody.users(part)) for part in (chooses, mine))
            fold = Fold(number, training, choice, report)
        for name, asked in (("choice", fold.choice), ("report", fold.report)):
            if not sum(len(e.moments("once").targets) for e in asked):
                raise InputError(self._nothing(number, name, asked))
        return fold

    def _nothing(self, number: int, name: str, asked: tuple[Evaluation, ...]) -> str:
        users = asked[0].timelines
        first, last = self.cuts_ms[0], self.cuts_ms[-1] + self.source.days * DAY_MS
        inside = (users.timestamp_ms >= first) & (users.timestamp_ms < last)
        return (
            f"--timelines {self.source.timelines}: fold {number + 1} of {self.source.folds}: nothing to foresee from "
            f"{day_of(first)} on for the users of its {name} part: {len(users):,} users with {int(inside.sum()):,} "
            f"events in the windows, {int((inside & users.positive).sum()):,} of them positive; look at --cuts, at the "
            "label rule, or take fewer --folds"
        )


def find_cuts(source: Source, start: datetime.date, end: datetime.date) -> tuple[int, ...]:
    """First moments of the windows, rising.

    Args:
        start, end: First and last day of the timelines.

    Raises:
        UsageError: a window is not inside the data, or two of them overlap.
    """
    if isinstance(source.cuts, int):
        last = default_cut(midnight_ms(end) + DAY_MS, source.days)
        cuts = [last - turn * source.days * DAY_MS for turn in reversed(range(source.cuts))]
    else:
        cuts = sorted(midnight_ms(day) for day in source.cuts)
    for cut in cuts:
        if not start < day_of(cut) <= end - datetime.timedelta(source.days - 1):
            raise UsageError(
                f"--cuts {day_of(cut)}, --days {source.days}: the timelines hold {start} to {end}; the window [cut, "
                "cut + days) must lie inside, with something before it"
            )
    if any(b - a < source.days * DAY_MS for a, b in zip(cuts, cuts[1:], strict=False)):
        raise UsageError(f"--cuts: windows of {source.days} days overlap, and would count a positive twice")
    return tuple(cuts)


def check_vectors(description: dict, folder: str, first_cut_ms: int) -> str | None:
    """The day that the item vectors know nothing from; None: not known.

    Raises:
        InputError: they know what is to be foreseen.
    """
    until = description.get("vectors_until")
    if until is None:
        return None
    if datetime.date.fromisoformat(until) > day_of(first_cut_ms):
        raise InputError(
            f"--timelines {folder}: the item vectors know what happened until {until}, the earliest window begins on "
            f"{day_of(first_cut_ms)}; make vectors with `--until {day_of(first_cut_ms)}`, or cut later"
        )
    return str(until)


def load_study_data(source: Source) -> StudyData:
    """Loads timelines and prepares the folds.

    Raises:
        InputError: no evaluation users and no folds, or vectors that know a window.
        UsageError: a window is not inside the data.
    """
    train = load_training_data(source.timelines, "train")
    held_out = load_training_data(source.timelines, "evaluation").timelines
    description = train.description
    cuts = find_cuts(source, *(datetime.date.fromisoformat(description[name]) for name in ("start", "end")))
    check_vectors(description, source.timelines, cuts[0])
    if source.folds == 1 and not len(held_out):
        raise InputError(
            f"--timelines {source.timelines}: no evaluation users; take --folds 3, or make the timelines again with "
            "--evaluation-share above 0"
        )
    topic = read_topics(source.pins, train.pin_ids, source.columns) if source.pins else None
    topics = "the vector set's column `topic`"
    if topic is None:
        topic = cluster_topics(np.asarray(train.vectors, np.float32))
        topics = "350 k-means clusters of the vectors"
    return StudyData(source, train, held_out, cuts, topic, topics)
