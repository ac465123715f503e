"""Ranks and margins, by hand."""

import numpy as np
import pytest

from transforms.margins import Acts, Ranks, describe, draw_ring, rank_acts, rank_by_popularity


def directions(degrees: list[float]) -> np.ndarray:
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_acts_are_grouped_by_user():
    acts = Acts.of(np.array([4, 4, 9]), np.array([30, 20, 10]))
    assert (acts.user_ids.tolist(), acts.offsets.tolist(), acts.owner.tolist()) == ([4, 9], [0, 2, 3], [0, 0, 1])
    left = acts.only(np.array([False, True, False]))
    assert (left.user_ids.tolist(), left.offsets.tolist(), left.pins.tolist()) == ([4], [0, 1], [20])


def test_ranks_by_hand():
    """Two users at 0 and 90 degrees; pins at 0, 20, 45, 70 and 90 degrees, of which 20, 45 and 70 are drawn."""
    users, pins = directions([0, 90]), directions([0, 20, 45, 70, 90])
    acts = Acts.of(np.array([1, 1, 2]), np.array([0, 3, 4]))  # user 1 took 0 and 70 degrees, user 2 took 90
    ranks = rank_acts(users, acts, pins, np.array([1, 2, 3]), np.array([0, 1]))
    # User 1: nearer than 0 degrees is none of the drawn; than 70 are 20 and 45, and 70 itself counts half.
    assert ranks.own[0] == pytest.approx((0 + 2.5) / 2 / 3)
    assert ranks.other[0] == pytest.approx(3 / 3)  # the other's act is farther than all three
    assert ranks.own[1] == 0 and ranks.other[1] == pytest.approx((3 + 0.5) / 2 / 3)
    assert ranks.margin == pytest.approx([1 - 2.5 / 6, 3.5 / 6])


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    users, pins = random.standard_normal((2, 50, 8)).astype(np.float16)
    acts = Acts.of(np.repeat(np.arange(50), 3), random.integers(0, 50, 150))
    partners = draw_ring(50, seed=1)
    whole = rank_acts(users, acts, pins, np.arange(40), partners)
    monkeypatch.setattr("transforms.margins.BLOCK", 7)
    cut = rank_acts(users, acts, pins, np.arange(40), partners)
    assert (cut.own == whole.own).all() and (cut.other == whole.other).all()


def test_partners_are_the_next_ones_in_the_ring():
    """By the definition, one user at a time; of few users the partners are all others."""
    random = np.random.default_rng(5)
    for count in (2, 3, 5, 40):
        users, pins = random.standard_normal((2, count, 4)).astype(np.float16)
        acts, ring = Acts.of(np.arange(count), random.permutation(count)), draw_ring(count, seed=7)
        assert sorted(ring) == list(range(count))
        ranks = rank_acts(users, acts, pins, np.arange(count), ring)
        scores = users.astype(np.float64) @ pins.astype(np.float64).T
        for place, user in enumerate(ring):
            partners = [ring[(place + step) % count] for step in range(1, min(4, count - 1) + 1)]
            assert user not in partners
            nearer = [(scores[user] > scores[user, acts.pins[u]]).sum() + 0.5 for u in (user, *partners)]
            assert ranks.own[user] == pytest.approx(nearer[0] / count)
            assert ranks.other[user] == pytest.approx(np.mean(nearer[1:]) / count)


def test_what_foresees_everybody_alike_has_no_margin():
    random = np.random.default_rng(2)
    pins = random.standard_normal((300, 4))
    acts = Acts.of(np.repeat(np.arange(200), 5), random.integers(0, 300, 1000))
    ranks = rank_acts(np.tile([1.0, 0, 0, 0], (200, 1)), acts, pins, np.arange(300), draw_ring(200, 3))
    found = describe(ranks.margin)
    assert abs(found["margin"]) < 3 * found["error"] < 0.05
    assert found["error"] == pytest.approx(found["spread"] / 200**0.5, abs=1e-6)


def test_popularity_leaves_the_own_act_out():
    """Pin 0 was taken by users 1 and 2, pin 1 by user 1; pins 0, 1, 2 are drawn."""
    acts = Acts.of(np.array([1, 1, 2]), np.array([0, 1, 0]))
    # User 1: others took pin 0 once and pin 1 never. Of the drawn, without the own acts: 1, 0, 0.
    # Pin 0 ties with itself: 0.5. Pin 1 is behind pin 0 and ties with pins 1 and 2: 1 + 1.
    # User 2: others took pin 0 once, and of the drawn 1, 1, 0: it ties with both: 1.
    assert rank_by_popularity(acts, 3, np.arange(3)) == pytest.approx([(0.5 + 2) / 2 / 3, 1 / 3])


def test_six_digits_are_kept():
    assert describe(np.array([1 / 3, 1 / 3])) == {"margin": 0.333333, "spread": 0.0, "error": 0.0}
    assert Ranks(np.array([0.25]), np.array([0.75])).margin.tolist() == [0.5]
