"""Gates on what users would be answered: recall of the index against exact search, and how many pins are answers."""

from typing import Any

from pinnerformer_model.collapse import most_covering_pins
from transforms.gates.gate import Measured, at_least, at_most
from transforms.gates.sample import RECALL_USERS, Sample, SampleFigures, find_ef_of, sample_of, seed_of
from transforms.gates.staged import StagedRelease
from transforms.gates.thresholds import Threshold

MIN_RECALL = Threshold("min_recall_at_10", 0.95, "recall of the index against exact search over all shards")
MIN_COVERAGE_PINS = Threshold("min_coverage_pins", 10, "pins that make up 90 % of the top 10 of the users drawn")
MIN_COVERAGE_SHARE = Threshold(
    "min_coverage_share", 0.03, "such pins, as a share of the most that so many users could be answered"
)
MAX_COVERAGE_FALL = Threshold("max_coverage_fall", 3.0, "times fewer such pins than in the previous release")


@at_least(MIN_RECALL, settings=(RECALL_USERS,), advice="a larger --index-ef-construction or --index-m")
def index_recall_at_10(staged: StagedRelease) -> Measured | None:
    """The index misses too many of the ten pins that exact search over all shards finds for users drawn at random."""
    sample = sample_of(staged)
    if sample is None:
        return None
    reads = f"recall@10 of the index at ef {sample.ef}, {sample.users:,} users drawn with seed {sample.seed}"
    return Measured(sample.recall, reads)


@at_least(MIN_COVERAGE_PINS, advice="the model: a handful of pins is everybody's answer")
def coverage_pins(staged: StagedRelease) -> Measured | None:
    """Popularity collapse: the pins that make up 90 % of the top 10 of users drawn at random are a handful."""
    sample = sample_of(staged)
    if sample is None or not tells_coverage(sample):
        return None
    pins, share = sample.covering_pins, sample.covering_pins / sample.pins
    reads = f"pins that make up 90 % of the top 10 of {sample.users:,} users (P90 coverage@10 {share:.4f})"
    return Measured(pins, reads)


@at_least(MIN_COVERAGE_SHARE, advice="the model: most users are answered the same few pins")
def coverage_share(staged: StagedRelease) -> Measured | None:
    """The pins that make up 90 % of the top 10 of users drawn are few, beside the most that so many users allow.

    A thousand users have ten thousand answers, 90 % of which are 9,000 pins at most; a hundred users 900. A limit in
    pins closes early on few users, or never on many.
    """
    sample = sample_of(staged)
    if sample is None or not tells_coverage(sample):
        return None
    most = most_covering_pins(sample.users, sample.answers, sample.pins)
    reads = f"of {most:,} pins that 90 % of the top 10 of {sample.users:,} users could be, {sample.covering_pins:,} are"
    return Measured(sample.covering_pins / most, f"{reads}, as a share")


@at_most(MAX_COVERAGE_FALL, advice="what changed since yesterday: the model, --pins")
def coverage_fall(staged: StagedRelease) -> Measured | None:
    """Popularity collapse: the pins that make up 90 % of the top 10 are many times fewer than before."""
    sample, previous = sample_of(staged), staged.previous
    if sample is None or previous is None or not tells_coverage(sample):
        return None
    before = previous.settings.get("index", {})
    # A release that drew more users had more answers, and so more pins: to have fewer than that is no fall.
    if not before.get("coverage_pins") or before["recall_users"] > sample.users:
        return None
    fall = before["coverage_pins"] / max(1, sample.covering_pins)
    reads = f"such pins in {previous.release}: {before['coverage_pins']:,}, now {sample.covering_pins:,}, as a factor"
    return Measured(fall, reads)


def tells_coverage(sample: Sample | SampleFigures) -> bool:
    """Whether coverage says anything: of one user, or of fewer than twenty pins, it does not."""
    return sample.users >= 2 and sample.pins >= 20


def index_settings(staged: StagedRelease) -> dict[str, Any]:
    """What the manifest keeps of the sample under `settings.index`.

    Returns:
        `ef_search`, which the release is served with, `recall_at_10`, `recall_users`, `recall_seed`, `coverage_pins`,
        `p90_coverage_at_10`.
    """
    sample = sample_of(staged)
    return {
        "ef_search": sample.ef if sample else find_ef_of(staged),
        "recall_at_10": sample.recall if sample else None,
        "recall_users": sample.users if sample else 0,
        "recall_seed": seed_of(staged),
        "coverage_pins": sample.covering_pins if sample else None,
        "p90_coverage_at_10": sample.covering_pins / sample.pins if sample else None,
    }
