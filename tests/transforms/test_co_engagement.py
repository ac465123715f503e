"""Pairs of pins, counted by columns and by plain loops; and what is kept of them."""

from collections import Counter

import numpy as np
import pytest

from transforms.co_engagement import PairCounts, PairRules, add_counts, count_pairs, strongest, user_pins


def a_log(users: int, pins: int, events: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    columns = (random.integers(0, users, events), random.integers(0, pins, events), random.integers(0, 60, events))
    return tuple(column.astype(np.int64) for column in columns)  # type: ignore[return-value]


def plain_pairs(user, pin, at, rules: PairRules) -> tuple[Counter, int]:
    """(pin, other) -> count, one user and one distance after the other."""
    found: Counter = Counter()
    capped = 0
    for one in sorted(set(user.tolist())):
        rows = sorted({(int(t), int(p)) for u, p, t in zip(user, pin, at, strict=True) if u == one})
        found.update((p, p) for _, p in rows)
        pairs = []
        for distance in range(1, rules.window + 1):
            for late in reversed(range(distance, len(rows))):
                (before, a), (after, b) = rows[late - distance], rows[late]
                if a != b and after - before <= rules.window_ms:
                    pairs.append((a, b))
        capped += len(pairs) > rules.most_pairs
        for a, b in pairs[: rules.most_pairs]:
            found.update([(a, b), (b, a)])
    return found, capped


def as_dict(counts: PairCounts) -> dict[tuple[int, int], int]:
    columns = (column.tolist() for column in (counts.pin, counts.other, counts.count))
    return {(a, b): n for a, b, n in zip(*columns, strict=True)}


@pytest.mark.parametrize(
    "rules", [PairRules(3, 20, 10**6), PairRules(1, 0, 10**6), PairRules(50, 60, 10**6), PairRules(6, 30, 9)]
)
def test_pairs_are_those_of_plain_loops(rules):
    log = a_log(8, 12, 300, seed=3)
    counts, capped = count_pairs(*log, rules)
    expected, expected_capped = plain_pairs(*log, rules)
    assert as_dict(counts) == dict(expected) and capped == expected_capped
    assert len(counts) > 30


def test_the_cap_keeps_the_nearest_and_of_those_the_newest():
    user, at = np.zeros(5, np.int64), np.arange(5)
    counts, capped = count_pairs(user, np.array([10, 11, 12, 13, 14]), at, PairRules(4, 100, 5))
    assert capped == 1
    pairs = {pair for pair in as_dict(counts) if pair[0] < pair[1]}
    assert pairs == {(10, 11), (11, 12), (12, 13), (13, 14), (12, 14)}


def test_the_order_of_rows_and_the_cut_of_users_do_not_matter():
    user, pin, at = a_log(20, 15, 400, seed=4)
    rules = PairRules(5, 30, 25)
    whole, _ = count_pairs(user, pin, at, rules)
    shuffled = np.random.default_rng(0).permutation(len(user))
    parts = []
    for bucket in range(3):
        rows = shuffled[user[shuffled] % 3 == bucket]
        parts.append(count_pairs(user[rows], pin[rows], at[rows], rules)[0])
    assert as_dict(add_counts(parts[::-1])) == as_dict(whole)


def test_nothing_gives_nothing():
    none = np.empty(0, np.int64)
    counts, capped = count_pairs(none, none, none, PairRules(3, 1, 5))
    assert len(counts) == 0 and capped == 0
    assert len(add_counts([])) == 0 and len(add_counts([counts])) == 0


def test_the_strongest_are_kept_and_everything_is_counted():
    columns = [
        (1, 1, 9),
        (1, 2, 3),
        (1, 3, 5),
        (1, 4, 3),
        (2, 1, 3),
        (2, 2, 4),
        (3, 1, 5),
        (3, 3, 5),
        (4, 1, 3),
        (4, 4, 1),
    ]
    pin, other, count = (np.array(column) for column in zip(*columns, strict=True))
    found = strongest(PairCounts(pin, other, count), 2)
    assert found.pin.tolist() == [1, 2, 3, 4]
    assert found.engagements.tolist() == [9, 4, 5, 1]
    assert found.pairs.tolist() == [11, 3, 5, 3]
    assert as_dict(found.kept) == {(1, 2): 3, (1, 3): 5, (2, 1): 3, (3, 1): 5, (4, 1): 3}  # of 2 and 4 the lower id


def test_how_often_each_user_engaged_with_each_pin():
    user, pin, count = user_pins(np.array([5, 2, 5, 5, 2]), np.array([7, 7, 3, 7, 1]))
    assert list(zip(user.tolist(), pin.tolist(), count.tolist(), strict=True)) == [
        (2, 1, 1),
        (2, 7, 1),
        (5, 3, 1),
        (5, 7, 2),
    ]


def test_rules_that_count_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        PairRules(0, 1, 1)
