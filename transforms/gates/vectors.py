"""Gates on the vectors themselves: finite, of unit norm, not all the same."""

import numpy as np

from stores.names import Counter, Step
from transforms.gates.gate import Measured, at_most
from transforms.gates.sample import sample_of
from transforms.gates.staged import StagedRelease
from transforms.gates.thresholds import Threshold

NORM_TOLERANCE = Threshold("norm_tolerance", 0.002, "how far a stored float16 vector's L2 norm may be from 1")
MAX_ALIKE = Threshold("max_alike", 0.9999, "length of the mean of all pins' unit vectors; 1 if all are the same")
MAX_USERS_ALIKE = Threshold(
    "max_users_alike", 0.9, "length of the mean of the unit vectors of the users drawn; 1 if all are the same"
)
CONSTANT = "the model: vectors of one repeated number"

# Over every vector that this run computed.


@at_most(0, advice="the newest log files and the model: something made a NaN")
def users_not_finite(staged: StagedRelease) -> Measured:
    """A user's vector has NaN or infinity in it."""
    return Measured(staged.count(Step.EMBED_USERS, Counter.USERS_NOT_FINITE), "users with NaN or infinity")


@at_most(NORM_TOLERANCE, advice="the model: the user tower must end in an L2 norm")
def users_norm(staged: StagedRelease) -> Measured:
    """The norm of a user's vector is away from 1; a zero vector shows here."""
    return Measured(norm_error(staged, Step.EMBED_USERS), "largest distance of a norm from 1, users")


@at_most(0, advice=CONSTANT)
def users_constant(staged: StagedRelease) -> Measured:
    """A user's vector is one number repeated."""
    return Measured(staged.count(Step.EMBED_USERS, Counter.USERS_CONSTANT), "users whose vector is one number repeated")


@at_most(0, advice="--pins and the model: something made a NaN")
def pins_not_finite(staged: StagedRelease) -> Measured:
    """A pin's vector has NaN or infinity in it."""
    return Measured(staged.count(Step.EMBED_PINS, Counter.PINS_NOT_FINITE), "pins with NaN or infinity")


@at_most(NORM_TOLERANCE, advice="the model: the pin tower must end in an L2 norm")
def pins_norm(staged: StagedRelease) -> Measured:
    """The norm of a pin's vector is away from 1; a zero vector shows here."""
    return Measured(norm_error(staged, Step.EMBED_PINS), "largest distance of a norm from 1, pins")


@at_most(0, advice=CONSTANT)
def pins_constant(staged: StagedRelease) -> Measured:
    """A pin's vector is one number repeated."""
    return Measured(staged.count(Step.EMBED_PINS, Counter.PINS_CONSTANT), "pins whose vector is one number repeated")


def norm_error(staged: StagedRelease, step: Step) -> float:
    """The largest distance from 1 of the norms that a step measured; 0 if it embedded nothing."""
    report = staged.report(step)
    return max((abs(norm - 1.0) for norm in (*report.lowest.values(), *report.highest.values())), default=0.0)


# Over the users drawn, and all pins.


@at_most(MAX_USERS_ALIKE, advice="the model: nearly the same vector for everybody")
def users_alike(staged: StagedRelease) -> Measured | None:
    """The mean of the users' unit vectors is as long as if most were the same."""
    sample = sample_of(staged)
    return None if sample is None else mean_length("users", sample.user_sum, sample.users)


@at_most(MAX_ALIKE, advice="the model or --pins: nearly the same vector for every pin")
def pins_alike(staged: StagedRelease) -> Measured | None:
    """The mean of the pins' unit vectors is as long as if all were the same."""
    sample = sample_of(staged)
    return None if sample is None else mean_length("pins", sample.pin_sum, sample.pins)


def mean_length(what: str, total: np.ndarray, count: int) -> Measured | None:
    """Whether vectors point everywhere: the length of their mean is 1 if all are the same, near 0 if none are alike.

    Args:
        what: `users` or `pins`.
        total: float64 [d], the sum of unit vectors.
        count: How many were summed; of fewer than two nothing can be said.
    """
    if count < 2:
        return None
    return Measured(float(np.linalg.norm(total)) / count, f"length of the mean vector of {count:,} {what}")
