"""What a staged release must pass before anybody can see it.

A gate is a function of a `StagedRelease` that returns what it measured, or None where it has nothing to say. Its name
is the one that `--force-gate` takes; its limit and where to look when it closes stand above it:

    MAX_DROPPED_SHARE = Threshold("max_dropped_share", 0.05, "share of the rows read that may go to the dead letters")

    @at_most(MAX_DROPPED_SHARE, advice="the dead letters, reason by reason, in the run's folder")
    def rows_dropped_share(staged: StagedRelease) -> Measured:
        '''Too many of the log rows read went to the dead letters.'''
        ...

To add one: a module here, a line in `GATES`, a row in `docs/gates.md` and a line in `deploy/gates.yaml`. The tests say
what the last two have to be. A measurement that several gates need is a function under `measured_once`.
"""

from typing import Any

from transforms.gates import canaries, counts, drift, hindsight, recall, rhythm, trends, vectors
from transforms.gates.gate import CANNOT_SEE, Gate, GateSpec, blind_gates, check_gates, read_gate
from transforms.gates.staged import COMPARED, StagedRelease
from transforms.gates.thresholds import Threshold, read_values, thresholds_class

__all__ = [
    "ADVICE",
    "CANNOT_SEE",
    "COMPARED",
    "GATES",
    "THRESHOLDS",
    "Gate",
    "GateSpec",
    "StagedRelease",
    "Threshold",
    "Thresholds",
    "blind_gates",
    "check_gates",
    "read_gate",
    "read_thresholds",
]

# Every gate there is, in the order in which they are checked and stand in a manifest.
GATES: tuple[GateSpec, ...] = (
    counts.rows_dropped_share,
    counts.users_failed_share,
    counts.rows_unaccounted,
    counts.users_unaccounted,
    counts.snapshot_rows_unaccounted,
    counts.pins_unaccounted,
    counts.users_present,
    counts.pins_present,
    counts.pins_not_indexed,
    counts.pins_unfindable,
    counts.users_lost_share,
    counts.pins_lost_share,
    trends.rows_against_week,
    trends.rows_against_weekday,
    trends.active_against_week,
    trends.active_against_weekday,
    trends.vectorless_share,
    trends.vectorless_rise,
    hindsight.engaged_vectorless,
    rhythm.rows_per_user,
    rhythm.hours_shift,
    rhythm.vocabulary_rise,
    vectors.users_not_finite,
    vectors.users_norm,
    vectors.users_constant,
    vectors.pins_not_finite,
    vectors.pins_norm,
    vectors.pins_constant,
    drift.cosine_drift,
    canaries.canaries_cosine,
    canaries.pin_vectors_cosine,
    hindsight.pins_moved,
    hindsight.hindsight_fall,
    hindsight.consistency,
    hindsight.new_model_hindsight,
    vectors.users_alike,
    vectors.pins_alike,
    recall.index_recall_at_10,
    recall.coverage_pins,
    recall.coverage_share,
    recall.coverage_fall,
)

# Where to look when a gate closes, by the gate's name.
ADVICE = {gate.name: gate.advice for gate in GATES}

# Every threshold, in the order of manifests and of `deploy/gates.yaml`. The first three stood there before they were
# declared by gates, in this order; all others follow the gates that they belong to.
THRESHOLDS: tuple[Threshold, ...] = tuple(
    dict.fromkeys(
        (
            vectors.NORM_TOLERANCE,
            vectors.MAX_ALIKE,
            vectors.MAX_USERS_ALIKE,
            counts.MAX_LOST_SHARE,
            *(threshold for gate in GATES for threshold in gate.thresholds),
        )
    )
)
_DeclaredThresholds: Any = thresholds_class(THRESHOLDS)


class Thresholds(_DeclaredThresholds):
    """Where the gates close: a field for each of `THRESHOLDS`, with its default."""

    @classmethod
    def from_manifest(cls, found: dict[str, float]) -> "Thresholds":
        """What a manifest of whichever version keeps under `settings.thresholds`.

        A threshold that its version did not have has its default; one that this version does not have is left out.
        """
        return cls(**{t.name: found[t.name] for t in THRESHOLDS if t.name in found})


def read_thresholds(path: str | None) -> Thresholds:
    """The thresholds of a YAML file, `name: number` a line; what it leaves out keeps its default.

    Args:
        path: None: the defaults.

    Raises:
        UsageError: the file cannot be read, names something else, or a value is not a number that is allowed.
    """
    return Thresholds(**(read_values(path, THRESHOLDS) if path is not None else {}))
