"""What a study found: its results as they lie in its folder, and the verdict on each claim of the paper."""

import dataclasses
import json
import os
import statistics
from typing import Any

import numpy as np

from pipelines.study.claims import Claim
from stores.errors import StoreError

CLOSE = 0.05  # relative; a loss this small is "little"


@dataclasses.dataclass(frozen=True)
class Study:
    """A finished study, whole or cut short.

    Attributes:
        folder: Where it is.
        facts: `study.json`.
        baselines: `baselines.json`.
        cells: Cell -> its results, one per seed.
    """

    folder: str
    facts: dict[str, Any]
    baselines: dict[str, Any]
    cells: dict[str, list[dict[str, Any]]]

    @classmethod
    def load(cls, folder: str) -> "Study":
        """Reads what `pinnerformer study` left in a folder.

        Raises:
            StoreError: there is no study in it.
        """
        try:
            with open(os.path.join(folder, "study.json")) as file:
                facts = json.load(file)
            with open(os.path.join(folder, "baselines.json")) as file:
                baselines = json.load(file)
        except (OSError, ValueError) as error:
            raise StoreError(f"{folder}: no study in it ({error}); run `pinnerformer study --out {folder}`") from None
        cells: dict[str, list[dict[str, Any]]] = {}
        for name, _, path in facts["cells"]:
            if os.path.exists(os.path.join(folder, path)):
                with open(os.path.join(folder, path)) as file:
                    cells.setdefault(name, []).append(json.load(file))
        for name, figures in baselines["figures"].items():
            cells[name] = [{"report": {"once": figures}, "by_user": {"once": baselines["by_user"][name]}}]
        return cls(folder, facts, baselines, cells)

    @property
    def figure(self) -> str:
        """`recall`, or `recall_new`: what rows are judged by."""
        return self.facts["figure"]

    def values(self, cell: str, figure: str) -> list[float]:
        """A figure of every seed; `sasrec@daily` is the cell `sasrec` at that frequency. Empty if it was left out."""
        name, _, frequency = cell.partition("@")
        found = []
        for result in self.cells.get(name, []):
            value = result["report"].get(frequency or "once", {}).get(figure)
            if value is not None:
                found.append(float(value[0] if isinstance(value, list) else value))
        return found

    def sums(self, cell: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """(hits, targets) per user, of every seed, of the figure that rows are judged by."""
        name, _, frequency = cell.partition("@")
        suffix = "_new" if self.figure == "recall_new" else ""
        sums = [result["by_user"][frequency or "once"] for result in self.cells.get(name, [])]
        return [(np.array(s[f"hits{suffix}"]), np.array(s[f"targets{suffix}"])) for s in sums]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two cells are apart in the figure judged by: mean, standard error, and the reference's level."""

    mean: float
    error: float
    reference: float


def difference(study: Study, cell: str, reference: str) -> Difference | None:
    """cell - reference, paired by seed and by user; None if either was left out.

    The error has two parts, added in squares: that of the mean over seeds (not known from one seed: taken for 0), and
    that of the users drawn, from the spread of each user's own difference (the ratio estimator of recall a positive).
    """
    a, b = study.sums(cell), study.sums(reference)
    if not a or not b:
        return None
    fixed = {cell, reference} & set(study.baselines["figures"])  # a baseline has no seeds: it meets every one
    pairs = max(len(a), len(b)) if fixed else min(len(a), len(b))
    a, b = [a[min(i, len(a) - 1)] for i in range(pairs)], [b[min(i, len(b) - 1)] for i in range(pairs)]
    targets = a[0][1]
    # Paired: what a seed or a user does to both cells cancels, and the error is of what is left.
    by_seed = [float((x[0] - y[0]).sum() / targets.sum()) for x, y in zip(a, b, strict=True)]
    mean = statistics.fmean(by_seed)
    seeds = statistics.stdev(by_seed) / len(by_seed) ** 0.5 if len(by_seed) > 1 else 0.0
    # A user's positives rise and fall together, so the user is the unit that was drawn, and not the positive.
    own = np.mean([x[0] - y[0] for x, y in zip(a, b, strict=True)], axis=0)  # [U]
    users = float(np.sqrt(((own - mean * targets) ** 2).sum()) / targets.sum())
    reference_level = statistics.fmean(float(y[0].sum() / y[1].sum()) for y in b)
    return Difference(mean, (seeds**2 + users**2) ** 0.5, reference_level)


def difference_of_losses(study: Study, cell: str, reference: str) -> Difference | None:
    """The share of recall kept from realtime to daily, of a cell less that of its reference; None if left out.

    The users' part of the error is from 500 samples of users with replacement, from a fixed seed.
    """
    names = [f"{name}@{frequency}" for name in (cell, reference) for frequency in ("daily", "realtime")]
    sums = [study.sums(name) if study.values(name, study.figure) else [] for name in names]
    seeds = min(map(len, sums))
    if not seeds:
        return None
    hits = np.array([[one[seed][0] for one in sums] for seed in range(seeds)])  # [S, 4, U]
    users = hits.shape[2]
    # A ratio of ratios has no simple formula for its error: users are drawn again, all four sums from the same draw.
    weights = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), 500)  # [R, U]

    def kept(totals: np.ndarray) -> np.ndarray:  # [..., 4]
        return totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3]

    by_seed = kept(hits.sum(2))
    spread = float(by_seed.std(ddof=1)) / seeds**0.5 if seeds > 1 else 0.0
    sampled = float(kept(np.einsum("ru,sfu->rsf", weights, hits).mean(1)).std())
    return Difference(float(by_seed.mean()), (spread**2 + sampled**2) ** 0.5, 0.0)


def verdict(claim: Claim, found: Difference | None) -> str:
    """`holds`, `does not hold`, `cannot be told at this size`, by the rule that the page states."""
    if found is None:
        return "was not measured"
    low, high = found.mean - 2 * found.error, found.mean + 2 * found.error
    if claim.says in ("higher", "loses less"):
        return "holds" if low > 0 else "does not hold" if high < 0 else "cannot be told at this size"
    if claim.says == "lower":
        return "holds" if high < 0 else "does not hold" if low > 0 else "cannot be told at this size"
    margin = CLOSE * found.reference
    if -margin <= low and high <= margin:
        return "holds"
    return "does not hold" if high < -margin or low > margin else "cannot be told at this size"


def judge(study: Study, claim: Claim) -> tuple[str, Difference | None]:
    """The verdict on a claim, and the difference it rests on."""
    compare = difference_of_losses if claim.says == "loses less" else difference
    found = compare(study, claim.cell, claim.reference)
    return verdict(claim, found), found
