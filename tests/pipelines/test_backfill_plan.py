"""Which days of a backfill get a release, and in how many passes they are made."""

from pipelines.planning.backfill_plan import release_days, split_into_passes
from tests.worlds import day


def test_which_days_get_a_release():
    assert release_days(day(0), day(2), "every-day") == [day(0), day(1), day(2)]
    assert release_days(day(0), day(15), "weekly") == [day(1), day(8), day(15)]
    assert release_days(day(3), day(3), "weekly") == [day(3)] == release_days(day(3), day(3), "last")


def test_passes_are_cut_by_memory_and_by_hand():
    days = list(range(10))
    assert [len(part) for part in split_into_passes(days, 100, 450, None)] == [4, 4, 2]
    assert [len(part) for part in split_into_passes(days, 100, 50, None)] == [1] * 10
    assert [len(part) for part in split_into_passes(days, 100, None, None)] == [10]
    assert [len(part) for part in split_into_passes(days, 100, None, 3)] == [3, 3, 3, 1]
    assert split_into_passes([], 100, 450, None) == []
