"""Figures of several folds and cuts as one, pooled by user."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pinnerformer_model.evaluation import DIVERSITY, Figures, figures_of
from pinnerformer_model.user_errors import pool as pool_sums


def as_part(figures: Figures) -> dict[str, Any]:
    """What is kept of one contestant: `figures`, and `by_user` with the ids and sums of the users."""
    sums = {name: np.round(values, 4).tolist() for name, values in figures.by_user.items()}
    return {"figures": figures.as_json(), "by_user": sums}


def pool(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One part of several: sums are added by user, so that a user at two cuts is one user.

    Recall is that of the sums; what no sums hold (entropy, coverage, ...) is the mean over the parts, weighed by users.
    """
    if len(parts) == 1:
        return parts[0]
    found = as_part(figures_of(pool_sums([part["by_user"] for part in parts])))
    every = [part["figures"] for part in parts]
    for name in DIVERSITY:
        values = [one[name] for one in every]
        if None not in values:
            found["figures"][name] = float(np.average(values, weights=[one["users"] for one in every]))
    return found
