"""Recall of user embeddings, by exact search in blocks: no index, so no error of an index in the metric."""

import numpy as np
import torch

TIE = 1e-6  # scores of float32 unit vectors that are closer than this are equal


def top_k(
    users: np.ndarray,
    corpus: np.ndarray,
    k: int,
    excluded: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    users_at_once: int = 512,
    pins_at_once: int = 1 << 14,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The k pins of a corpus nearest to every user, by exact search.

    Args:
        users: float [U, d].
        corpus: float [P, d]; scores are inner products.
        k: At most P.
        excluded: int64 [X] rows of users and int64 [X] rows of the corpus: pairs that do not count.
        users_at_once, pins_at_once: The size of a block of scores.
        device: `cpu` or `cuda`.

    Returns:
        scores float32 [U, k], the best first, -inf where fewer than k pins are left; rows of the corpus int64 [U, k].
    """
    if not 0 < k <= len(corpus):
        raise ValueError(f"k must be between 1 and the {len(corpus)} pins of the corpus, got {k}")
    scores = np.empty((len(users), k), np.float32)
    rows = np.empty((len(users), k), np.int64)
    pairs = np.stack(excluded) if excluded is not None else np.empty((2, 0), np.int64)
    pairs = pairs[:, np.argsort(pairs[0], kind="stable")]
    for first in range(0, len(users), users_at_once):
        u = torch.from_numpy(np.asarray(users[first : first + users_at_once], np.float32)).to(device)
        mine = pairs[:, slice(*np.searchsorted(pairs[0], [first, first + len(u)]))]
        best = torch.full((len(u), k), -torch.inf, device=device)
        best_rows = torch.zeros((len(u), k), dtype=torch.int64, device=device)
        for start in range(0, len(corpus), pins_at_once):
            pins = torch.from_numpy(np.asarray(corpus[start : start + pins_at_once], np.float32)).to(device)
            block = u @ pins.T  # [users, pins]
            inside = (mine[1] >= start) & (mine[1] < start + len(pins))
            user, pin = (torch.from_numpy(column[inside]).to(device) for column in mine)
            block[user - first, pin - start] = -torch.inf
            found = block.topk(min(k, len(pins)), dim=1)
            best, at = torch.cat([best, found.values], dim=1).topk(k, dim=1)
            best_rows = torch.cat([best_rows, found.indices + start], dim=1).gather(1, at)
        scores[first : first + len(u)] = best.cpu().numpy()
        rows[first : first + len(u)] = best_rows.cpu().numpy()
    return scores, rows


def hits_at_k(
    users: np.ndarray,
    corpus: np.ndarray,
    target_user: np.ndarray,
    target_vectors: np.ndarray,
    excluded: tuple[np.ndarray, np.ndarray] | None = None,
    k: int = 10,
    *,
    device: str = "cpu",
) -> np.ndarray:
    """Whether fewer than k pins of a corpus are as near to the user as a target is (paper, section 7).

    A pin of the same score counts against the target: a model that maps everything to one point hits nothing.

    Args:
        users: float [U, d], unit vectors.
        corpus: float [P, d], unit vectors.
        target_user: int64 [T], row of the user that a target belongs to.
        target_vectors: float [T, d], unit vectors.
        excluded: As for `top_k`. Name here every place of a user's targets in the corpus: the positives of one user
            do not compete, neither with themselves nor with one another.
        k: The paper's 10.

    Returns:
        bool [T].
    """
    kth = top_k(users, corpus, k, excluded, device=device)[0][:, -1]
    hits = np.empty(len(target_user), bool)
    for start in range(0, len(target_user), 1 << 14):
        piece = slice(start, start + (1 << 14))
        score = np.einsum(
            "td,td->t",
            np.asarray(users[target_user[piece]], np.float32),
            np.asarray(target_vectors[piece], np.float32),
        )
        hits[piece] = kth[target_user[piece]] < score - TIE
    return hits


def recall(hits: np.ndarray, target_user: np.ndarray) -> tuple[float, float]:
    """Share of targets hit: over all targets, and the mean over users of each user's share; NaN without targets.

    Args:
        hits: bool [T].
        target_user: int64 [T].
    """
    if not len(hits):
        return float("nan"), float("nan")
    _, user = np.unique(target_user, return_inverse=True)
    return float(hits.mean()), float((np.bincount(user, hits) / np.bincount(user)).mean())
