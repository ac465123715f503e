"""Gates on vectors: norms, numbers that are none, vectors that are all alike."""

import numpy as np
import pytest

from stores.neighbours import Neighbours
from tests.transforms.gates.releases import closed, manifest_of, staged_of
from transforms.embed_users import norm_range
from transforms.gates import GATES, vectors
from transforms.gates.sample import Sample
from transforms.step_reports import StepReport

NOBODY = Neighbours(np.empty((0, 10), np.int64), np.empty((0, 10), np.float32))


@pytest.mark.parametrize("norm", [0.99, 1.01])
def test_norms(norm):
    reports = {"embed_users": StepReport(lowest={"norm": norm}, highest={"norm": 1.0})}
    computed = GATES[GATES.index(vectors.users_not_finite) : GATES.index(vectors.pins_constant) + 1]
    assert closed(computed, staged_of(manifest_of(20, 30, 30), reports=reports)) == ["users_norm"]


def test_what_norm_range_counts():
    found = np.array([[0.6, 0.8], [np.nan, 1], [0.7071, 0.7071], [0, 0]], np.float16)
    lowest, highest, not_finite, constant = norm_range(found)
    assert (lowest["norm"], not_finite, constant) == (0.0, 1, 2)
    assert abs(highest["norm"] - 1) < 1e-3


def test_vectors_that_are_all_alike(monkeypatch):
    same = np.tile([0.6, 0.8], (50, 1))
    apart = np.random.default_rng(0).standard_normal((50, 2))
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)

    def passed(users: np.ndarray, pins: np.ndarray) -> list[bool | None]:
        drawn = Sample(0, len(users), users.sum(0), len(pins), pins.sum(0), 64, NOBODY, NOBODY)
        monkeypatch.setattr(vectors, "sample_of", lambda staged: drawn)
        staged = staged_of(manifest_of(len(users), len(pins), len(pins)))
        gates = [gate(staged) for gate in (vectors.users_alike, vectors.pins_alike)]
        return [gate and gate.passed for gate in gates]

    assert passed(same, apart) == [False, True]
    assert passed(apart, same) == [True, False]
    # The demo's first model: the mean of its users' vectors was 0.915 long.
    leaning = apart + 1.8 * np.array([1.0, 0.0])
    leaning /= np.linalg.norm(leaning, axis=1, keepdims=True)
    assert 0.9 < np.linalg.norm(leaning.mean(axis=0)) < 0.95
    assert passed(leaning, leaning) == [False, True]  # pins may have much in common: vectors that are not centred
    assert passed(same[:1], same[:1]) == [None, None]  # of one vector nothing can be said
