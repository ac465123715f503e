"""What a study's models are compared with; each baseline's settings are chosen as the models' are."""

import os
from typing import Any

import numpy as np

from pinnerformer_model.evaluation import Figures
from pinnerformer_model.ranking import matrix_scorer
from pinnerformer_model.user_errors import ratio
from pipelines.study.parts import Fold, StudyData
from pipelines.study.pooling import as_part, pool
from pipelines.study.running import is_of, read_result, write_result
from pipelines.synthetic.oracle import oracle_scores, read_world
from pipelines.telemetry.lines import say
from transforms.baselines import BASELINES, choose_settings, measure_baseline, missing_baselines
from transforms.evaluation import Evaluation

NEED_AN_ORACLE = ("pinnersage_5", "pinnersage_20", "oracle")
LEAST_SHARE = 0.5  # of the best baseline's level: a study whose two errors are more tells nothing


def measure_fold(data: StudyData, fold: Fold, new: bool, oracle: str | None) -> dict[str, Any]:
    """Every baseline's figures of one fold, pooled over its cuts; its setting is that of the users who choose."""
    parts, titles = {}, {}
    by = "new" if new else "all"
    for baseline in BASELINES:
        if baseline.missing():
            continue
        setting = choose_settings(baseline, fold.choice, (by,))[by]
        titles[baseline.name] = baseline.title(setting, fold.report[0])
        parts[baseline.name] = as_part(measure_baseline(baseline, setting, fold.report))
    if oracle:
        titles["oracle"] = "who knows the generator (ceiling)"
        parts["oracle"] = pool([as_part(_oracle(data, evaluation, oracle)) for evaluation in fold.report])
    return {
        "titles": titles,
        "training_users": len(fold.training),
        "training_events": len(fold.training.before(data.cuts_ms[0]).timestamp_ms),
        "parts": parts,
    }


def _oracle(data: StudyData, evaluation: Evaluation, world: str) -> Figures:
    """What a world's generator would know."""
    users = evaluation.timelines.user_ids[evaluation.moments("once").user]
    scores = oracle_scores(read_world(world), users, data.train.pin_ids, evaluation.cut_ms, data.source.days)
    return evaluation.score(matrix_scorer(scores))


def measure_baselines(data: StudyData, out: str, new: bool, oracle: str | None) -> dict[str, Any]:
    """Writes `baselines.json`, of all folds; a fold that was measured before is not measured again.

    Raises:
        StoreError: there are those of another study.
    """
    source = data.source
    identity = {
        "timelines": data.train.digest,
        "new": new,
        "cut_ms": list(data.cuts_ms),
        "days": source.days,
        "folds": source.folds,
        "learned from": "everybody",  # figures of before were of baselines that knew the training users alone
    }
    path = os.path.join(out, "baselines.json")
    if is_of(path, identity):
        return read_result(path)
    folds = []
    for number in range(source.folds):
        mine = os.path.join(out, "baselines", f"fold{number}.json")
        if not is_of(mine, {**identity, "fold": number}):
            say(f"the baselines, fold {number + 1} of {source.folds} ...")
            os.makedirs(os.path.dirname(mine), exist_ok=True)
            found = measure_fold(data, data.fold(number), new, oracle)
            write_result(mine, {"identity": {**identity, "fold": number}, **found})
        folds.append(read_result(mine))
    parts = {name: pool([fold["parts"][name] for fold in folds]) for name in folds[0]["parts"]}
    whole = {
        "identity": identity,
        "titles": {name: [fold["titles"][name] for fold in folds] for name in folds[0]["titles"]},
        "missing": missing_baselines(),
        "topics": data.topics,
        "training_users": [fold["training_users"] for fold in folds],
        "training_events": [fold["training_events"] for fold in folds],
        "corpus": len(data.train.pin_ids),
        "vectors_until": data.train.description.get("vectors_until"),
        "figures": {name: part["figures"] for name, part in parts.items()},
        "by_user": {name: part["by_user"] for name, part in parts.items()},
    }
    write_result(path, whole)
    return whole


def what_can_be_told(baselines: dict[str, Any], figure: str) -> tuple[str, bool]:
    """The error that the users of a study allow, before any model is trained; and whether it tells anything.

    Args:
        figure: `recall` or `recall_new`.

    Returns:
        A sentence; False where two standard errors of the best baseline but for what needs an oracle are more than
        half of its level.
    """
    kind = "_new" if figure == "recall_new" else ""
    levels = {
        name: ratio(*_sums(sums, kind)) for name, sums in baselines["by_user"].items() if name not in NEED_AN_ORACLE
    }
    best = max(levels, key=lambda name: levels[name][0])
    value, error = levels[best]
    one = baselines["figures"][best]
    positives = one["positives_new" if kind else "positives"]
    what = "new items" if kind else "all items"
    text = (
        f"{one['users']:,} users with {positives:,} positives are reported: the best simple row, "
        f"{best.replace('_', ' ')}, gets {value:.4f} ± {error:.4f} of {what}, an error over users"
    )
    return text, bool(2 * error <= LEAST_SHARE * value)


def _sums(by_user: dict[str, Any], kind: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array(by_user[f"hits{kind}"], float), np.array(by_user[f"targets{kind}"], float)
