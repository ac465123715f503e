"""Gates on the vectors themselves: finite, of unit norm, not all the same."""

import numpy as np

from transforms.gates.gate import Gate, at_most
from transforms.gates.thresholds import Thresholds
from transforms.step_reports import StageReport


def check_vectors(reports: dict[str, StageReport], thresholds: Thresholds) -> list[Gate]:
    """Unit norms, finite numbers, no vector of one repeated number, over every vector that this run computed."""
    gates = []
    for stage, what in (("embed_users", "users"), ("embed_pins", "pins")):
        report = reports.get(stage, StageReport())
        not_finite = report.counters.get(f"{what}_not_finite", 0)
        gates.append(at_most(f"{what}_not_finite", not_finite, 0, f"{what} with NaN or infinity"))
        off = max((abs(norm - 1.0) for norm in (*report.lowest.values(), *report.highest.values())), default=0.0)
        gates.append(
            at_most(f"{what}_norm", off, thresholds.norm_tolerance, f"largest distance of a norm from 1, {what}")
        )
        constant = report.counters.get(f"{what}_constant", 0)
        gates.append(at_most(f"{what}_constant", constant, 0, f"{what} whose vector is one number repeated"))
    return gates


def check_alike(what: str, total: np.ndarray, count: int, thresholds: Thresholds) -> list[Gate]:
    """Whether vectors point everywhere: the length of their mean is 1 if all are the same, near 0 if none are alike.

    Args:
        what: `users` or `pins`.
        total: float64 [d], the sum of unit vectors.
        count: How many were summed; of fewer than two nothing can be said.
    """
    if count < 2:
        return []
    alike = float(np.linalg.norm(total)) / count
    return [at_most(f"{what}_alike", alike, thresholds.max_alike, f"length of the mean vector of {count:,} {what}")]
