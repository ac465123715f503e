"""Days and moments."""

import datetime

from pinnerformer_model.days import DAY_MS, day_of, midnight_ms


def test_a_day_begins_at_midnight_utc():
    assert midnight_ms(datetime.date(1970, 1, 2)) == DAY_MS == 24 * 60 * 60 * 1000
    begin = midnight_ms(datetime.date(2024, 2, 29))
    assert datetime.datetime.fromtimestamp(begin / 1000, datetime.UTC) == datetime.datetime(
        2024, 2, 29, tzinfo=datetime.UTC
    )
    assert [day_of(begin + ms) for ms in (-1, 0, DAY_MS - 1, DAY_MS)] == [
        datetime.date(2024, 2, 28),
        datetime.date(2024, 2, 29),
        datetime.date(2024, 2, 29),
        datetime.date(2024, 3, 1),
    ]
    assert midnight_ms(datetime.date(1969, 12, 31)) == -DAY_MS
