"""Plan: says what a night would do, and touches nothing."""

import os

from pipelines.cli import main
from pipelines.operations.plan import judge_buckets
from tests.pipelines.nights import make_world
from tests.worlds import day


def everything(folder: str) -> dict[str, tuple[bytes, int]]:
    found = {}
    for where, folders, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                found[path] = (file.read(), os.stat(path).st_mtime_ns)
        found |= {os.path.join(where, name): (b"", 0) for name in folders}
    return found


def test_it_says_what_a_night_would_do_and_writes_nothing(kept_nights, tmp_path, capsys):
    world = make_world(str(tmp_path))
    root = str(tmp_path / "root")
    plan = ["plan", f"--root={root}", *world.inputs, "--publish=none"]
    assert main([*plan, f"--date={day(0)}"]) == 2  # where from?
    assert main([*plan, f"--date={day(0)}", f"--bootstrap-from={day(0)}"]) == 0
    assert not os.path.exists(root)
    world, root = kept_nights.copy(2, str(tmp_path))
    before = everything(root)
    capsys.readouterr()
    assert main([*plan, f"--date={day(2)}"]) == 0
    said = capsys.readouterr().out
    rows = len(world.rows[2])
    assert f"{rows}" in said and "minutes of work" in said and "users to embed" in said and "enough" in said
    assert main([*plan, f"--date={day(9)}"]) == 1  # as `daily` would
    assert main([*plan, f"--date={day(0)}"]) == 2
    assert everything(root) == before


def test_it_says_how_many_buckets_the_rows_need():
    assert judge_buckets(64, 50_000_000, None).startswith("enough")
    # 4 G rows of 36 bytes, at most 32 MB a bucket: 4,292 of them, and the next power of two
    assert "--user-buckets 8192" in judge_buckets(64, 4_000_000_000, None)
