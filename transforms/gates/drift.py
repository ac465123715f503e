"""How far the vectors of embedded users moved since the day before, and whether they moved as they usually do."""

import math

import numpy as np
import pyarrow as pa

from stores.schemas import from_binary_column
from transforms.gates.gate import Measured, at_most
from transforms.gates.staged import StagedRelease
from transforms.gates.thresholds import Threshold

MAX_COSINE_DRIFT = Threshold(
    "max_cosine_drift", 0.15, "KS distance of the users' cosines to yesterday from the previous night's, beyond chance"
)
HISTOGRAM = "cosine_to_yesterday"
# Bins of 1 - cosine: most users hardly move, so that equal steps would put them all into one bin.
EDGES = np.concatenate([[-np.inf], np.geomspace(1e-5, 2.0, 48)[:-1], [np.inf]])
CHANCE = 1.63  # Kolmogorov-Smirnov at the 1 % level: sqrt(-ln(0.01 / 2) / 2)


def cosine_histogram(old: pa.Table, new: pa.Table) -> list[int]:
    """Counts users by how far their new vector is from the old one.

    Args:
        old, new: Rows of user_embeddings of one bucket under one model, in any order; users of both count,
            those without an embedding do not.

    Returns:
        Users in each of the bins of 1 - cosine between `EDGES`; a vector that is zero or not finite is in the last.
    """
    new = new.filter(new["embedding"].is_valid())
    _, at, old_at = np.intersect1d(
        new["user_id"].to_numpy(), old["user_id"].to_numpy(), assume_unique=True, return_indices=True
    )
    if not len(at):
        return [0] * (len(EDGES) - 1)
    a = from_binary_column(new["embedding"])[at].astype(np.float32)
    b = from_binary_column(old["embedding"])[old_at].astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.einsum("nd,nd->n", a, b) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.histogram(np.nan_to_num(1.0 - cosine, nan=2.0, posinf=2.0, neginf=2.0), EDGES)[0].tolist()


def ks_distance(a: list[int], b: list[int]) -> tuple[float, float]:
    """Two-sample Kolmogorov-Smirnov distance of two histograms over the same bins.

    Returns:
        The largest difference of their cumulative shares; and how large chance makes it at the 1 % level,
        1.63 sqrt((n + m) / (n m)) (Smirnov, 1948; conservative for counts in bins).
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, m = x.sum(), y.sum()
    if not n or not m:
        return 0.0, 1.0
    return float(np.abs(np.cumsum(x) / n - np.cumsum(y) / m).max()), CHANCE * math.sqrt((n + m) / (n * m))


@at_most(MAX_COSINE_DRIFT, advice="what changed since yesterday: logs, --pins, the machine")
def cosine_drift(staged: StagedRelease) -> Measured | None:
    """Embedded users moved, since the day before, otherwise than users did the night before.

    Tonight's distribution of cosines to yesterday is compared with the previous release's and with the same weekday's.
    The nearer of the two counts: weekends differ from working days, and the same weekday does not.
    """
    manifest = staged.manifest
    tonight = manifest.statistics.get(HISTOGRAM)
    if not tonight or not any(tonight):
        return None
    under_model = [
        m for m in staged.chain if m.model_digest == manifest.model_digest and any(m.statistics.get(HISTOGRAM, []))
    ]
    against = under_model[:1] + [m for m in under_model if (manifest.day - m.day).days == 7][:1]
    if not against:
        return None
    found = [(*ks_distance(tonight, m.statistics[HISTOGRAM]), m.release) for m in against]
    distance, chance, release = min(found, key=lambda f: f[0] - f[1])
    reads = f"KS distance of the users' cosines to yesterday, {sum(tonight):,} users, from {release}'s"
    return Measured(distance, reads, chance)
