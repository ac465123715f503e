"""The loss against the formula written in plain loops."""

import math

import numpy as np
import pytest
import torch

from pinnerformer_model.count_min import CountMinSketch, ExactCounts
from pinnerformer_model.loss import ABSENT, LogQ, Temperature, sampled_softmax
from pinnerformer_model.negatives import Negatives, make_pool, pair_weights
from pinnerformer_model.objectives import Draw, Objective, Sampler
from tests.pinnerformer_model.test_timelines import make_timelines

CORPUS = 50


def unit(random, *shape) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(random.standard_normal(shape)).float(), dim=-1)


def drawn(name: str = "all_action", windows: int = 2) -> tuple[Draw, np.ndarray]:
    t = make_timelines([60] * 6, pins=CORPUS, seed=3)
    sampler = Sampler(
        t, Objective(name, labels=5, positions=4), max_sequence_length=16, users_per_step=5, windows_per_user=windows
    )
    return sampler.draw(0), t.pin_row


def plain_loss(draw, pin_row, queries, pins, tau, pool, log_q, own=None) -> float:
    """Section 4, one pair at a time; `pool` is the list of negatives, repeats and all."""
    user_of = [int(draw.rows[w]) for w in draw.query_window]
    labels = {}
    for q, e in zip(draw.pair_query, draw.pair_event, strict=True):
        labels.setdefault(user_of[q], []).append(int(pin_row[e]))
    users = {}
    for q, e in zip(draw.pair_query, draw.pair_event, strict=True):
        user, p = user_of[q], int(pin_row[e])

        def score(pin: int, q=q) -> float:
            return float(queries[q] @ pins[pin]) / tau

        top = math.exp(score(p) - (log_q(p) if own is None else own(user, p, labels)))
        rest = sum(math.exp(score(n) - log_q(n)) for n in pool if n not in labels[user])
        users.setdefault(user, []).append(-math.log(top / (top + rest)))
    return sum(sum(pairs) / len(pairs) for pairs in users.values()) / len(users)


def fast_loss(draw, pool, queries, pins, tau, log_q) -> torch.Tensor:
    place = torch.from_numpy(pool.pins)
    copies = torch.from_numpy(pool.copies).float()
    bias = torch.where(copies > 0, copies.clamp(min=1).log(), ABSENT)
    pair_pin = torch.from_numpy(pool.pair_pin)
    return sampled_softmax(
        queries,
        pins[place],
        torch.tensor(tau),
        pair_query=torch.from_numpy(draw.pair_query),
        pair_pin=pair_pin,
        pair_weight=torch.from_numpy(pair_weights(draw)).float(),
        pair_bias=-log_q(place)[pair_pin],
        pool_bias=bias - log_q(place),
        masked_query=torch.from_numpy(pool.masked_query),
        masked_pin=torch.from_numpy(pool.masked_pin),
    )


@pytest.mark.parametrize("mode", ["random", "in_batch", "mixed"])
@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("name", ["all_action", "dense_all_action"])
def test_the_loss_is_the_formula(mode, corrected, name):
    draw, pin_row = drawn(name)
    random = np.random.default_rng(1)
    pool = make_pool(draw, pin_row, Negatives(mode, random=12), CORPUS, np.random.default_rng(5))
    queries, pins = unit(random, len(draw.query_window), 8), unit(random, CORPUS, 8)

    labels = [int(pin_row[e]) for e in draw.pair_event]
    uniform = np.random.default_rng(5).choice(CORPUS, 12, replace=False, shuffle=False).tolist()
    assert len(set(uniform)) == 12
    everything = {"random": uniform, "in_batch": labels, "mixed": labels + uniform}[mode]
    assert len(set(labels)) < len(labels)  # a popular pin stands in the pool several times

    counts = ExactCounts(CORPUS)
    counts.add(torch.tensor([1, 2, 3, 3, *labels]))
    seen = [1, 2, 3, 3, *labels]

    def plain_q(pin: int) -> float:
        if not corrected:
            return 0.0
        n_in, n_random = (0 if mode == "random" else len(labels)), (0 if mode == "in_batch" else 12)
        return math.log(n_in * seen.count(pin) / len(seen) + n_random / CORPUS)

    log_q = LogQ(counts, pool.in_batch_size, pool.random_size, CORPUS) if corrected else torch.zeros_like
    fast = fast_loss(draw, pool, queries, pins, 0.07, lambda place: log_q(place).float())
    expected = plain_loss(draw, pin_row, queries.double(), pins.double(), 0.07, everything, plain_q)
    assert float(fast) == pytest.approx(expected, rel=1e-4) and expected > 0.1


def test_gradients_are_those_of_the_formula():
    draw, pin_row = drawn()
    pool = make_pool(draw, pin_row, Negatives("mixed", random=12), CORPUS, np.random.default_rng(5))
    random = np.random.default_rng(2)
    raw, pins = unit(random, len(draw.query_window), 8).double(), unit(random, CORPUS, 8).double().requires_grad_()

    def loss(rows: torch.Tensor) -> torch.Tensor:
        place = torch.from_numpy(pool.pins)
        dense = torch.zeros(len(raw), len(place)).double()
        for q, p in zip(pool.masked_query, pool.masked_pin, strict=True):
            dense[q, p] = -torch.inf
        scores = rows @ pins[place].T / 0.1 + torch.from_numpy(pool.copies).double().log() + dense
        out = 0.0
        for weight, q, p in zip(pair_weights(draw), draw.pair_query, pool.pair_pin, strict=True):
            top = rows[q] @ pins[place[p]] / 0.1
            out = out + weight * (torch.logsumexp(torch.cat([scores[q], top[None]]), 0) - top)
        return out

    expected = torch.autograd.grad(loss(raw.requires_grad_()), [raw, pins])
    q, p = raw.detach().float().requires_grad_(), pins.detach().float().requires_grad_()
    got = torch.autograd.grad(fast_loss(draw, pool, q, p, 0.1, lambda place: torch.zeros(len(place))), [q, p])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-6)
        assert float(b.abs().max()) > 1e-3


def test_own_labels_are_no_negatives_whoever_else_has_them():
    draw, pin_row = drawn()
    pool = make_pool(draw, pin_row, Negatives("mixed", random=CORPUS), CORPUS, np.random.default_rng(0))
    masked = set(zip(pool.masked_query.tolist(), pool.pins[pool.masked_pin].tolist(), strict=True))
    assert len(masked) == len(pool.masked_query)
    labels = {}
    for q, e in zip(draw.pair_query, draw.pair_event, strict=True):
        labels.setdefault(int(draw.rows[draw.query_window[q]]), set()).add(int(pin_row[e]))
    expected = {(q, pin) for q, w in enumerate(draw.query_window) for pin in labels[int(draw.rows[w])]}
    assert masked == expected


def test_every_user_weighs_the_same():
    t = make_timelines([4, 60, 9, 30], seed=3)
    draw = Sampler(t, Objective("all_action", labels=20), max_sequence_length=16, users_per_step=4).draw(0)
    weight = pair_weights(draw)
    user = draw.rows[draw.query_window[draw.pair_query]]
    sums = {int(u): weight[user == u].sum() for u in np.unique(user)}
    assert len(set(np.bincount(user)[np.unique(user)])) > 1  # they have different numbers of pairs
    np.testing.assert_allclose(list(sums.values()), 1 / len(sums))


def test_the_in_batch_limit_keeps_a_share_of_the_labels():
    draw, pin_row = drawn()
    pool = make_pool(draw, pin_row, Negatives("in_batch", in_batch_limit=7), CORPUS, np.random.default_rng(0))
    assert pool.copies.sum() == pool.in_batch_size == 7 < len(draw.pair_event)
    assert (pool.copies == 0).any()  # labels beyond it are scored as labels, not as negatives


def test_a_pool_without_negatives_costs_nothing_and_gives_no_nan():
    draw = Draw(*(np.zeros(1, np.int64) for _ in range(6)))
    pool = make_pool(draw, np.zeros(1, np.int32), Negatives("in_batch"), 1, np.random.default_rng(0))
    q = unit(np.random.default_rng(0), 1, 8).requires_grad_()
    loss = fast_loss(draw, pool, q, unit(np.random.default_rng(1), 1, 8), 0.05, lambda place: torch.zeros(len(place)))
    loss.backward()
    assert float(loss.detach()) == 0 and torch.isfinite(q.grad).all()


def test_the_temperature_never_falls_below_a_hundredth():
    temperature = Temperature()
    assert float(temperature().detach()) == pytest.approx(0.05)
    with torch.no_grad():
        temperature.log.fill_(-20)
    assert float(temperature().detach()) == pytest.approx(0.01)


def test_a_wide_sketch_gives_the_loss_of_exact_counts():
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, CORPUS, 500))
    sketch, exact = CountMinSketch(1 << 16), ExactCounts(CORPUS)
    sketch.add(ids)
    exact.add(ids)
    pins = torch.arange(CORPUS)
    torch.testing.assert_close(LogQ(sketch, 100, 20, CORPUS)(pins), LogQ(exact, 100, 20, CORPUS)(pins))


def test_q_given_the_user_counts_the_users_own_draws():
    counts = ExactCounts(4)
    counts.add(torch.tensor([0, 0, 1, 2]))
    got = LogQ(counts, 8, 2, 4)(torch.tensor([0, 1, 3]), torch.tensor([0.5, 0.0, 1.0]))
    torch.testing.assert_close(got, torch.tensor([8 * 0.5 + 0.5 + 0.5, 8 * 0.25 + 0.5, 0.5 + 1.0]).log())


@pytest.mark.parametrize("start, wanted", [(0.0101, 0.05), (0.5, 0.05)])
def test_the_temperature_comes_back_from_its_floor_and_down_from_above(start, wanted):
    """At 0.0101 it has lost nearly all that it may lose, and the loss wants it to rise."""
    temperature = Temperature(start)
    assert float(temperature().detach()) == pytest.approx(start, rel=1e-5)
    optimiser = torch.optim.Adam(temperature.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        (temperature() / wanted).log().square().backward()
        assert temperature.log.grad != 0
        optimiser.step()
    assert float(temperature().detach()) == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("initial", [0.01, 0.0, -1.0, float("nan"), 1e9])
def test_a_temperature_at_the_floor_or_below_is_no_start(initial):
    with pytest.raises(ValueError, match="the temperature must start above 0.01"):
        Temperature(initial)
