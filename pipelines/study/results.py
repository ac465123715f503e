"""What a study found: its results as they lie in its folder, and the verdict on each claim of the paper."""

import dataclasses
import json
import os
import statistics
from typing import Any

import numpy as np

from pinnerformer_model.user_errors import difference as paired
from pinnerformer_model.user_errors import ratio
from pipelines.study.claims import Claim
from pipelines.study.pooling import pool
from stores.errors import StoreError

CLOSE = 0.05  # relative; a loss this small is "little"


FIGURES = ("recall_new", "recall")  # new items first: own counts give what is bought again
START_ALONE = "the start alone gives this"


@dataclasses.dataclass(frozen=True)
class Study:
    """A finished study, whole or cut short.

    Attributes:
        folder: Where it is.
        facts: `study.json`, or `levers.json` where only levers were trained.
        baselines: `baselines.json`.
        cells: Cell, start or baseline -> its results, one per seed, each of all folds.
        starts: Cell -> the name of what it was before its first training step.
        levers: `levers.json`; empty without levers.
    """

    folder: str
    facts: dict[str, Any]
    baselines: dict[str, Any]
    cells: dict[str, list[dict[str, Any]]]
    starts: dict[str, str] = dataclasses.field(default_factory=dict)
    levers: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: str) -> "Study":
        """Reads what `pinnerformer study` left in a folder.

        Raises:
            StoreError: there is no study in it.
        """
        read: dict[str, dict[str, Any]] = {}
        for name in ("baselines", "study", "levers"):
            try:
                with open(os.path.join(folder, f"{name}.json")) as file:
                    read[name] = json.load(file)
            except (OSError, ValueError) as error:
                if name == "baselines" or (name == "levers" and "study" not in read):
                    raise StoreError(
                        f"{folder}: no study in it ({error}); run `pinnerformer study --out {folder}`"
                    ) from None
        parts = [read[name] for name in ("study", "levers") if name in read]
        if any("start_cells" not in facts for facts in parts):
            raise StoreError(f"{folder}: a study of an older version, without starts; run it again with another --out")
        cells: dict[str, list[dict[str, Any]]] = {}
        starts: dict[str, str] = {}
        for facts in parts:
            starts.update(facts["starts"])
            for name, results in _pooled(folder, facts).items():
                cells.setdefault(name, results)
        for name, figures in read["baselines"]["figures"].items():
            cells[name] = [{"report": {"once": figures}, "by_user": {"once": read["baselines"]["by_user"][name]}}]
        return cls(folder, parts[0], read["baselines"], cells, starts, read.get("levers", {}))

    @property
    def is_of_the_paper(self) -> bool:
        """Whether the paper's grid was trained, and not levers alone."""
        return self.facts is not self.levers

    @property
    def figure(self) -> str:
        """`recall`, or `recall_new`: what rows are judged by."""
        return self.facts["figure"]

    @property
    def trained(self) -> dict[str, list[dict[str, Any]]]:
        """The cells that were trained."""
        return {name: results for name, results in self.cells.items() if "choice" in results[0]}

    def values(self, cell: str, figure: str) -> list[float]:
        """A figure of every seed; `sasrec@daily` is the cell `sasrec` at that frequency. Empty if it was left out."""
        name, _, frequency = cell.partition("@")
        found = []
        for result in self.cells.get(name, []):
            value = result["report"].get(frequency or "once", {}).get(figure)
            if value is not None:
                found.append(float(value[0] if isinstance(value, (list, tuple)) else value))
        return found

    def sums(self, cell: str, figure: str | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
        """(hits, targets) per user, of every seed, of a figure; None: of what rows are judged by."""
        name, _, frequency = cell.partition("@")
        suffix = "_new" if (figure or self.figure) == "recall_new" else ""
        found = [result["by_user"].get(frequency or "once", {}) for result in self.cells.get(name, [])]
        return [(np.array(s[f"hits{suffix}"]), np.array(s[f"targets{suffix}"])) for s in found if f"hits{suffix}" in s]

    def level(self, cell: str, figure: str) -> tuple[float, float] | None:
        """A figure, the mean of the seeds, and its standard error over users; None if it was left out."""
        sums = self.sums(cell, figure)
        if not sums or not sums[0][1].sum():
            return None
        return ratio(np.mean([hits for hits, _ in sums], axis=0), sums[0][1])

    def start(self, cell: str) -> str | None:
        """What a cell, at a frequency, was before it was trained; None: it was not, or nobody knows."""
        name, at, frequency = cell.partition("@")
        return f"{self.starts[name]}{at}{frequency}" if name in self.starts else None


def _pooled(folder: str, facts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The results of a study's cells and starts, the folds of a seed as one; a seed without all folds is left out."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for name, seed, path in [*facts["start_cells"], *facts["cells"]]:
        if os.path.exists(os.path.join(folder, path)):
            with open(os.path.join(folder, path)) as file:
                found.setdefault((name, seed), []).append(json.load(file))
    cells: dict[str, list[dict[str, Any]]] = {}
    for (name, _), results in found.items():
        if len(results) == facts["folds"]:
            cells.setdefault(name, []).append(_of_all_folds(results))
    return cells


def _of_all_folds(results: list[dict[str, Any]]) -> dict[str, Any]:
    parts = {
        frequency: pool([{"figures": r["report"][frequency], "by_user": r["by_user"][frequency]} for r in results])
        for frequency in results[0]["report"]
    }
    choice = {name: statistics.fmean(r["choice"]["once"][name][0] for r in results) for name in FIGURES}
    found = {
        "choice": choice,
        "report": {frequency: part["figures"] for frequency, part in parts.items()},
        "by_user": {frequency: part["by_user"] for frequency, part in parts.items()},
        "cpu_s": {name: sum(r["cpu_s"][name] for r in results) for name in ("training", "all")},
        "training": [r["training"] for r in results],
    }
    if not results[0]["training"]["steps"]:
        del found["choice"]  # a start; nothing was trained
    return found


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two cells are apart in a figure.

    Attributes:
        mean, error: The difference and its standard error: that of users and that of seeds, added in squares.
        reference: The level of the reference.
        users, seeds: The two parts of the error.
    """

    mean: float
    error: float
    reference: float
    users: float = 0.0
    seeds: float = 0.0


def difference(study: Study, cell: str, reference: str, figure: str | None = None) -> Difference | None:
    """cell - reference, paired by seed and by user; None if either was left out.

    The error has two parts, added in squares: that of the mean over seeds (not known from one seed: taken for 0), and
    that of the users drawn, from the spread of each user's own difference (the ratio estimator of recall a positive).

    Args:
        figure: `recall` or `recall_new`; None: what rows are judged by.
    """
    a, b = study.sums(cell, figure), study.sums(reference, figure)
    if not a or not b or not a[0][1].sum():
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
    hits = [np.mean([one[0] for one in found], axis=0) for found in (a, b)]  # [U]
    _, users = paired(hits[0], targets, hits[1], targets)
    reference_level = statistics.fmean(float(y[0].sum() / y[1].sum()) for y in b)
    return Difference(mean, (seeds**2 + users**2) ** 0.5, reference_level, users, seeds)


def difference_of_losses(study: Study, cell: str, reference: str, figure: str | None = None) -> Difference | None:
    """The share of recall kept from realtime to daily, of a cell less that of its reference; None if left out.

    The users' part of the error is from 500 samples of users with replacement, from a fixed seed.
    """
    names = [f"{name}@{frequency}" for name in (cell, reference) for frequency in ("daily", "realtime")]
    sums = [study.sums(name, figure) for name in names]
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
    return Difference(float(by_seed.mean()), (spread**2 + sampled**2) ** 0.5, 0.0, sampled, spread)


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


def learning_sides(claim: Claim) -> tuple[str, ...]:
    """The cells that must have learned something for a claim to be about training: those it calls better, or alike."""
    if claim.says == "lower":
        return (claim.reference,)
    return (claim.cell, claim.reference) if claim.says == "as good" else (claim.cell,)


def beats_its_start(study: Study, cell: str, figure: str | None = None) -> bool | None:
    """Whether a trained cell is ahead of what it was by two standard errors; None: it has no start."""
    start = study.start(cell)
    found = difference(study, cell, start, figure) if start else None
    return None if found is None else bool(found.mean > 2 * found.error)


def judge(study: Study, claim: Claim, figure: str | None = None) -> tuple[str, Difference | None]:
    """The verdict on a claim, and the difference it rests on.

    Args:
        figure: `recall` or `recall_new`; None: what rows are judged by.
    """
    compare = difference_of_losses if claim.says == "loses less" else difference
    found = compare(study, claim.cell, claim.reference, figure)
    said = verdict(claim, found)
    if said == "does not hold" and study.start(claim.reference) is None:
        return said, found  # behind what was never trained: whatever training added, it was not enough
    if found is not None and any(beats_its_start(study, cell, figure) is False for cell in learning_sides(claim)):
        said = START_ALONE
    return said, found
