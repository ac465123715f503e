"""PinnerSage's clusters and its oracle, against loops over events."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pinnerformer_model.evaluation import find_hits, measure, moments_of
from pinnerformer_model.pinnersage import cluster_user, cluster_users, oracle_moments
from pinnerformer_model.ranking import vector_scorer
from tests.pinnerformer_model.test_evaluation import CUT, DAYS, PINS, make_timelines


def test_a_cluster_is_its_medoid():
    random = np.random.default_rng(2)
    centres = np.eye(3, 16)
    vectors = np.concatenate(
        [c + 0.05 * random.standard_normal((n, 16)) for c, n in zip(centres, (5, 9, 2), strict=True)]
    )
    age = random.random(16) * 80
    medoid, importance = cluster_user(vectors, age, 1.0)
    assert len(medoid) == 3 and (np.diff(importance) <= 0).all()
    groups = [np.arange(0, 5), np.arange(5, 14), np.arange(14, 16)]
    for m, weight in zip(medoid, importance, strict=True):
        (group,) = [g for g in groups if m in g]
        distance = cdist(vectors[group], vectors[group], "sqeuclidean").sum(axis=1)
        assert distance[list(group).index(m)] == pytest.approx(distance.min())
        assert weight == pytest.approx(np.exp(-0.01 * age[group]).sum())
    assert len(cluster_user(vectors, age, 100.0)[0]) == 1
    assert len(cluster_user(vectors[:1], age[:1], 1.0)[0]) == 1


def test_the_oracle_hands_each_positive_to_the_nearest_medoid():
    timelines = make_timelines(seed=8)
    random = np.random.default_rng(5)
    vectors = random.standard_normal((PINS, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    moments = moments_of(timelines, CUT, DAYS)
    clusters = cluster_users(timelines, vectors, moments, 1.0).first(3)
    oracle = oracle_moments(clusters, vectors, moments)
    assert len(oracle) == len(clusters.pin_row) and 1 < np.diff(clusters.offsets).max() <= 3
    assert len(oracle.targets) == len(moments.targets)
    handed = set(zip(oracle.user[oracle.targets.query].tolist(), oracle.targets.row.tolist(), strict=True))
    assert handed == set(zip(moments.target_user.tolist(), moments.targets.row.tolist(), strict=True))
    for query, pin in zip(oracle.targets.query, oracle.targets.row, strict=True):
        mine = np.flatnonzero(oracle.user == oracle.user[query])
        near = vectors[clusters.pin_row[mine]] @ vectors[pin]
        assert near[list(mine).index(query)] == pytest.approx(near.max())
    new = measure(find_hits(vector_scorer(vectors[clusters.pin_row], vectors), oracle, np.ones(PINS, bool)), oracle)
    assert new.positives_new == int(moments.new.sum())
