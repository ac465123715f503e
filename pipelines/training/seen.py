"""Whether a model knows what it is asked: users it was trained on, and what lies in a window."""

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.days import day_of
from stores.errors import InputError
from stores.ids import uniform_of
from transforms.evaluation import Evaluation


def check_unseen(
    folder: str,
    config: ModelConfig,
    halves: Sequence[Evaluation],
    half: str,
    allow: bool,
) -> str:
    """What a model saw of the users asked and of the windows, as far as it is known.

    Args:
        folder: Of the model, for messages.
        halves: What is measured, one a cut.
        half: Which users they are: `choice`, `report` or `both`.
        allow: Say it only.

    Returns:
        One sentence.

    Raises:
        InputError: it saw users or a window, and `allow` is not set; says how many, and what to do.
    """
    first = day_of(min(evaluation.cut_ms for evaluation in halves))
    wrong = [late] if (late := late_vectors(config, first)) else []
    if not config.until:
        told = "not known: its config.json does not say what it was trained on, or whether it was"
    else:
        wrong += seen_by_training(config, halves, first)
        told = f"trained on what was before {config.until}, on none of these users; {who_chose(config, half)}"
    if not wrong:
        return told
    if not allow:
        raise InputError(
            f"--model {folder}: {'; '.join(wrong)}; give a later --cut, timelines of the split and item vectors that "
            "it was trained with, or --allow-seen to measure it nevertheless"
        )
    return f"{'; '.join(wrong)} (--allow-seen): its figures flatter"


def check_vectors(folder: str, description: dict[str, Any], evaluations: Sequence[Evaluation], allow: bool) -> str:
    """What the item vectors of the timelines know of the windows: baselines are made of them too.

    Args:
        folder: Of the timelines, for messages.

    Returns:
        One sentence.

    Raises:
        InputError: they know what lies in a window, and `allow` is not set.
    """
    until = description.get("vectors_until")
    if until is None:
        return "what the item vectors know is not known: their version.json says no `until`"
    first = day_of(min(evaluation.cut_ms for evaluation in evaluations))
    if datetime.date.fromisoformat(until) <= first:
        return f"the item vectors know what was before {until}"
    wrong = f"the item vectors know what was before {until}, and the first window begins on {first}"
    if not allow:
        raise InputError(
            f"--timelines {folder}: {wrong}; give a later --cut, item vectors of before it, or --allow-seen to measure "
            "nevertheless"
        )
    return f"{wrong} (--allow-seen): what is made of them flatters"


def seen_by_training(config: ModelConfig, halves: Sequence[Evaluation], first: datetime.date) -> list[str]:
    """What training saw that it is asked for."""
    wrong = []
    if datetime.date.fromisoformat(config.until) > first:
        wrong.append(f"it was trained on what was before {config.until}, and the first window begins on {first}")
    asked = np.unique(np.concatenate([e.timelines.user_ids[e.moments("once").user] for e in halves]))
    if config.split_salt is None or not config.evaluation_share:
        wrong.append(f"which of the {len(asked):,} users asked it was trained on is not known")
        return wrong
    trained_on = int((uniform_of(asked, config.split_salt) >= config.evaluation_share).sum())
    if trained_on:
        wrong.append(
            f"it was trained on {trained_on:,} of the {len(asked):,} users asked (its split: salt {config.split_salt}, "
            f"evaluation share {config.evaluation_share:g})"
        )
    return wrong


def late_vectors(config: ModelConfig, first: datetime.date) -> str | None:
    """Whether the item vectors of a training know what lies in a window, where they said what they know."""
    latest = config.provenance.get("vectors_until")
    if latest is None or datetime.date.fromisoformat(latest) <= first:
        return None
    return f"its item vectors know what was before {latest}, and the first window begins on {first}"


def who_chose(config: ModelConfig, half: str) -> str:
    """Whether users asked chose the checkpoint."""
    choosers = config.provenance.get("choosers")
    if choosers == "nobody":
        return "no users chose its checkpoint"
    if choosers == "choice":
        return "the half `choice` chose its checkpoint" + ("" if half == "report" else ", and is asked here")
    return "whether some of them chose its checkpoint is not known"
