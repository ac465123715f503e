"""What a backfill decides and says before it starts."""

import pytest

from pipelines.cli import main
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


WRONG = {
    "the end before the start": (["--start=2026-11-03", "--end=2026-11-02"], 2, "--end 2026-11-02: before"),
    "nothing to start from": (["--start=2026-11-02", "--end=2026-11-03"], 2, "--bootstrap-from DATE"),
    "a bootstrap after the start": (
        ["--start=2026-11-02", "--end=2026-11-03", "--bootstrap-from=2026-11-03"],
        2,
        "later than --start",
    ),
    "a date that is none": (["--start=2026-11-31", "--end=2026-12-01"], 2, "'2026-11-31' is not a date"),
    "a first day that is missing": (
        ["--start=2026-11-09", "--end=2026-11-12", "--bootstrap-from=2026-11-09"],
        1,
        "ds=2026-11-09: missing partition",
    ),
    "nowhere to publish": (
        ["--start=2026-11-01", "--end=2026-11-02", "--bootstrap-from=2026-11-01", "--publish=last"],
        2,
        "--kv is missing",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_use_is_refused_before_anything_is_written(case, backfill_world, tmp_path, capsys):
    flags, code, words = WRONG[case]
    root = tmp_path / "root"
    assert main(["backfill", f"--root={root}", *backfill_world, "--publish=none", *flags]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said
    assert not (root / "CURRENT").exists() and not (root / "staging").exists()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(backfill_world, tmp_path, capsys):
    root = tmp_path / "root"
    dates = [f"--start={day(0)}", f"--end={day(4)}", f"--bootstrap-from={day(0)}"]
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=4"]
    arguments = ["backfill", f"--root={root}", *backfill_world, *dates, "--dry-run", "--user-buckets=3", *workers]
    assert main([*arguments, "--days-per-pass=2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("5: 2026-11-01 .. 2026-11-05", "3 of at most 2 days", "WARNING 1 of 4 workers will be idle"):
        assert words in said
    assert not root.exists()
