"""Item-item cosine, EASE and ALS against their formulas over whole matrices."""

import numpy as np
import pytest
import scipy.sparse as sparse

from pinnerformer_model import co_engagement
from pinnerformer_model.co_engagement import UNKNOWN, als, ease, item_cosine, most_engaged, weigh

PINS = 40


def some(users: int, seed: int) -> sparse.csr_array:
    random = np.random.default_rng(seed)
    taste = random.gamma(0.3, 1, (users, PINS)) * np.linspace(2, 0.1, PINS)
    counts = random.poisson(taste).astype(np.float32)
    counts[:, -1] = 0  # nobody has the last one
    return sparse.csr_array(counts)


@pytest.mark.parametrize("own", [False, True])
def test_item_cosine_is_the_matrix_of_all_pairs(own, monkeypatch):
    monkeypatch.setattr(co_engagement, "USERS_AT_ONCE", 120)  # two queries at a time
    training, history = weigh(some(60, 0), "log"), weigh(some(9, 1), "log")
    x, norm = training.toarray(), np.linalg.norm(training.toarray(), axis=0)
    cosine = x.T @ x / np.maximum(np.outer(norm, norm), 1e-12)
    if not own:
        np.fill_diagonal(cosine, 0)
    rows = np.array([4, 0, 8])
    np.testing.assert_allclose(
        item_cosine(training, own)(history)(rows).numpy(), history.toarray()[rows] @ cosine, atol=1e-4
    )


@pytest.mark.parametrize("users", [15, 120])  # fewer than pins: by Woodbury
def test_ease_is_the_closed_form(users):
    training, history = weigh(some(users, 2), "once"), weigh(some(7, 3), "once")
    items = most_engaged(training, 25)
    assert len(items) == 25 and PINS - 1 not in items
    x = training.toarray()[:, items].astype(np.float64)
    p = np.linalg.inv(x.T @ x + 10 * np.eye(25))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    found = ease(training, 10.0, items)(history)(np.arange(7)).numpy()
    np.testing.assert_allclose(found[:, items], history.toarray()[:, items] @ b, atol=1e-4)
    assert (np.delete(found, items, axis=1) == np.float32(UNKNOWN)).all()


def test_als_folds_a_user_in_by_the_users_own_history():
    pytest.importorskip("implicit")
    training, history = weigh(some(200, 4), "log"), weigh(some(5, 5), "log")
    scores = als(training, 8, 0.1, 5.0)(history)(np.arange(5)).numpy()
    again = als(training, 8, 0.1, 5.0)(history)(np.array([3]))
    np.testing.assert_allclose(again[0].numpy(), scores[3], atol=1e-4)  # deterministic, and a user at a time
    # What was engaged with scores higher than what was not, of equally popular pins above all.
    has = history.toarray() > 0
    assert scores[has].mean() > scores[:, :-1][~has[:, :-1]].mean() + 0.1
