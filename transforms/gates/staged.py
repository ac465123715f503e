"""What a gate may look at: a release that is staged, and those before it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from stores.files import Root
from stores.manifests import Manifest
from stores.names import Counter, Step
from transforms.gates.thresholds import ThresholdValues
from transforms.step_reports import StepReport

T = TypeVar("T")

# Releases before the staged one that gates compare it with: four weeks of days, and one more, which says how many
# days the oldest of them covered.
COMPARED = 29


@dataclasses.dataclass(frozen=True)
class StagedRelease:
    """A release before anybody can see it. Built once for all gates; what several of them measure is measured once.

    Attributes:
        root: Where its files are.
        manifest: Its manifest, without gates.
        reports: Step -> what the step did; gates read the extremes here and the counters in the manifest.
        chain: The releases that it was built on, newest first; the last `COMPARED` are enough. Empty for a first one.
        thresholds: Where the gates close.
        figures: What the run's steps measured of it, name -> JSON; what is not there is measured on its files.
        measured: What `measured_once` keeps.
    """

    root: Root
    manifest: Manifest
    reports: Mapping[Step, StepReport]
    chain: Sequence[Manifest]
    thresholds: ThresholdValues
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    measured: dict[Callable, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def previous(self) -> Manifest | None:
        """The release it was built on; None for a first one."""
        return self.chain[0] if self.chain else None

    def count(self, step: Step, *counters: Counter) -> int:
        """The sum of some counters of a step; one that the step does not have, or whose step did not run, is 0."""
        return sum(self.manifest.count(step, counter) for counter in counters)

    def report(self, step: Step) -> StepReport:
        """What a step did; an empty report where it did not run."""
        return self.reports.get(step, StepReport())


def measured_once(measure: Callable[[StagedRelease], T]) -> Callable[[StagedRelease], T]:
    """Keeps with a staged release what is measured on it, for the other gates that ask for the same."""

    @functools.wraps(measure)
    def look_up(staged: StagedRelease) -> T:
        if measure not in staged.measured:
            staged.measured[measure] = measure(staged)
        return staged.measured[measure]

    return look_up
