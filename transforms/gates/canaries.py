"""Gates on the canaries: users whose history is frozen must get the same vector every night."""

from transforms.gates.gate import Gate, at_least
from transforms.gates.thresholds import Thresholds
from transforms.step_reports import StageReport


def check_canaries(reports: dict[str, StageReport], thresholds: Thresholds) -> list[Gate]:
    """The worst canary, everything frozen; and how far the vectors of the canaries' pins have moved since."""
    found = reports.get("check_canaries", StageReport())
    gates = []
    if found.counters.get("canaries", 0):
        words = f"lowest cosine of {found.counters['canaries']} canaries' vectors, made again, to those kept"
        gates.append(at_least("canaries_cosine", found.lowest["cosine"], thresholds.min_canary_cosine, words))
    if found.counters.get("canary_pins", 0):
        words = f"median cosine of {found.counters['canary_pins']:,} pins' vectors to those kept with the canaries"
        measured = found.lowest["pin_vectors_cosine"]
        gates.append(at_least("pin_vectors_cosine", measured, thresholds.min_pin_vectors_cosine, words))
    return gates
