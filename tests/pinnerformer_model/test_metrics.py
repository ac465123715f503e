"""Exact search and recall against plain loops."""

import numpy as np
import pytest

from pinnerformer_model.metrics import hits_at_k, recall, top_k


def unit(random, *shape):
    x = random.standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("users_at_once, pins_at_once", [(512, 1 << 14), (3, 7), (1, 1)])
def test_top_k_is_the_sorted_scores_without_the_excluded(users_at_once, pins_at_once):
    random = np.random.default_rng(0)
    users, corpus = unit(random, 10, 8), unit(random, 60, 8)
    excluded = (random.integers(0, 10, 80), random.integers(0, 60, 80))  # with repeats, in no order
    scores, rows = top_k(users, corpus, 5, excluded, users_at_once=users_at_once, pins_at_once=pins_at_once)
    for u in range(10):
        left = [p for p in range(60) if (u, p) not in set(zip(*(x.tolist() for x in excluded), strict=True))]
        expected = sorted(left, key=lambda p: -float(users[u] @ corpus[p]))[:5]
        assert rows[u].tolist() == expected
        np.testing.assert_allclose(scores[u], corpus[expected] @ users[u], atol=1e-6)


def test_a_target_is_hit_if_fewer_than_k_others_are_nearer():
    random = np.random.default_rng(1)
    users, corpus = unit(random, 6, 8), unit(random, 40, 8)
    target_user = np.repeat(np.arange(6), 4)
    target_row = np.concatenate([random.permutation(40)[:4] for _ in range(6)])
    got = hits_at_k(users, corpus, target_user, corpus[target_row], (target_user, target_row), k=3)
    expected = []
    for u, t in zip(target_user, target_row, strict=True):
        others = set(range(40)) - set(target_row[target_user == u].tolist())
        expected.append(sum(corpus[p] @ users[u] > corpus[t] @ users[u] for p in others) < 3)
    assert got.tolist() == expected and 0 < sum(expected) < len(expected)
    per_positive, per_user = recall(got, target_user)
    assert per_positive == pytest.approx(np.mean(expected))
    assert per_user == pytest.approx(np.mean([np.mean(got[target_user == u]) for u in range(6)]))


def test_a_collapsed_model_hits_nothing():
    users = np.tile(unit(np.random.default_rng(2), 1, 16), (5, 1))
    corpus = np.tile(users[:1], (100, 1))
    assert not hits_at_k(users, corpus, np.arange(5), corpus[:5], (np.arange(5), np.arange(5))).any()


def test_users_weigh_the_same_in_the_second_figure_only():
    hits = np.array([True, False, False, False])
    assert recall(hits, np.array([7, 9, 9, 9])) == (0.25, 0.5)
    assert np.isnan(recall(np.empty(0, bool), np.empty(0, np.int64))).all()


def test_more_neighbours_than_pins_are_refused():
    with pytest.raises(ValueError, match="between 1 and the 4 pins"):
        top_k(np.ones((1, 2)), np.ones((4, 2)), 5)
