"""What a gate is: a function of a staged release, declared with its limit and with where to look when it closes."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from stores.upgrades import GATE, read_record
from transforms.gates.staged import StagedRelease
from transforms.gates.thresholds import Threshold

CANNOT_SEE = "cannot_see"  # under a manifest's `statistics`: gates that could not tell, and why
MOST = 1e9  # stands for infinity: JSON has none


@dataclasses.dataclass(frozen=True)
class Gate:
    """One check of a staged release.

    Attributes:
        name: As `--force-gate` and the manifest call it.
        measured: What was found.
        threshold: What is allowed: the most, or the least where `at_least`.
        passed: Whether `measured` is on the right side of `threshold`.
        reads: What was measured, in words.
        at_least: Whether `threshold` is a least.
        forced: Why an operator let the release pass although the gate is closed; None if nobody did.
    """

    name: str
    measured: float
    threshold: float
    passed: bool
    reads: str
    at_least: bool = False
    forced: str | None = None


def read_gate(found: dict[str, Any]) -> Gate:
    """A gate as a manifest or an outcome has it.

    Raises:
        ValueError: it is something else.
    """
    return read_record(GATE, Gate, found, "gate")


class Measured(NamedTuple):
    """What a gate's function returns.

    Attributes:
        value: The number that is compared with the limit.
        reads: What it is, in words, as the manifest and the screen of a refused release say it.
        chance: What chance alone explains; allowed beyond the limit.
    """

    value: float
    reads: str
    chance: float = 0.0


class CannotSee(NamedTuple):
    """What a gate's function returns where it measures too little to tell a good night from a bad one.

    It is neither passed nor closed: it is not among a manifest's `gates`, but under `statistics.cannot_see`, and
    `status`, the summary and the screen of a refused release say it.

    Attributes:
        why: In words.
    """

    why: str


Measure = Callable[[StagedRelease], Measured | CannotSee | None]


@dataclasses.dataclass(frozen=True)
class GateSpec:
    """A gate as its module declares it, with `at_most` or `at_least` above a function of the gate's name.

    Attributes:
        measure: Measures a staged release; None where there is nothing to measure or to compare with: no gate then;
            `CannotSee` where that is too little. The first paragraph of its docstring says when the gate closes, in
            `docs/gates.md` too.
        limit: A threshold that users can move, or a number that is fixed.
        at_least: Whether the limit is a least.
        advice: Where an operator should look when it closes: the last column of the screen that is read at night.
        settings: Thresholds that are no limit but say how it is measured.
    """

    measure: Measure
    limit: Threshold | int
    at_least: bool
    advice: str
    settings: tuple[Threshold, ...] = ()

    @property
    def name(self) -> str:
        return self.measure.__name__

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """What users can move, the limit first."""
        return (*((self.limit,) if isinstance(self.limit, Threshold) else ()), *self.settings)

    @property
    def closes_when(self) -> str:
        """In words, on one line."""
        return " ".join((inspect.getdoc(self.measure) or "").split("\n\n")[0].split())

    def __call__(self, staged: StagedRelease) -> Gate | None:
        """Checks a staged release; None where the gate has nothing to say of it."""
        found = self.measure(staged)
        if found is None or isinstance(found, CannotSee):
            return None
        limit = staged.thresholds[self.limit] if isinstance(self.limit, Threshold) else self.limit
        return compare(self.name, found.value, limit + found.chance, found.reads, at_least=self.at_least)


def at_most(
    limit: Threshold | int, *, advice: str, settings: tuple[Threshold, ...] = ()
) -> Callable[[Measure], GateSpec]:
    """Declares a gate that closes above its limit, and on NaN; the arguments are those of `GateSpec`."""
    return lambda measure: GateSpec(measure, limit, at_least=False, advice=advice, settings=settings)


def at_least(
    limit: Threshold | int, *, advice: str, settings: tuple[Threshold, ...] = ()
) -> Callable[[Measure], GateSpec]:
    """Declares a gate that closes below its limit, and on NaN; the arguments are those of `GateSpec`."""
    return lambda measure: GateSpec(measure, limit, at_least=True, advice=advice, settings=settings)


def compare(name: str, measured: float, threshold: float, reads: str, *, at_least: bool = False) -> Gate:
    """A value beside what is allowed; NaN is never allowed."""
    measured = float(measured)
    passed = measured >= threshold if at_least else measured <= threshold
    if at_least:
        shown = max(measured, -MOST) if measured == measured else -MOST
    else:
        shown = min(measured, MOST) if measured == measured else MOST
    return Gate(name, shown, float(threshold), passed, reads, at_least)


def check_gates(gates: Iterable[GateSpec], staged: StagedRelease) -> list[Gate]:
    """Checks a staged release; gates that have nothing to say of it do not appear."""
    return [found for found in (gate(staged) for gate in gates) if found is not None]


def blind_gates(gates: Iterable[GateSpec], staged: StagedRelease) -> dict[str, str]:
    """The gates that cannot tell of a staged release, and why: name -> words."""
    found = ((gate.name, gate.measure(staged)) for gate in gates)
    return {name: measured.why for name, measured in found if isinstance(measured, CannotSee)}
