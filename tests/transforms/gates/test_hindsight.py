"""Gates that look back: what closes them, and when they say that they cannot see."""

import dataclasses
import datetime
from typing import Any

import pytest

from stores.manifests import Manifest
from tests.transforms.gates.releases import closed, manifest_of, staged_of
from transforms.gates import blind_gates, check_gates
from transforms.gates.hindsight import (
    HINDSIGHT,
    consistency,
    engaged_vectorless,
    hindsight_fall,
    new_model_hindsight,
    pins_moved,
)

GATES = (hindsight_fall, consistency, new_model_hindsight, pins_moved)
FIRST = datetime.date(2026, 11, 2)


def figures(margin: float, error: float, users: int = 1000) -> dict[str, Any]:
    return {"margin": margin, "error": error, "users": users}


def night(number: int, foresight: dict | None, run: str = "daily-x", **more) -> Manifest:
    date = (FIRST + datetime.timedelta(number)).isoformat()
    found = {"judged": "before", "model": "m", "days": 1, "foresight": foresight}
    found |= {"consistency": figures(0.3, 0.005), "new_model": None, "pins": None, **more}
    gates = more.pop("gates", [])
    return dataclasses.replace(
        manifest_of(1, 1, 1),
        release=date,
        date=date,
        settings={"run": run},
        statistics={HINDSIGHT: {name: value for name, value in found.items() if name != "gates"}},
        gates=gates,
    )


def usual(count: int, margin: float = 0.2, error: float = 0.007, **more) -> list[Manifest]:
    """Nights before number 10, newest first."""
    return [night(9 - n, figures(margin + 0.002 * (-1) ** n, error), **more) for n in range(count)]


def verdict(tonight: Manifest, chain: list[Manifest]) -> tuple[list[str], list[str]]:
    staged = staged_of(tonight, chain)
    return closed(GATES, staged), list(blind_gates(GATES, staged))


@pytest.mark.parametrize("nights", [1, 2, 6])
def test_half_of_the_margin_is_a_fall(nights):
    assert verdict(night(10, figures(0.10, 0.007)), usual(nights)) == (["hindsight_fall"], [])
    assert verdict(night(10, figures(0.17, 0.007)), usual(nights)) == ([], [])
    assert verdict(night(10, figures(0.30, 0.007)), usual(nights)) == ([], [])


def test_the_limit_is_the_formula():
    chain = [night(9 - n, figures(m, 0.01)) for n, m in enumerate([0.2, 0.16, 0.24])]
    (gate,) = check_gates([hindsight_fall], staged_of(night(10, figures(0.15, 0.02)), chain))
    spread2 = (3 * (0.01**2 + (0.05 * 0.2) ** 2) + 2 * 0.04**2) / (3 + 3 - 1)
    assert gate.measured == pytest.approx(0.25)
    assert gate.threshold == pytest.approx(3 * (spread2 * (1 + 1 / 3) + 0.02**2 - 0.01**2) ** 0.5 / 0.2)
    (gate,) = check_gates([hindsight_fall], staged_of(night(10, figures(0.15, 0.001)), usual(14, error=0.001)))
    assert gate.threshold == pytest.approx(0.2)  # the floor


def test_the_first_two_releases_have_no_usual():
    assert verdict(night(10, None, judged=None, model=None, days=0), []) == ([], [])
    assert verdict(night(10, figures(0.0, 0.007)), [night(9, None, judged=None)]) == ([], [])


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"days": 3},  # it caught up
        {"run": "backfill-x"},
        {"gates": [{"name": "hindsight_fall", "passed": False, "forced": "an experiment"}]},
    ],
)
def test_what_is_nobodys_measure(other):
    chain = usual(4, margin=0.05, **other) + [night(1, figures(0.2, 0.007)), night(0, figures(0.2, 0.007))]
    assert verdict(night(10, figures(0.05, 0.007)), chain)[0] == ["hindsight_fall"]
    (gate,) = check_gates([hindsight_fall], staged_of(night(10, figures(0.05, 0.007)), chain))
    assert "a usual 0.2000 (2 releases)" in gate.reads


def test_the_nights_of_a_backfill_compare_among_themselves():
    chain = usual(3, margin=0.4, run="backfill-x") + usual(3, margin=0.2)
    assert verdict(night(10, figures(0.2, 0.007)), chain)[0] == []
    assert verdict(night(10, figures(0.2, 0.007), run="backfill-x"), chain)[0] == ["hindsight_fall"]


def test_where_it_cannot_see_it_does_not_pass():
    few = usual(6, margin=0.02, error=0.007)
    staged = staged_of(night(10, figures(0.0, 0.007)), few)
    assert check_gates([hindsight_fall], staged) == []
    assert "under three errors" in blind_gates(GATES, staged)["hindsight_fall"]
    assert verdict(night(10, None), usual(6)) == ([], ["hindsight_fall"])
    # One night of few users: even a margin of nothing would be chance.
    assert verdict(night(10, figures(0.0, 0.05)), usual(1, error=0.05)) == ([], ["hindsight_fall"])


def test_towers_that_do_not_match():
    def with_consistency(found: dict | None) -> tuple[list[str], list[str]]:
        return verdict(night(10, None, judged=None, consistency=found), [])

    assert with_consistency(figures(0.3, 0.005)) == ([], [])
    assert with_consistency(figures(0.01, 0.005)) == (["consistency"], [])
    assert with_consistency(figures(-0.2, 0.005)) == (["consistency"], [])
    assert with_consistency(figures(0.04, 0.005)) == ([], [])  # chance is allowed for
    assert with_consistency(figures(0.02, 0.03)) == ([], ["consistency"])
    assert with_consistency(figures(0.2, 0.03)) == ([], [])  # few users, and clear all the same
    assert with_consistency(None) == ([], ["consistency"])


def test_a_new_model():
    def judged(margin: float, error: float, saw: bool = False) -> tuple[list[str], list[str]]:
        found = {"until": "", "saw_tonight": saw, "judged": {**figures(margin, error), "served": 0.2, "new": 0.1}}
        return verdict(night(10, None, new_model=found), [])

    assert judged(0.05, 0.01) == (["new_model_hindsight"], ["pins_moved"])
    assert judged(0.02, 0.01) == judged(-0.2, 0.01) == ([], ["pins_moved"])
    found = {"until": "2026-12-01", "saw_tonight": True, "judged": None}
    said = blind_gates(GATES, staged_of(night(10, None, new_model=found), []))
    assert said["new_model_hindsight"].startswith("the new model cannot be judged: it was trained on tonight")


def test_pins_that_moved_beyond_the_usual():
    def moved(share: int) -> dict[str, Any]:
        return {"pins": 1000, "moved": share, "median_cosine": 1.0}

    assert verdict(night(10, None, pins=moved(90)), []) == (["pins_moved"], [])
    assert verdict(night(10, None, pins=moved(40)), []) == ([], [])
    restless = [night(9 - n, None, pins=moved(200)) for n in range(3)]
    assert verdict(night(10, None, pins=moved(240)), restless) == ([], [])
    assert verdict(night(10, None, pins=moved(300)), restless) == (["pins_moved"], [])


def test_releases_of_older_versions_say_nothing():
    old = dataclasses.replace(night(9, None), statistics={})
    assert check_gates(GATES, staged_of(old, [old])) == [] and blind_gates(GATES, staged_of(old, [old])) == {}


def engaged(without: int, acts: int = 4000, users: int = 1000) -> dict[str, int]:
    pins = {"pins": acts // 2, "pins_without_vector": without // 2}
    return {"users": users, "acts": acts, "acts_without_vector": without, **pins}


def test_new_pins_that_nobody_folded_in():
    def gate_of(tonight: dict | None, before: list[dict | None]):
        chain = [night(9 - n, None, engaged=one) for n, one in enumerate(before)]
        return next(iter(check_gates([engaged_vectorless], staged_of(night(10, None, engaged=tonight), chain))), None)

    usual_nights = [engaged(180), engaged(200), engaged(220)]
    found = gate_of(engaged(1200), usual_nights)
    assert found is not None and not found.passed and found.measured == pytest.approx(0.25)
    assert found.reads.startswith("600 of the 2,000 pins engaged with have no vector, 0.3000 of the acts")
    # e^2 = p (1 - p) (1 + 1.5^2) / users of a share p, to which one user of either kind is added
    found = gate_of(engaged(500), usual_nights)
    assert found is not None and found.passed
    shares = [(share * 1000 + 1) / 1002 for share in (0.045, 0.05, 0.055)]
    errors = [p * (1 - p) * 3.25 / 1000 for p in shares]
    spread2 = (3 * sum(errors) / 3 + 2 * 0.005**2) / 5
    tonight = max(0.0, errors[1] - sum(errors) / 3)
    assert found.threshold == pytest.approx(0.1 + 3 * (spread2 * (1 + 1 / 3) + tonight) ** 0.5)
    assert gate_of(engaged(1200), []) is None and gate_of(None, usual_nights) is None
    assert gate_of(engaged(1200), [None]) is None  # of a version before


def test_few_users_may_differ_by_chance():
    chain = [night(9, None, engaged=engaged(20, 400, 100))]
    for without, passes in ((60, True), (240, False)):
        (found,) = check_gates(
            [engaged_vectorless], staged_of(night(10, None, engaged=engaged(without, 400, 100)), chain)
        )
        assert found.passed == passes
