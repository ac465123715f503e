"""Which engagements are positive: the labels of training and evaluation (paper, section 1)."""

import json
from typing import Any

import numpy as np

from pinnerformer_model.config import ModelError

EVERY = "*"  # in a label rule: every action, every surface


def check_label_rule(rule: Any) -> dict[str, Any]:
    """Returns a label rule if it is one: `{"surfaces": [surface, ...], "actions": {action: seconds, ...}}`.

    `*` among the surfaces is every surface; among the actions, every one that is not named itself.

    Raises:
        ModelError: says what is wrong with it.
    """
    shape = '{"surfaces": ["homefeed"], "actions": {"repin": 0, "closeup": 10}}'
    if not isinstance(rule, dict) or set(rule) != {"surfaces", "actions"}:
        raise ModelError(f"a label rule looks like {shape}, got {json.dumps(rule)[:200]}")
    surfaces, actions = rule["surfaces"], rule["actions"]
    if not isinstance(surfaces, list) or not surfaces or not all(isinstance(word, str) for word in surfaces):
        raise ModelError(f"a label rule's surfaces are a list of strings, at least one, got {surfaces!r}")
    if not isinstance(actions, dict) or not actions:
        raise ModelError(f"a label rule's actions are {{action: seconds}}, at least one, got {actions!r}")
    for action, least in actions.items():
        if not isinstance(least, (int, float)) or isinstance(least, bool) or not 0 <= least < float("inf"):
            raise ModelError(f"a label rule's action {action!r} needs a number of seconds, at least 0, got {least!r}")
    return rule


def least_seconds(rule: dict[str, Any], action: str) -> float:
    """How long an action must last to count, in seconds; 0: it need not; NaN: it never counts."""
    return rule["actions"].get(action, rule["actions"].get(EVERY, np.nan))


def counts_on(rule: dict[str, Any], surface: str) -> bool:
    """Whether actions on a surface count."""
    return surface in rule["surfaces"] or EVERY in rule["surfaces"]


def find_positives(
    rule: dict[str, Any],
    action_vocabulary: tuple[str, ...],
    surface_vocabulary: tuple[str, ...],
    action: np.ndarray,
    surface: np.ndarray,
    duration_s: np.ndarray,
) -> np.ndarray:
    """Which engagements a label rule counts: one of its surfaces and one of its actions, lasting LONGER than the least.

    A least of 0 asks for no duration: a save has none. Any other asks for one that was measured.

    Args:
        action, surface: int32 [E], codes of the vocabularies.
        duration_s: float32 [E]; NaN = not measured.

    Returns:
        bool [E].
    """
    # Looked up once per word of the vocabulary, then taken by code.
    least = np.array([least_seconds(rule, word) for word in action_vocabulary], np.float64)[action]
    place = np.array([counts_on(rule, word) for word in surface_vocabulary], bool)[surface]
    return place & ((least == 0) | (duration_s > least))  # false where either is NaN
