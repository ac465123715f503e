"""Parts of pins' vectors, against their formulas on dense matrices."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from stores import extras
from stores.errors import UsageError
from transforms import item_vectors
from transforms.co_engagement import LATELY_UNIT, PairRules, add_counts, count_pairs, strongest
from transforms.item_vector_rules import METHODS, NORMS
from transforms.item_vectors import (
    ALS_REGULARISATION,
    COMPANY_SHARE,
    LATELY_SHARE,
    MIX_SHARE,
    RESTART,
    WALK_STEPS,
    Parts,
    VectorSettings,
    assemble,
    company_of,
    content_projection,
    factorise,
    fold_in,
    keep_largest,
    lately_of,
    positive_information,
    taste_of,
    unit,
    walk_visits,
)


def settings(method="mix", norm="popularity", width=32, content=8, least=1) -> VectorSettings:
    return VectorSettings(method, norm, width, content, least, seed=0)


def some_counts(pins: int = 12, seed: int = 1) -> np.ndarray:
    counts = np.random.default_rng(seed).poisson(1.0, (pins, pins))
    counts = np.triu(counts, 1)
    return (counts + counts.T).astype(np.float32)


def test_positive_information_is_its_formula():
    counts = some_counts()
    total = counts.sum(1) + 2  # more than what was kept
    context = total**0.75
    expected = np.zeros_like(counts)
    for a, b in zip(*np.nonzero(counts), strict=True):
        expected[a, b] = max(0, np.log(counts[a, b] * context.sum() / (total[a] * context[b])))
    found = positive_information(sparse.csr_matrix(counts), total).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (found > 0).sum() > 20


def test_visits_are_those_of_walks_that_may_end_at_every_step():
    counts = some_counts()
    step = counts / counts.sum(1, keepdims=True)
    expected = sum((1 - RESTART) ** n * np.linalg.matrix_power(step, n + 1) for n in range(WALK_STEPS))
    np.fill_diagonal(expected, 0)
    found = walk_visits(sparse.csr_matrix(counts), most=100).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_largest_of_a_row_are_kept():
    matrix = sparse.csr_matrix(np.array([[1.0, 3, 3, 0], [0, 0, 0, 0], [5, 0, 2, 9]]))
    assert keep_largest(matrix, 2).toarray().tolist() == [[0, 3, 3, 0], [0, 0, 0, 0], [5, 0, 0, 9]]


def test_factors_multiply_to_the_matrix():
    random = np.random.default_rng(2)
    half = random.standard_normal((40, 4)).astype(np.float32)
    matrix = half @ half.T
    found = factorise(sparse.csr_matrix(matrix), 10, seed=0)
    assert found.shape == (40, 10)
    np.testing.assert_allclose(found @ found.T, matrix, atol=1e-3)


def test_pins_of_the_same_company_are_near():
    """Pins 0-3 and 4-7 are engaged with in sessions of their own kind."""
    random = np.random.default_rng(0)
    at = np.repeat(np.arange(200), 3)
    pin = np.concatenate([random.choice(4, 3, replace=False) + 4 * (number % 2) for number in range(200)])
    counts, _ = count_pairs(np.zeros(600, np.int64), pin, at, PairRules(3, 0, 10**6))
    for method in ("ppmi-svd", "walk-svd"):
        found = company_of(strongest(counts, 10), settings(method, content=0), 10)
        near = found @ found.T
        assert near[:4, :4].min() > 0.25 > 0.01 > np.abs(near[:4, 4:]).max()


def test_pins_engaged_with_too_seldom_have_no_company():
    counts, _ = count_pairs(np.zeros(7, np.int64), np.array([1, 2, 1, 2, 1, 2, 3]), np.arange(7), PairRules(2, 9, 99))
    found = company_of(strongest(counts, 10), settings(least=2), 10)
    assert found.any(axis=1).tolist() == [True, True, False]


def test_taste_solves_the_least_squares_of_als():
    """At the end of ALS a pin's factor is the ridge regression of its column on the users' factors, and so back."""
    random = np.random.default_rng(3)
    user, pin = np.nonzero(random.random((60, 15)) < 0.3)
    count = random.integers(1, 5, len(user))
    pins = np.arange(15)
    factors = taste_of(user, pin, count, pins, 6, seed=0).astype(np.float64)
    assert factors.shape == (15, 6)
    assert np.linalg.norm(factors, axis=1).max() == pytest.approx(1, rel=1e-5)
    again = taste_of(user[::-1], pin[::-1], count[::-1], pins, 6, seed=0)
    np.testing.assert_array_equal(factors.astype(np.float32), again)
    popular = np.bincount(pin, count)
    assert np.corrcoef(popular, np.linalg.norm(factors, axis=1))[0, 1] > 0.5  # popularity sits in the norm
    assert ALS_REGULARISATION > 0


def some_parts(pins: int, chosen: VectorSettings) -> Parts:
    random = np.random.default_rng(4)
    layout = chosen.layout()
    company, content, taste = (
        unit(random.standard_normal((pins, layout[name].stop - layout[name].start)))
        for name in ("company", "content", "taste")
    )
    length = np.linspace(0.1, 1, pins, dtype=np.float32)
    lately = np.linspace(1, 0, pins, dtype=np.float32)
    return Parts(company, content, taste * length[:, None], length, lately)


def test_what_is_engaged_with_lately_is_a_part_of_its_own():
    chosen = VectorSettings("mix", "popularity", 64, 8, 1, 0)
    lately = dataclasses.replace(chosen, lately_days=3.0)
    parts = some_parts(20, lately)
    found = assemble(parts, lately)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    circle = np.stack([parts.lately, np.sqrt(1 - parts.lately**2)], axis=1)
    np.testing.assert_allclose(found[:, -2:], LATELY_SHARE**0.5 * circle, rtol=1e-5, atol=1e-7)
    assert chosen.layout()["lately"] == slice(64, 64) and lately.layout()["lately"] == slice(62, 64)


def test_lately_counts_down_by_half():
    day = 86_400_000
    at = 10 * day - np.array([1, 3 * day, 6 * day, 1, 1], np.int64)
    rules = PairRules(5, day, 100, half_life_ms=3 * day)
    counts, _ = count_pairs(np.array([1, 1, 1, 2, 3]), np.array([7, 7, 7, 8, 8]), at, rules, 10 * day)
    halves = add_counts(
        [
            count_pairs(np.array([u]), np.array([p]), at[i : i + 1], rules, 10 * day)[0]
            for i, (u, p) in enumerate([(1, 7), (1, 7), (1, 7), (2, 8), (3, 8)])
        ]
    )
    for found in (strongest(counts, 5), strongest(halves, 5)):
        assert found.pin.tolist() == [7, 8] and found.engagements.tolist() == [3, 2] and not len(found.kept)
        np.testing.assert_allclose(found.lately / LATELY_UNIT, [1.75, 2], atol=1e-5)
    share = lately_of(strongest(counts, 5).lately, 2 * LATELY_UNIT)
    np.testing.assert_allclose(share, np.log1p([1.75, 2]) / np.log(3), atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("content", [0, 8])
def test_every_vector_has_length_one_and_the_width_asked(method, norm, content):
    chosen = settings(method, norm, content=content)
    found = assemble(some_parts(9, chosen), chosen)
    assert found.shape == (9, 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    layout = chosen.layout()
    assert sum(part.stop - part.start for part in layout.values()) == 32
    assert layout["popularity"].stop - layout["popularity"].start == (norm == "popularity")


def test_inner_products_of_a_mix_keep_those_of_taste():
    chosen = settings()
    parts = some_parts(9, chosen)
    found, layout = assemble(parts, chosen), chosen.layout()
    expected = (1 - MIX_SHARE) * parts.taste @ parts.taste.T
    taste = found[:, layout["taste"]]
    np.testing.assert_allclose(taste @ taste.T, expected, atol=1e-6)
    meaning = found[:, layout["company"]] @ found[:, layout["company"]].T
    np.testing.assert_allclose(meaning, MIX_SHARE * COMPANY_SHARE * parts.company @ parts.company.T, atol=1e-6)


def test_a_pin_has_the_parts_that_there_are_and_none_without():
    chosen = settings()
    parts = some_parts(4, chosen)
    parts.company[1:], parts.taste[2:], parts.content[3:] = 0, 0, 0
    found = assemble(parts, chosen)
    assert found.any(axis=1).tolist() == [True, True, True, False]
    assert found[2, chosen.layout()["content"]].any()
    assert found[2, -1] > found[0, -1]  # nobody engaged with it: all that is popular is missing


def test_content_keeps_its_inner_products_and_is_projected_where_it_is_wide():
    random = np.random.default_rng(5)
    narrow = random.standard_normal((30, 5)).astype(np.float32)
    kept = narrow @ content_projection(narrow, 8)
    np.testing.assert_allclose(kept @ kept.T, narrow @ narrow.T, rtol=1e-5)
    wide = narrow @ random.standard_normal((5, 40)).astype(np.float32)
    projection = content_projection(wide, 8)
    assert projection.shape == (40, 8)
    np.testing.assert_allclose((wide @ projection) @ (wide @ projection).T, wide @ wide.T, rtol=1e-3, atol=1e-2)


def test_a_pin_folded_in_lies_among_its_neighbours():
    chosen = settings(content=0)
    parts = some_parts(5, chosen)
    vectors = assemble(parts, chosen)
    weights = sparse.csr_matrix(np.array([[2.0, 0, 0, 0, 0], [0, 1.0, 1.0, 0, 0], [0, 0, 0, 0, 0]], np.float32))
    often = np.array([10, 10, 10, 10, 10])
    company, taste = fold_in(vectors, weights, often, np.array([10, 2, 5]), chosen)
    np.testing.assert_allclose(company[0], parts.company[0], atol=1e-5)
    np.testing.assert_allclose(company[1], unit(parts.company[1:2] + parts.company[2:3])[0], atol=1e-5)
    np.testing.assert_allclose(taste[0], parts.taste[0], atol=1e-5)
    shorter = np.log1p(2) / np.log1p(10)
    np.testing.assert_allclose(taste[1], shorter * (parts.taste[1] + parts.taste[2]) / 2, atol=1e-5)
    assert not company[2].any() and not taste[2].any()


@pytest.mark.parametrize(("method", "missing", "extra"), [("mix", "implicit", "-als"), ("ppmi-svd", "scipy", "")])
def test_a_missing_library_is_named_with_its_extra(method, missing, extra, monkeypatch):
    def without(name: str):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(extras.importlib, "import_module", without)
    with pytest.raises(UsageError, match=rf"needs {missing}: pip install 'pinnerformer\[item-vectors{extra}\]'"):
        item_vectors.check_libraries(method)
