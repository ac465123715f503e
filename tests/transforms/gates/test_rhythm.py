"""Gates on the rhythm of the rows: per user, by the hour, and with words that the model knows."""

import dataclasses
import datetime
import math

import numpy as np
import pytest

from stores.manifests import Manifest
from tests.transforms.gates.releases import closed, manifest_of, staged_of
from transforms.gates import check_gates
from transforms.gates.rhythm import HOURS, hours_shift, rows_per_user, vocabulary_rise
from transforms.read_logs import count_hours

GATES = (rows_per_user, hours_shift, vocabulary_rise)
FIRST = datetime.date(2026, 11, 2)
DAYTIME = np.r_[3, np.zeros(6), np.arange(1, 10), np.arange(9, 0, -1), 0].astype(int) * 100  # and a few rows come late


def night(number: int, users: int = 1000, rows: float = 8.0, hours: np.ndarray = DAYTIME, unknown: int = 0) -> Manifest:
    date = (FIRST + datetime.timedelta(number)).isoformat()
    new = int(rows * users)
    counters = {"rows_new": new + 5, "rows_repeated": 5, "users_changed": users}
    counters |= {"rows_added": new, "rows_out_of_vocabulary": unknown}
    return dataclasses.replace(
        manifest_of(1, 1, 1),
        release=date,
        date=date,
        counters={"update_histories": counters},
        statistics={HOURS: hours.tolist()},
    )


def week(**more) -> list[Manifest]:
    """Nights 0 to 8, newest first; the oldest is the root's first."""
    return [night(number, rows=8 + 0.1 * (number % 3), **more) for number in range(8, -1, -1)]


def closed_on(tonight: Manifest, chain: list[Manifest]) -> list[str]:
    return closed(GATES, staged_of(tonight, chain))


def test_a_night_as_usual():
    assert closed_on(night(9), week()) == []
    assert len(check_gates(GATES, staged_of(night(9), week()))) == 3


def test_half_of_the_rows_of_every_user():
    assert closed_on(night(9, rows=4), week()) == ["rows_per_user"]
    assert closed_on(night(9, rows=16), week()) == ["rows_per_user"]
    assert closed_on(night(9, rows=6.5), week()) == []
    assert closed_on(night(9, rows=4, users=30), week()) == []  # too few users to tell
    (gate,) = check_gates([rows_per_user], staged_of(night(9, rows=4), week()))
    assert gate.measured == pytest.approx(math.log(8.1 / 4), abs=0.02) and gate.threshold == pytest.approx(0.25)


def test_a_weekday_is_compared_with_its_own_kind():
    chain = [night(n, rows=4 if n % 7 == 2 else 8) for n in range(22, -1, -1)]
    assert closed_on(night(23, rows=4), chain) == []
    assert closed_on(night(23, rows=8), chain) == ["rows_per_user"]
    assert closed_on(night(24, rows=4), [night(23, rows=4), *chain]) == ["rows_per_user"]
    assert closed_on(night(9, rows=4), [n for n in chain if n.day < FIRST + datetime.timedelta(9)]) == []  # the second


def test_hours():
    assert closed_on(night(9, hours=DAYTIME * 2), week()) == []  # more of them, at the same hours
    at_midnight = np.zeros(26, int)
    at_midnight[1] = DAYTIME.sum()
    assert closed_on(night(9, hours=at_midnight), week()) == ["hours_shift"]
    assert closed_on(night(9, hours=np.roll(DAYTIME, -8)), week()) == ["hours_shift"]
    half = np.where(np.arange(26) < 13, DAYTIME, 0)
    assert closed_on(night(9, hours=half), week()) == ["hours_shift"]
    assert closed_on(night(9, hours=np.roll(DAYTIME, 1)), week(users=60)) == []  # chance of so few users


def test_hours_of_other_days_are_not_compared():
    """Since a change of --day-offset an hour is another moment: the gate waits until it knows the new days."""
    tonight = dataclasses.replace(
        night(9, hours=np.roll(DAYTIME, -8)), settings={"partition_days": {"day_offset_s": 1}}
    )
    assert closed_on(tonight, week()) == []
    alike = [dataclasses.replace(before, settings=tonight.settings) for before in week()]
    assert closed_on(tonight, alike) == ["hours_shift"]


def test_words_that_the_model_does_not_know():
    assert closed_on(night(9, unknown=800), week()) == ["vocabulary_rise"]
    assert closed_on(night(9, unknown=300), week()) == []
    assert closed_on(night(9, unknown=800), week(unknown=700)) == []  # as ever
    assert closed_on(night(1, unknown=800), [night(0)]) == ["vocabulary_rise"]  # from the second release on


def test_a_few_users_with_many_unknown_rows_are_chance():
    # Seven users of a hundred with nothing but unknown words, on the second night of a root.
    few = {"users": 100, "rows": 10.0}
    assert closed_on(night(1, unknown=70, **few), [night(0, **few)]) == []
    assert closed_on(night(1, unknown=130, **few), [night(0, **few)]) == ["vocabulary_rise"]
    many = {"users": 10_000, "rows": 10.0}
    assert closed_on(night(1, unknown=7_000, **many), [night(0, **many)]) == ["vocabulary_rise"]


def test_the_limit_of_unknown_words_is_the_formula():
    chain = [night(9 - n, users=100, rows=10, unknown=unknown) for n, unknown in enumerate([200, 160, 240])]
    (gate,) = check_gates([vocabulary_rise], staged_of(night(10, users=50, rows=10, unknown=150), chain))

    def variance(share: float, users: int) -> float:
        p = (share * users + 1) / (users + 2)
        return p * (1 - p) * (1 + 1.5**2) / users

    e2 = (variance(0.2, 100) + variance(0.16, 100) + variance(0.24, 100)) / 3
    s2 = (3 * e2 + 2 * 0.04**2) / (3 + 3 - 1)
    assert gate.measured == pytest.approx(0.1)
    assert gate.threshold == pytest.approx(0.05 + 3 * (s2 * (1 + 1 / 3) + variance(0.2, 50) - e2) ** 0.5)


def test_less_than_a_week_is_no_rhythm_and_a_catch_up_is_no_night():
    assert closed_on(night(6, rows=1, hours=DAYTIME[::-1]), week()[-6:]) == []
    assert closed_on(night(11, rows=1, hours=DAYTIME[::-1]), week()) == []
    caught_up = [night(12, rows=1), *week()]
    assert closed_on(night(13, rows=1), caught_up) == ["rows_per_user"]
    (gate,) = check_gates([rows_per_user], staged_of(night(13, rows=1), caught_up))
    assert "to the usual 8.10 (8 releases)" in gate.reads


def test_what_hours_are_counted():
    hour = 3_600_000
    midnight = 24 * hour
    at = np.array([0, 24 * hour - 1, 24 * hour, 25 * hour + 1, 48 * hour - 1, 48 * hour]) + 0
    found = count_hours(at, midnight)
    assert (found[[0, 1, 2, 24, 25]].tolist(), found.sum()) == ([2, 1, 1, 1, 1], 6)
    assert count_hours(at[:0], midnight).tolist() == [0] * 26
