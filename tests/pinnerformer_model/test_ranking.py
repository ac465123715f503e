"""Ranking and its figures against plain loops over pins, users and lists."""

import itertools
import math

import numpy as np
import pytest

from pinnerformer_model import ranking
from pinnerformer_model.ranking import Pairs, constant_scorer, coverage, hits_at_k, interest_entropy, recall, top_k

K = 10


def plain_hit(scores: np.ndarray, target: int, out: set[int], corpus: np.ndarray, k: int) -> float:
    """One target: count who is nearer, and who is as near, one pin at a time."""
    nearer = equal = 0
    for pin, score in enumerate(scores):
        if corpus[pin] and pin not in out and pin != target:
            nearer += score > scores[target]
            equal += score == scores[target]
    places = [nearer + place < k for place in range(equal + 1)]  # any place among its equals is as likely
    return sum(places) / len(places)


@pytest.fixture(params=["distinct", "tied"])
def case(request, monkeypatch):
    random = np.random.default_rng(3)
    monkeypatch.setattr(ranking, "_SCORES_AT_ONCE", 7 * 300)  # several blocks
    scores = random.standard_normal((40, 300)).astype(np.float32)
    if request.param == "tied":
        scores = np.round(scores, 1)
    targets = Pairs.sorted(random.integers(0, 40, 400), random.integers(0, 300, 400))
    excluded = Pairs.sorted(random.integers(0, 40, 4000), random.integers(0, 300, 4000))
    return scores, random.random(300) < 0.7, targets, excluded


def test_hits_equal_counting_every_pin(case):
    scores, corpus, targets, excluded = case

    def score(rows):
        return ranking.torch.from_numpy(scores[rows])

    found = hits_at_k(score, 40, corpus, targets, excluded, K)
    expected = []
    for query, pin in zip(targets.query, targets.row, strict=True):
        out = set(excluded.row[excluded.query == query]) | set(targets.row[targets.query == query])
        expected.append(plain_hit(scores[query], pin, out, corpus, K))
    np.testing.assert_allclose(found, expected)
    assert 0.02 < found.mean() < 0.9


def test_top_k_is_the_sorted_corpus(case):
    scores, corpus, _, _ = case
    found = top_k(lambda rows: ranking.torch.from_numpy(scores[rows]), 40, corpus, K)
    for query in range(40):
        best = sorted(-scores[query, pin] for pin in np.flatnonzero(corpus))[:K]
        assert sorted(-scores[query, found[query]]) == best
        assert corpus[found[query]].all()


def test_one_vector_for_every_pin_is_worth_chance():
    corpus = np.ones(1000, bool)
    none = Pairs.sorted(np.empty(0, np.int64), np.empty(0, np.int64))
    targets = Pairs.sorted(np.arange(20), np.arange(20) * 7)
    hits = hits_at_k(constant_scorer(np.ones(1000)), 20, corpus, targets, none, K)
    np.testing.assert_allclose(hits, K / 1000)


def test_a_corpus_smaller_than_k_hits_everything():
    targets = Pairs.sorted(np.array([0, 0]), np.array([1, 2]))
    none = Pairs.sorted(np.empty(0, np.int64), np.empty(0, np.int64))
    hits = hits_at_k(constant_scorer(np.arange(5.0)), 1, np.ones(5, bool), targets, none, K)
    np.testing.assert_array_equal(hits, [1, 1])


def test_recall_by_positive_and_by_user():
    per_positive, per_user = recall(np.array([1.0, 0.0, 0.0, 1.0]), np.array([5, 5, 5, 9]))
    assert per_positive == 0.5 and per_user == pytest.approx((1 / 3 + 1) / 2)
    assert all(math.isnan(value) for value in recall(np.empty(0), np.empty(0, np.int64)))


def test_entropy_and_coverage_by_counting():
    random = np.random.default_rng(1)
    topics = random.integers(0, 6, (30, 50))
    total = 0.0
    for row in topics.tolist():
        for topic in set(row):
            share = row.count(topic) / 50
            total -= share * math.log(share)
    assert interest_entropy(topics) == pytest.approx(total / 30)
    assert interest_entropy(topics * (2**60) + 17) == interest_entropy(topics)  # ids of topics may be any number
    top = (random.random((30, 10)) ** 2 * 80).astype(np.int64)
    counts = sorted((int((top == pin).sum()) for pin in range(80)), reverse=True)
    needed = next(m for m in range(1, 81) if sum(counts[:m]) >= 0.9 * 300)
    assert coverage(top, 80) == needed / 80


def test_round_robin_takes_turns():
    lists = np.array([[1, 2, 3, 4], [2, 1, 5, 6], [7, 8, 9, 0], [4, 3, 2, 1]])
    lengths = np.array([3, 1])
    found = ranking.round_robin(lists, lengths, 4)
    for user, mine in enumerate(([0, 1, 2], [3])):
        seen: list[int] = []
        for turn, place in itertools.product(range(4), mine):
            if lists[place, turn] not in seen:
                seen.append(int(lists[place, turn]))
        assert found[user].tolist() == seen[:4]


def test_popular_corpus_holds_the_popular():
    random = np.random.default_rng(0)
    weight = np.r_[np.full(50, 100.0), np.full(950, 0.1), 0.0]
    chosen = ranking.choose_corpus(1001, 500, random, weight)
    assert chosen[:50].all() and chosen[50:].mean() < 0.2 and not chosen[-1]
    assert ranking.choose_corpus(1001, 500, random).sum() == 500
    assert ranking.choose_corpus(10, 500, random).all()
