"""Gates that look back: whether last night's vectors had foreseen tonight's acts, and whether towers and pins match."""

import statistics
from typing import Any

from stores.manifests import Manifest
from transforms.gates.gate import CannotSee, Measured, at_least, at_most
from transforms.gates.rhythm import error_of_share
from transforms.gates.staged import StagedRelease
from transforms.gates.thresholds import Threshold
from transforms.gates.usual import SIGMAS, Usual, is_backfilled, usual_of, was_closed
from transforms.margins import FEWEST

MAX_HINDSIGHT_FALL = Threshold(
    "max_hindsight_fall", 0.2, "fall of the margin of last night's vectors on tonight's acts, as a share of the usual"
)
MIN_CONSISTENCY = Threshold("min_consistency", 0.05, "margin of tonight's vectors on the acts that they contain")
MAX_NEW_MODEL_LOSS = Threshold(
    "max_new_model_loss", 0.0, "margin that a new model may lose against the served one, beyond chance"
)
MAX_PINS_MOVED = Threshold(
    "max_pins_moved", 0.05, "share of the pins looked at that moved while others did not, above the usual"
)
MAX_ENGAGED_VECTORLESS_RISE = Threshold(
    "max_engaged_vectorless_rise", 0.1, "how far the share of acts on pins without a vector may be above the usual"
)
HINDSIGHT = "hindsight"  # the key under a manifest's `statistics`, see `transforms.hindsight`
GUESS = 0.05  # of the usual margin, its spread from night to night where few are known: `transforms.gates.usual`
FEW = f"fewer than {FEWEST} of tonight's users have acts that can be ranked"


def hindsight_of(manifest: Manifest) -> dict[str, Any]:
    """What a manifest keeps of its look back; empty in one of an older version."""
    return manifest.statistics.get(HINDSIGHT, {})


def usual_margins(staged: StagedRelease, judged: dict[str, Any]) -> Usual | None:
    """The margins of the usual nights: vectors of the same model, one day old, of nights of tonight's kind."""
    figures, errors = [], []
    for manifest in staged.chain:
        found = hindsight_of(manifest)
        foresight = found.get("foresight")
        alike = foresight and found["model"] == judged["model"] and found["days"] == 1
        alike = alike and is_backfilled(manifest) == is_backfilled(staged.manifest)
        if foresight and alike and not was_closed(manifest, hindsight_fall.name):
            figures.append(foresight["margin"])
            errors.append(foresight["error"])
    return usual_of(figures, errors, GUESS * statistics.median(figures)) if figures else None


@at_most(MAX_HINDSIGHT_FALL, advice="the newest partitions: do users, pins and rows still belong together?")
def hindsight_fall(staged: StagedRelease) -> Measured | CannotSee | None:
    """Last night's vectors foresaw tonight's acts much less than usual, beyond chance."""
    found = hindsight_of(staged.manifest)
    usual = usual_margins(staged, found) if found.get("judged") and found["days"] > 0 else None
    if usual is None:
        return None
    tonight = found["foresight"]
    if tonight is None:
        return CannotSee(FEW)
    floor = staged.thresholds[MAX_HINDSIGHT_FALL]
    allowed = usual.allowed(floor * usual.middle, tonight["error"])
    if usual.middle < SIGMAS * usual.error or allowed >= usual.middle:
        return CannotSee(
            f"the usual margin, {usual.middle:.4f}, is under three errors ({usual.error:.4f} between users, "
            f"{usual.spread:.4f} between nights): the vectors foresee too little to tell, or too few users act"
        )
    reads = (
        f"fall of the margin of {found['judged']}'s vectors on the acts of {tonight['users']:,} users: "
        f"{tonight['margin']:.4f} against a usual {usual.middle:.4f} ({usual.nights} releases), as a share"
    )
    return Measured(1 - tonight["margin"] / usual.middle, reads, allowed / usual.middle - floor)


@at_least(MIN_CONSISTENCY, advice="--model: do its user tower and its pin tower belong together?")
def consistency(staged: StagedRelease) -> Measured | CannotSee | None:
    """Tonight's user vectors do not find the very acts that they were made from among tonight's pin vectors."""
    found = hindsight_of(staged.manifest)
    if not found:
        return None
    tonight = found["consistency"]
    if tonight is None:
        return CannotSee(FEW)
    limit, chance = staged.thresholds[MIN_CONSISTENCY], SIGMAS * tonight["error"]
    if tonight["margin"] < chance and chance >= limit:
        return CannotSee(f"{tonight['users']:,} users are too few: chance alone explains a margin of {chance:.4f}")
    reads = f"margin of tonight's vectors on {tonight['users']:,} users' own acts"
    return Measured(tonight["margin"], reads, -min(chance, limit))


@at_most(MAX_NEW_MODEL_LOSS, advice="--model: what was it trained on, and how well did it do there?")
def new_model_hindsight(staged: StagedRelease) -> Measured | CannotSee | None:
    """A new model, on histories as they stood last night, foresees tonight's acts less than what was served, beyond
    chance.
    """
    found = hindsight_of(staged.manifest).get("new_model")
    if not found:
        return None
    judged = found["judged"]
    if judged is None:
        seen = "it was trained on tonight, and too few users were held out" if found["saw_tonight"] else FEW
        return CannotSee(f"the new model cannot be judged: {seen}")
    reads = f"margin lost: {judged['served']:.4f} served, {judged['new']:.4f} new, {judged['users']:,} users"
    if found["saw_tonight"]:
        reads += " that its training held out"
    return Measured(judged["margin"], reads, SIGMAS * judged["error"])


def share_moved(figures: dict[str, Any]) -> float | None:
    """Share of the pins looked at that moved; None where none could be compared."""
    pins = figures.get("pins")
    return pins["moved"] / pins["pins"] if pins else None


@at_most(MAX_PINS_MOVED, advice="--pins: were some rows written under other pins' ids?")
def pins_moved(staged: StagedRelease) -> Measured | CannotSee | None:
    """Pins' embeddings moved since the previous release while others' did not, more than usually."""
    found = hindsight_of(staged.manifest)
    share = share_moved(found)
    if share is None:
        if found.get("new_model") is not None:
            return CannotSee("under a new model no pin is where it was")
        return None
    before = sorted(s for s in (share_moved(hindsight_of(m)) for m in staged.chain[:7]) if s is not None)
    usual = before[len(before) // 2] if before else 0.0
    pins = found["pins"]
    reads = f"share of {pins['pins']:,} pins that moved, above the usual {usual:.4f}"
    return Measured(share - usual, reads, SIGMAS * (usual * (1 - usual) / pins["pins"]) ** 0.5)


def acts_without_vector(manifest: Manifest) -> tuple[float, int] | None:
    """The share of a night's acts whose pin has no vector, and the users whose acts they are."""
    found = hindsight_of(manifest).get("engaged")
    return (found["acts_without_vector"] / found["acts"], found["users"]) if found else None


@at_most(
    MAX_ENGAGED_VECTORLESS_RISE,
    advice="--pins: are new pins in it? `item-vectors --fold-in` before `daily`, or the export: did it run?",
)
def engaged_vectorless(staged: StagedRelease) -> Measured | None:
    """The share of tonight's acts that are on pins without a vector is far above the usual, beyond chance."""
    tonight = acts_without_vector(staged.manifest)
    before = [found for found in map(acts_without_vector, staged.chain) if found is not None]
    if tonight is None or not before:
        return None
    figures = hindsight_of(staged.manifest)["engaged"]
    usual = usual_of([share for share, _ in before], [error_of_share(*found) for found in before], 0.0)
    reads = (
        f"{figures['pins_without_vector']:,} of the {figures['pins']:,} pins engaged with have no vector, "
        f"{tonight[0]:.4f} of the acts; above the usual {usual.middle:.4f} ({usual.nights} releases)"
    )
    chance = usual.allowed(0.0, error_of_share(usual.middle, tonight[1]))
    return Measured(tonight[0] - usual.middle, reads, chance)
