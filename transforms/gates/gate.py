"""What a gate is: one measured value, the value allowed, and what an operator should look at when it closes."""

import dataclasses
from typing import Any

from stores.upgrades import GATE, read_record

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


def at_most(name: str, measured: float, threshold: float, reads: str) -> Gate:
    """A gate that closes above `threshold`, and on NaN."""
    measured = float(measured)
    return Gate(
        name, min(measured, MOST) if measured == measured else MOST, float(threshold), measured <= threshold, reads
    )


def at_least(name: str, measured: float, threshold: float, reads: str) -> Gate:
    """A gate that closes below `threshold`, and on NaN."""
    measured = float(measured)
    passed = measured >= threshold
    return Gate(name, max(measured, -MOST) if measured == measured else -MOST, float(threshold), passed, reads, True)


# Gate -> where to look. The first word of the row that an operator reads at night.
ADVICE = {
    "users_not_finite": "the newest log files and the model: something made a NaN",
    "pins_not_finite": "--pins and the model: something made a NaN",
    "users_norm": "the model: the user tower must end in an L2 norm",
    "pins_norm": "the model: the pin tower must end in an L2 norm",
    "users_constant": "the model: vectors of one repeated number",
    "pins_constant": "the model: vectors of one repeated number",
    "users_alike": "the model: nearly the same vector for everybody",
    "pins_alike": "the model or --pins: nearly the same vector for every pin",
    "rows_dropped_share": "the dead letters, reason by reason, in the run's folder",
    "rows_unaccounted": "a fault of the job: keep the run's folder, report it",
    "users_unaccounted": "a fault of the job: keep the run's folder, report it",
    "snapshot_rows_unaccounted": "a fault of the job: keep the run's folder, report it",
    "pins_unaccounted": "a fault of the job: keep the run's folder, report it",
    "pins_not_indexed": "a fault of the job: keep the run's folder, report it",
    "users_failed_share": "why users failed: the staged manifest says it of each",
    "users_present": "--logs, and the model's vocabularies: nobody has a usable token",
    "pins_present": "--pins: no vector in it",
    "users_lost_share": "the model's vocabularies and --pins: who has no usable token any more?",
    "pins_lost_share": "--pins: is the export whole?",
    "pins_unfindable": "--pins: crowds of nearly equal vectors? try a larger --index-m",
    "rows_against_week": "the newest partitions: was a file left out, or written twice?",
    "rows_against_weekday": "the newest partitions: was a file left out, or written twice?",
    "active_against_week": "the newest partitions: are the user ids what they were?",
    "active_against_weekday": "the newest partitions: are the user ids what they were?",
    "vectorless_share": "--pins against the pins in the logs: do the ids agree?",
    "vectorless_rise": "--pins against the pins in the logs: was the export cut off?",
    "cosine_drift": "what changed since yesterday: logs, --pins, the machine",
    "canaries_cosine": "the machine and the libraries: one model, other vectors",
    "pin_vectors_cosine": "--pins: is it of another space than it says?",
    "index_recall_at_10": "a larger --index-ef-construction or --index-m",
    "coverage_pins": "the model: a handful of pins is everybody's answer",
    "coverage_fall": "what changed since yesterday: the model, --pins",
}
