"""Baselines that learn from who engaged with what: item-item cosine, EASE, and ALS with users folded in.

All of them learn from users' counts, and are asked for users by these users' own histories, learned from or not.
None of them holds queries x pins: scores are made a block of queries at a time.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from pinnerformer_model.ranking import Scorer

if TYPE_CHECKING:  # an extra: whoever calls brings it, and --help does without
    import scipy.sparse as sparse

EASE_ITEMS = 15_000  # its matrix is items x items: 900 MB, and a minute to invert
USERS_AT_ONCE = 1 << 24  # numbers, 64 MB: likenesses of queries and training users
UNKNOWN = -1e30  # the score of a pin that a baseline knows nothing of; finite, so that such pins tie

Fold = Callable[["sparse.csr_array"], Scorer]  # histories of the users asked [Q, P] -> how they score every pin


def weigh(counts: "sparse.csr_array", weight: str) -> "sparse.csr_array":
    """Counts as a baseline takes them: `once` (1 however often), or `log` (log(1 + count))."""
    out = counts.copy()
    out.data = np.log1p(out.data) if weight == "log" else np.ones_like(out.data)
    return out


def item_cosine(training: "sparse.csr_array", own: bool) -> Fold:
    """Item-item cosine: a pin scores the sum of its cosines with the pins of the history, as columns of `training`.

    The cosines are never written down. For N with columns of unit length, the scores are (history N^T) N: as exact, and
    as many numbers as the training users have engagements, where the matrix of all pairs may be a thousand times that.

    Args:
        training: [U, P], engagements of training users, weighed.
        own: Whether a pin of the history counts towards its own score, its cosine with itself being 1.
    """
    from scipy import sparse

    norm = np.sqrt(np.asarray(training.power(2).sum(axis=0)).ravel())
    normed = (training @ sparse.diags_array(1.0 / np.maximum(norm, 1e-12))).tocsr().astype(np.float32)
    across = normed.T.tocsr()  # [P, U]

    def fold(history: "sparse.csr_array") -> Scorer:
        known = history @ sparse.diags_array((norm > 0).astype(np.float32))

        def score(rows: np.ndarray) -> torch.Tensor:
            scores = np.empty((len(rows), history.shape[1]), np.float32)
            # A block of queries is sized by pins; there may be many more training users than that.
            size = max(1, USERS_AT_ONCE // max(1, normed.shape[0]))
            for start in range(0, len(rows), size):
                piece = rows[start : start + size]
                users = (history[piece] @ across).toarray()  # [B, U]
                scores[start : start + size] = (across @ users.T).T
            return torch.from_numpy(scores if own else scores - known[rows].toarray())

        return score

    return fold


def most_engaged(training: "sparse.csr_array", most: int) -> np.ndarray:
    """The pins that most users engaged with, at most so many: int64, rising; those nobody has are left out."""
    users = np.bincount(training.indices, minlength=training.shape[1])
    chosen = np.argsort(-users, kind="stable")[:most]
    return np.sort(chosen[users[chosen] > 0])


def ease(training: "sparse.csr_array", penalty: float, items: np.ndarray) -> Fold:
    """EASE (Steck, arXiv 1905.03375): the linear map of histories to scores of least squared error whose diagonal is 0.

    B = I - P diag(1 / diag P), P = (X^T X + penalty I)^-1. Where there are fewer users than items the inverse is that
    of users x users, by Woodbury: P = (I - X^T (X X^T + penalty I)^-1 X) / penalty.

    Args:
        training: [U, P], weighed.
        penalty: lambda, > 0.
        items: int64 [N], the pins it is of; every other pin scores `UNKNOWN`.
    """
    pins = training.shape[1]
    x = training[:, items].tocsr().astype(np.float32)
    fewer_users = x.shape[0] < x.shape[1]
    gram = (x @ x.T if fewer_users else x.T @ x).toarray()
    # float32 where float64 would take gigabytes; the penalty keeps the matrix well conditioned.
    square = torch.from_numpy(gram.astype(np.float64 if len(gram) <= 4096 else np.float32))
    square.diagonal().add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(square)).float().numpy()
    if fewer_users:
        quadratic = np.empty(x.shape[1], np.float32)
        for start in range(0, x.shape[1], 1024):
            piece = x[:, start : start + 1024].toarray()
            quadratic[start : start + 1024] = (piece * (inverse @ piece)).sum(axis=0)
        diagonal = (1 - quadratic) / penalty
    else:
        diagonal = inverse.diagonal().copy()
    diagonal = np.maximum(diagonal, 1e-12)

    def fold(history: "sparse.csr_array") -> Scorer:
        mine = history[:, items].tocsr().astype(np.float32)

        def score(rows: np.ndarray) -> torch.Tensor:
            w = mine[rows]
            if fewer_users:
                through = (w @ x.T).toarray() @ inverse  # [B, U]
                solved = (w.toarray() - (x.T @ through.T).T) / penalty
            else:
                solved = w @ inverse
            out = np.full((len(rows), pins), UNKNOWN, np.float32)
            out[:, items] = w.toarray() - solved / diagonal
            return torch.from_numpy(out)

        return score

    return fold


def missing_als() -> str | None:
    """What has to be installed for `als`; None where it is there."""
    if importlib.util.find_spec("implicit") is None:
        return "it needs the package `implicit`: pip install 'pinnerformer[als]'"
    return None


def als(training: "sparse.csr_array", factors: int, regularization: float, alpha: float, seed: int = 0) -> Fold:
    """ALS for implicit feedback (Hu, Koren, Volinsky 2008), by `implicit`; users asked are folded in.

    A user's factors are solved for from the user's own history, the items' fixed.

    Args:
        training: [U, P], weighed.
        factors: Width.
        regularization: lambda.
        alpha: Confidence of an engagement is 1 + alpha x weight.
    """
    from scipy import sparse

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how many threads BLAS has: one result, whatever their number
        from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(
            factors=factors,
            regularization=regularization,
            alpha=alpha,
            iterations=15,
            random_state=seed,
            num_threads=torch.get_num_threads(),
        )
    model.fit(sparse.csr_matrix(training), show_progress=False)
    items = torch.from_numpy(np.array(model.item_factors, np.float32)).T

    def fold(history: "sparse.csr_array") -> Scorer:
        users = np.asarray(model.recalculate_user(np.arange(history.shape[0]), sparse.csr_matrix(history)), np.float32)
        return lambda rows: torch.from_numpy(users[rows]) @ items

    return fold
