"""Figures of several folds and cuts as one."""

import numpy as np
import pytest

from pinnerformer_model.evaluation import figures_of
from pipelines.study.pooling import as_part, pool


def part(users: list[int], hits: list[float], targets: list[float], coverage: float = 0.1) -> dict:
    sums = {"user_ids": np.array(users)}
    for kind in ("", "_new", "_repeat"):
        sums |= {f"hits{kind}": np.array(hits), f"targets{kind}": np.array(targets)}
    found = as_part(figures_of(sums))
    found["figures"]["coverage"] = coverage
    return found


def test_a_user_at_two_cuts_is_one_user():
    a, b = part([3, 5], [1, 2], [4, 4], 0.1), part([5, 9, 11], [2, 0, 1], [2, 5, 1], 0.6)
    found = pool([a, b])
    assert found["by_user"]["user_ids"] == [3, 5, 9, 11]
    assert found["by_user"]["hits_new"] == [1, 4, 0, 1] and found["by_user"]["targets"] == [4, 6, 5, 1]
    figures = found["figures"]
    assert figures["users"] == 4 and figures["positives"] == 16
    assert figures["recall"] == pytest.approx((6 / 16, (1 / 4 + 4 / 6 + 0 + 1) / 4))
    assert figures["coverage"] == pytest.approx((2 * 0.1 + 3 * 0.6) / 5)  # weighed by users
    assert figures["errors"]["recall"] == pytest.approx(
        figures_of({k: np.array(v) for k, v in found["by_user"].items()}).errors["recall"]
    )


def test_one_part_stays_as_it_is():
    a = part([3, 5], [1, 2], [4, 4])
    assert pool([a]) is a
