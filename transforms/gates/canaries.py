"""Gates on the canaries: users whose history is frozen must get the same vector every night."""

from stores.names import Counter, Step
from transforms.gates.gate import Measured, at_least
from transforms.gates.staged import StagedRelease
from transforms.gates.thresholds import Threshold

MIN_CANARY_COSINE = Threshold(
    "min_canary_cosine", 0.9999, "cosine of each one's vector, made again from what was kept, to the one kept"
)
MIN_PIN_VECTORS_COSINE = Threshold(
    "min_pin_vectors_cosine", 0.9, "median cosine of their pins' vectors, tonight's to those kept"
)


@at_least(MIN_CANARY_COSINE, advice="the machine and the libraries: one model, other vectors")
def canaries_cosine(staged: StagedRelease) -> Measured | None:
    """The vector of a canary moved, although its rows and pin vectors are those that were kept."""
    canaries = staged.count(Step.CHECK_CANARIES, Counter.CANARIES)
    if not canaries:
        return None
    reads = f"lowest cosine of {canaries} canaries' vectors, made again, to those kept"
    return Measured(staged.report(Step.CHECK_CANARIES).lowest["cosine"], reads)


@at_least(MIN_PIN_VECTORS_COSINE, advice="--pins: is it of another space than it says?")
def pin_vectors_cosine(staged: StagedRelease) -> Measured | None:
    """The vectors of the canaries' pins are not those kept: another space under the same name."""
    pins = staged.count(Step.CHECK_CANARIES, Counter.CANARY_PINS)
    if not pins:
        return None
    reads = f"median cosine of {pins:,} pins' vectors to those kept with the canaries"
    return Measured(staged.report(Step.CHECK_CANARIES).lowest["pin_vectors_cosine"], reads)
