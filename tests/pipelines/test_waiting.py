import datetime
import os

import pytest

from pipelines.launch import waiting
from pipelines.launch.waiting import wait_for_day
from stores.errors import InputError

DAY = datetime.date(2026, 11, 5)
HOUR = 3600.0


class Clock:
    """A clock that sleeping moves on; things happen at their time."""

    def __init__(self, start):
        self.time, self.events, self.said = start, [], []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
        for event in [e for e in self.events if e[0] <= self.time]:
            self.events.remove(event)
            event[1]()


@pytest.fixture
def logs(tmp_path):
    write(tmp_path, datetime.date(2026, 11, 4), 0)
    return tmp_path


def write(logs, day, at, name="part.parquet"):
    folder = logs / f"ds={day}"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"rows")
    for path in (folder / name, folder):
        os.utime(path, (at, at))


def wait(logs, clock, hours, min_age=6 * HOUR):
    wait_for_day(str(logs), DAY, min_age, hours * HOUR, clock.said.append, now=clock.now, sleep=clock.sleep)


def test_a_day_that_is_complete_is_not_waited_for(logs):
    clock = Clock(100 * HOUR)
    write(logs, DAY, 93 * HOUR)
    wait(logs, clock, 8)
    assert clock.time == 100 * HOUR and not clock.said


def test_success_ends_the_wait_within_half_a_minute(logs):
    clock = Clock(100 * HOUR)
    write(logs, DAY, 99 * HOUR)
    clock.events.append((101 * HOUR, lambda: (logs / f"ds={DAY}" / "_SUCCESS").touch()))
    wait(logs, clock, 8)
    assert 101 * HOUR <= clock.time <= 101 * HOUR + 30
    assert "no _SUCCESS" in clock.said[0] and "--min-age" in clock.said[0]


def test_a_partition_that_is_left_alone_is_waited_for_until_its_age(logs):
    clock = Clock(100 * HOUR)
    write(logs, DAY, 99 * HOUR)
    # Something comes late: its age counts from there.
    clock.events.append((102 * HOUR, lambda: write(logs, DAY, 102 * HOUR, "late.parquet")))
    wait(logs, clock, 12)
    assert clock.time == pytest.approx(108 * HOUR, abs=1)
    assert len({line for line in clock.said}) == 2, "what is waited for changed once"


def test_a_day_that_is_not_there_yet_is_waited_for_by_name(logs):
    clock = Clock(100 * HOUR)

    def comes():
        write(logs, DAY, 101 * HOUR)
        (logs / f"ds={DAY}" / "_SUCCESS").touch()

    clock.events.append((101 * HOUR, comes))
    wait(logs, clock, 8)
    assert clock.time <= 101 * HOUR + 30
    assert "ds=2026-11-05 is not there" in clock.said[0]


def test_it_says_so_every_quarter_of_an_hour_and_gives_up_in_time(logs):
    clock = Clock(100 * HOUR)
    with pytest.raises(InputError, match="--wait: .*ds=2026-11-05 is not there, after 2 h"):
        wait(logs, clock, 2)
    assert clock.time == pytest.approx(102 * HOUR, abs=1)
    assert 7 <= len(clock.said) <= 9


@pytest.mark.parametrize(("seconds", "words"), [(7200, "2 h"), (900, "15 min"), (4, "4 s"), (5400, "90 min")])
def test_how_long_it_waited_is_said_as_it_is_typed(seconds, words):
    assert waiting._shown(seconds) == words
