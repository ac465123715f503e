"""Vectors of pins from what they are engaged with together, how often, and what they are about.

A vector has up to three parts. `company` says what a pin goes with: the neighbours that `transforms.co_engagement`
kept, weighed and factorised. `taste` says who engages with it, and how often: the item factors of ALS. `content` is
what somebody else knows of it, projected. A pin has the parts that there is something to make of, and length 1.
"""

import dataclasses
from typing import Any

import numpy as np

from pinnerformer_model.vectors import unit
from stores.extras import load
from transforms.co_engagement import LATELY_UNIT, Neighbours

COMPANY_SHARE = 0.64  # of company beside content, in squared length: 0.8 and 0.6 as lengths
MIX_SHARE = 0.2  # of both beside taste, in squared length; measured in docs/item-vectors.md
LATELY_SHARE = 0.1  # of how often lately, in squared length; measured there too
CONTEXT_POWER = 0.75
RESTART = 0.5  # a random walk's chance to end, each step
WALK_STEPS = 3
ALS_REGULARISATION = 10.0
ALS_ITERATIONS = 15
LEAST_LENGTH = 0.1  # of a direction whose length is its popularity: a pin nobody knows still has one


@dataclasses.dataclass(frozen=True)
class VectorSettings:
    """How vectors are made; two sets made with the same settings of the same logs are the same.

    Attributes:
        method: One of `METHODS`.
        norm: `popularity`: what is engaged with often is the longer, and one coordinate more makes all of length 1, so
            that inner products know of it; `unit`: they do not.
        width: Of a vector.
        content_width: Of its part that is content; 0: none is given.
        least_engagements: Of a pin that has company: fewer say little.
        seed: Of what is drawn at random.
        lately_days: Half-life of what says how often a pin is engaged with lately; 0: nothing does.
    """

    method: str
    norm: str
    width: int
    content_width: int
    least_engagements: int
    seed: int
    lately_days: float = 0.0

    @property
    def has_taste(self) -> bool:
        return self.method in ("als", "mix")

    def layout(self) -> dict[str, slice]:
        """Where `company`, `content`, `taste`, `popularity` and `lately` stand; one that there is none of is empty."""
        last, lately = int(self.norm == "popularity"), 2 * bool(self.lately_days)
        content = self.content_width
        left = self.width - content - last - lately
        taste = {"als": left, "mix": left // 3}.get(self.method, 0)
        widths = {"company": left - taste, "content": content, "taste": taste, "popularity": last, "lately": lately}
        ends = np.cumsum(list(widths.values())).tolist()
        return {name: slice(end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of P pins' vectors, each row of length 1, or 0 where there is nothing to make it of.

    Attributes:
        company, content: float32 [P, w].
        taste: float32 [P, w]; rows of at most length 1, which is how often a pin is engaged with.
        length: float32 [P] in [0, 1]: what stands for that where there is no taste.
        lately: float32 [P] in [0, 1]: how often a pin is engaged with lately.
    """

    company: np.ndarray
    content: np.ndarray
    taste: np.ndarray
    length: np.ndarray
    lately: np.ndarray


def one_thread() -> Any:
    """A context in which numpy's products and decompositions use one thread: how many there are rounds them otherwise.

    What takes the time here, products of sparse matrices and the library of ALS, has one, or threads of its own.
    """
    return load("threadpoolctl", "item-vectors", "item-vectors").threadpool_limits(1, "blas")


def check_libraries(method: str) -> None:
    """Raises UsageError where a library that a method needs is missing; before anything is read."""
    for module in ("scipy.sparse", "threadpoolctl"):
        load(module, "item-vectors", "item-vectors")
    if method in ("als", "mix"):
        load("implicit.als", "item-vectors-als", f"--method {method}")


def count_matrix(neighbours: Neighbours, least: int) -> tuple[np.ndarray, Any]:
    """The kept counts among pins that are engaged with often enough.

    Args:
        least: Engagements of a pin.

    Returns:
        Rows in `neighbours.pin` int64 [U]; a symmetric sparse matrix [U, U] of counts: a pair is in it that was kept on
        either side.
    """
    sparse = load("scipy.sparse", "item-vectors", "item-vectors")
    used = np.flatnonzero((neighbours.engagements >= least) & (neighbours.pairs > 0))
    place = np.full(len(neighbours.pin), -1)
    place[used] = np.arange(len(used))
    kept = neighbours.kept
    row, column = (place[np.searchsorted(neighbours.pin, ids)] for ids in (kept.pin, kept.other))
    both = (row >= 0) & (column >= 0)
    shape = (len(used), len(used))
    counts = sparse.csr_matrix((kept.count[both].astype(np.float32), (row[both], column[both])), shape)
    return used, counts.maximum(counts.T).tocsr()


def positive_information(counts: Any, total: np.ndarray) -> Any:
    """log of P(a, b) / (P(a) P(b)) where positive: Levy and Goldberg (2014); context counts to the power 0.75.

    The power is that of Levy, Goldberg and Dagan (2015): rare pairs weigh less.

    Args:
        counts: Sparse [U, U], without a diagonal.
        total: float [U], the sum of a pin's counts with all others, kept or not.
    """
    sparse = load("scipy.sparse", "item-vectors", "item-vectors")
    pairs = counts.tocoo()
    context = np.maximum(total, 1).astype(np.float64) ** CONTEXT_POWER
    information = np.log(pairs.data * context.sum() / (np.maximum(total, 1)[pairs.row] * context[pairs.col]))
    matrix = sparse.csr_matrix((np.maximum(information, 0).astype(np.float32), (pairs.row, pairs.col)), counts.shape)
    matrix.eliminate_zeros()
    return matrix


def walk_visits(counts: Any, most: int) -> Any:
    """How often random walks from a pin, of at most three steps, stop at each other pin: sparse [U, U].

    PinSage (Ying et al., 2018, section 3.1) takes the most visited pins of short random walks for a pin's neighbours,
    and samples them; here the probabilities are computed, and only the largest are kept after every step.

    Args:
        counts: Sparse [U, U].
        most: Visits kept of a pin.
    """
    sparse = load("scipy.sparse", "item-vectors", "item-vectors")
    share = np.asarray(counts.sum(axis=1)).ravel()
    step = sparse.diags(1 / np.maximum(share, 1)).astype(np.float32) @ counts
    visits = step
    for _ in range(WALK_STEPS - 1):
        pieces = []
        for start in range(0, counts.shape[0], 2048):  # a product of two sparse matrices is nearly dense
            rows = step[start : start + 2048]
            further = rows + (1 - RESTART) * (rows @ visits)
            pieces.append(keep_largest(further, most))
        visits = sparse.vstack(pieces).tocsr()
    visits.setdiag(0)
    visits.eliminate_zeros()
    return visits


def keep_largest(matrix: Any, most: int) -> Any:
    """The `most` largest numbers of every row of a sparse matrix; of equal ones those of the first columns."""
    sparse = load("scipy.sparse", "item-vectors", "item-vectors")
    matrix = matrix.tocsr()
    matrix.sort_indices()
    kept = np.ones(matrix.nnz, bool)
    # Row by row: a product's rows are nearly full, and to sort all their cells would take minutes.
    for row in np.flatnonzero(np.diff(matrix.indptr) > most):
        cells = slice(matrix.indptr[row], matrix.indptr[row + 1])
        data = matrix.data[cells]
        least = np.partition(data, len(data) - most)[len(data) - most]
        chosen = data > least
        chosen[np.flatnonzero(data == least)[: most - int(chosen.sum())]] = True
        kept[cells] = chosen
    ends = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return sparse.csr_matrix((matrix.data[kept], matrix.indices[kept], ends), matrix.shape)


def factorise(matrix: Any, width: int, seed: int) -> np.ndarray:
    """U sqrt(S) of the truncated SVD of a sparse matrix, float32 [rows, width], the strongest directions first.

    The SVD is the randomised one of Halko, Martinsson and Tropp (arXiv:0909.4061), algorithm 4.4. A small matrix has
    fewer directions: the others are zeros.
    """
    random = np.random.default_rng(seed)
    rank = min(width + 16, matrix.shape[0])
    basis = matrix @ random.standard_normal((matrix.shape[1], rank), np.float32)
    for _ in range(3):
        basis, _ = np.linalg.qr(matrix @ (matrix.T @ np.linalg.qr(basis)[0]))
    left, values, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    found = (basis @ left)[:, :width] * np.sqrt(values[:width])
    out = np.zeros((matrix.shape[0], width), np.float32)
    out[:, : found.shape[1]] = found
    return out


def company_of(neighbours: Neighbours, settings: VectorSettings, most: int) -> np.ndarray:
    """What every pin goes with: float32 [P, w], length 1, zeros for pins without neighbours or too few engagements."""
    width = settings.layout()["company"]
    out = np.zeros((len(neighbours.pin), width.stop - width.start), np.float32)
    used, counts = count_matrix(neighbours, settings.least_engagements)
    if not counts.nnz or not out.shape[1]:
        return out
    total = neighbours.pairs[used].astype(np.float64)
    if settings.method == "walk-svd":
        # Walks begin at a pin as often as it has company: what they visit is then a count again, alike both ways.
        visits = walk_visits(counts, most).multiply(total[:, None])
        counts = ((visits + visits.T) / 2).tocsr()
        total = np.asarray(counts.sum(axis=1)).ravel()
    out[used] = unit(factorise(positive_information(counts, total), out.shape[1], settings.seed))
    return out


def taste_of(user: np.ndarray, pin: np.ndarray, count: np.ndarray, pins: np.ndarray, width: int, seed: int) -> Any:
    """Item factors of ALS (Hu, Koren and Volinsky, 2008) on log(1 + count), by the library `implicit`.

    Args:
        user, pin, count: int64 [N], no (user, pin) twice, in any order.
        pins: int64 [P], sorted; has every one of `pin`.

    Returns:
        float32 [P, width]: divided by the largest length, so that the longest is 1.
    """
    sparse = load("scipy.sparse", "item-vectors-als", "--method als")
    als = load("implicit.als", "item-vectors-als", "--method als")
    users, row = np.unique(user, return_inverse=True)
    cells = (np.log1p(count).astype(np.float32), (row, np.searchsorted(pins, pin)))
    matrix = sparse.csr_matrix(cells, (len(users), len(pins)))
    with one_thread():
        model = als.AlternatingLeastSquares(
            factors=width, regularization=ALS_REGULARISATION, alpha=1.0, iterations=ALS_ITERATIONS, random_state=seed
        )
        model.fit(matrix, show_progress=False)
    factors = np.asarray(model.item_factors, np.float32)
    return factors / max(float(np.linalg.norm(factors, axis=1).max(initial=0)), 1e-9)


def lately_of(lately: np.ndarray, most: int) -> np.ndarray:
    """float32 [P] in [0, 1]: the logarithm of how often pins are engaged with lately, beside that of the most engaged.

    Args:
        lately: int64 [P], in 2^-20.
        most: Of the most engaged, likewise.
    """
    share = np.log1p(lately / LATELY_UNIT) / max(np.log1p(most / LATELY_UNIT), 1e-9)
    return np.minimum(share, 1).astype(np.float32)


def popularity_of(engagements: np.ndarray, most: int) -> np.ndarray:
    """float32 [P] in [0.1, 1]: the logarithm of how often pins are engaged with, beside that of the most engaged."""
    share = np.log1p(engagements) / np.log1p(max(1, most))
    return (LEAST_LENGTH + (1 - LEAST_LENGTH) * np.minimum(share, 1)).astype(np.float32)


def content_projection(vectors: np.ndarray, width: int) -> np.ndarray:
    """Directions that keep most of content vectors' inner products: float32 [D, width], orthonormal columns.

    Args:
        vectors: float [N, D]; where D is not larger than `width`, they are kept as they are, and zeros follow.
    """
    dim = vectors.shape[1]
    if dim <= width:
        return np.eye(dim, width, dtype=np.float32)
    directions = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)[1][:, ::-1][:, :width]
    largest = np.abs(directions).argmax(0)  # an eigenvector's sign is free: the largest number is made positive
    return (directions * np.sign(directions[largest, np.arange(width)])).astype(np.float32)


def assemble(parts: Parts, settings: VectorSettings) -> np.ndarray:
    """Joins the parts of every pin: float32 [P, width] of length 1; zeros where a pin has none.

    With norm `popularity`, (s m, r t, r sqrt(1 - |t|^2)), where m are company and content, t is taste of length |t| at
    most 1, and s^2 + r^2 = 1: inner products hold those of t, as ALS takes them, and all vectors have length 1. Without
    taste, (l m, sqrt(1 - l^2)), where l is the length. All of it is shortened to make room for (n, sqrt(1 - n^2)),
    where n is how often the pin is engaged with lately.
    """
    layout = settings.layout()
    out = np.zeros((len(parts.length), settings.width), np.float32)
    company, content = COMPANY_SHARE**0.5 * parts.company, (1 - COMPANY_SHARE) ** 0.5 * parts.content
    joined = unit(np.concatenate([company, content], axis=1))
    has_any = joined.any(axis=1)
    popular = settings.norm == "popularity"
    if settings.has_taste:
        taste = parts.taste if popular else unit(parts.taste)
        meaning, scale = {"als": (0.0, 1.0), "mix": (MIX_SHARE**0.5, (1 - MIX_SHARE) ** 0.5)}[settings.method]
        if settings.content_width and not meaning:
            meaning, scale = MIX_SHARE**0.5, (1 - MIX_SHARE) ** 0.5
        joined *= meaning
        out[:, layout["taste"]] = scale * taste
        has_any |= taste.any(axis=1)
        last = scale * np.sqrt(np.maximum(0, 1 - np.square(taste).sum(axis=1)))
    else:
        length = parts.length if popular else np.ones_like(parts.length)
        joined *= length[:, None]
        last = np.sqrt(1 - np.square(length))
    out[:, layout["company"]] = joined[:, : parts.company.shape[1]]
    out[:, layout["content"]] = joined[:, parts.company.shape[1] :]
    if popular:
        out[:, layout["popularity"]] = last[:, None]
    if settings.lately_days:
        out *= (1 - LATELY_SHARE) ** 0.5
        both = np.stack([parts.lately, np.sqrt(1 - np.square(parts.lately))], axis=1)
        out[:, layout["lately"]] = LATELY_SHARE**0.5 * both
    out[~has_any] = 0
    return unit(out)


def fold_in(
    vectors: np.ndarray, weights: Any, often: np.ndarray, often_new: np.ndarray, settings: VectorSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Company and taste of new pins in a space that stands: the weighted means of their neighbours' own.

    Args:
        vectors: float32 [K, width], of the pins that have one.
        weights: Sparse [N, K], of N new pins: how much each neighbour says of it, >= 0.
        often, often_new: int64 [K] and [N], how often the pins are engaged with.

    Returns:
        Company float32 [N, w], of length 1 or 0; taste float32 [N, w], the shorter the less often a pin is engaged with
        beside its neighbours.
    """
    layout = settings.layout()
    total = np.maximum(np.asarray(weights.sum(axis=1)).ravel(), 1e-9)[:, None]
    company = unit(weights @ unit(vectors[:, layout["company"]]))
    # Of length 1 before it was scaled, taste stands there with the coordinate that completes it.
    whole = unit(vectors[:, layout["taste"].start : layout["popularity"].stop])
    taste = (weights @ whole[:, : layout["taste"].stop - layout["taste"].start]) / total
    beside = (weights @ np.log1p(often)[:, None]) / total
    share = np.minimum(1, np.log1p(often_new)[:, None] / np.maximum(beside, 1e-9))
    return company, (taste * share).astype(np.float32)
