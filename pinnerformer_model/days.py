"""UTC days and moments: a moment is int64 milliseconds since 1970-01-01."""

import datetime

DAY_MS = 86_400_000
EPOCH = datetime.date(1970, 1, 1)


def midnight_ms(day: datetime.date) -> int:
    """The moment at which a day begins."""
    return (day - EPOCH).days * DAY_MS


def day_of(moment_ms: int) -> datetime.date:
    """The day that a moment is in."""
    return EPOCH + datetime.timedelta(moment_ms // DAY_MS)
