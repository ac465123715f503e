"""`daily --wait`: a night that is started before its day of logs is complete."""

import datetime
import time
from collections.abc import Callable

from stores.errors import InputError
from stores.partitions import complete_at, list_data_files, list_partitions

LOOK_EVERY_S = 30.0  # a listing of one folder
SAY_EVERY_S = 900.0


def wait_for_day(
    logs: str,
    day: datetime.date,
    min_age_s: float,
    wait_s: float,
    say: Callable[[str], None],
    *,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Returns when a partition is complete: it has `_SUCCESS`, or is older than `min_age_s`.

    Says what it waits for at once, when that changes, and every quarter of an hour. Nothing is held meanwhile: other
    commands may run on the root.

    Args:
        logs: The folder of the partitions.
        day: The partition.
        wait_s: For so long at most.
        now, sleep: The clock, in seconds since 1970.

    Raises:
        InputError: the day was not complete in time; or the folder cannot be read at all.
    """
    until, said, next_said = now() + wait_s, "", 0.0
    while True:
        ready, missing = _look(logs, day, min_age_s)
        if ready is not None and now() >= ready:
            return
        if now() >= until:
            raise InputError(
                f"--wait: {missing}, after {_shown(wait_s)}; look at what writes the logs, and run this again"
            )
        if missing != said or now() >= next_said:
            say(f"waiting until {_clock(until)} UTC at most: {missing}")
            said, next_said = missing, now() + SAY_EVERY_S
        # A partition that is left alone is complete at a time that is known.
        wake = min(until, ready if ready is not None else until)
        sleep(max(0.01, min(LOOK_EVERY_S, wake - now())))


def _look(logs: str, day: datetime.date, min_age_s: float) -> tuple[float | None, str]:
    """When a day is complete as it stands, None where it is not there; and what is missing, in words."""
    folder = list_partitions(logs).get(day)
    if folder is None:
        return None, f"{logs}: ds={day} is not there"
    ready = complete_at(folder, list_data_files(folder), min_age_s)
    return ready, f"{folder} has no _SUCCESS; left alone it is complete at {_clock(ready)} UTC, by --min-age"


def _shown(seconds: float) -> str:
    """A duration in words: 2 h, 15 min, 90 s."""
    size, unit = next((one for one in ((3600, "h"), (60, "min")) if seconds % one[0] == 0), (1, "s"))
    return f"{seconds / size:g} {unit}"


def _clock(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")
