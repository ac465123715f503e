"""Gates that compare tonight with the last releases."""

import dataclasses
import datetime

import pytest

from stores.manifests import Manifest
from tests.transforms.gates.releases import closed, manifest_of, staged_of
from transforms.gates import check_gates
from transforms.gates.trends import (
    active_against_week,
    active_against_weekday,
    rows_against_week,
    rows_against_weekday,
    vectorless_rise,
    vectorless_share,
)

AGAINST_NIGHTS = (rows_against_week, rows_against_weekday, active_against_week, active_against_weekday)
MONDAY = datetime.date(2026, 11, 2)


def nights(rows: list[int], active: list[int] | None = None, step: int = 1) -> list[Manifest]:
    """Releases of consecutive days, newest first; the first of them is the root's first."""
    made = []
    for number, count in enumerate(rows):
        date = (MONDAY + datetime.timedelta(number * step)).isoformat()
        counters = {
            "read_logs": {"rows_read": count},
            "update_histories": {"users_changed": active[number] if active else 100},
            "join_vectors": {"tokens": 900, "tokens_without_vector": 100},
        }
        previous = made[0].release if made else None
        base = manifest_of(20, 30, 30)
        made.insert(0, dataclasses.replace(base, release=date, date=date, previous=previous, counters=counters))
    return made


def closed_trends(releases: list[Manifest]) -> list[str]:
    return closed(AGAINST_NIGHTS, staged_of(releases[0], releases[1:]))


def test_half_of_an_export():
    assert closed_trends(nights([9000, 100, 110, 90, 100, 30])) == []  # no weekday to compare with yet
    assert closed_trends(nights([9000, 100, 110, 90, 100, 20])) == ["rows_against_week"]
    assert closed_trends(nights([9000, 100, 110, 90, 100, 500])) == ["rows_against_week"]
    assert closed_trends(nights([9000, 100, 110, 90, 100, 0])) == ["rows_against_week"]
    assert closed_trends(nights([9000, 100, 100, 2])) == []  # too few to say


def test_a_sunday_is_compared_with_sundays():
    week = [1000, 1000, 1000, 1000, 1000, 400, 300]
    assert closed_trends(nights([1000, *week[1:], *week[:6], 280])) == []
    assert closed_trends(nights([1000, *week[1:], *week[:6], 900])) == ["rows_against_weekday"]


def test_active_users_are_held_to_the_same():
    rows = [100] * 9
    assert closed_trends(nights(rows, [50] * 8 + [45])) == []
    assert closed_trends(nights(rows, [50] * 8 + [10])) == ["active_against_week", "active_against_weekday"]


def test_a_night_that_caught_up_is_compared_by_rows_a_day():
    releases = nights([9000, 100, 100, 100, 100])
    caught_up = dataclasses.replace(releases[0], release="x", date="2026-11-09", previous=releases[0].release)
    found = check_gates(AGAINST_NIGHTS, staged_of(caught_up, releases))
    assert found[0].measured == pytest.approx(100 / (100 / 3))
    assert {gate.name for gate in found} <= {"rows_against_week", "rows_against_weekday"}
    again = dataclasses.replace(releases[0], release="2026-11-06.2", previous=releases[0].release)
    assert check_gates(AGAINST_NIGHTS, staged_of(again, releases)) == []  # it reads late files only


def test_tokens_without_a_vector():
    def closed_with(without: int) -> list[str]:
        releases = nights([100] * 4)
        counters = {"join_vectors": {"tokens": 1000 - without, "tokens_without_vector": without}}
        staged = dataclasses.replace(releases[0], counters=counters)
        return closed((vectorless_share, vectorless_rise), staged_of(staged, releases[1:]))

    assert closed_with(190) == []
    assert closed_with(210) == ["vectorless_rise"]
    assert closed_with(610) == ["vectorless_share", "vectorless_rise"]
