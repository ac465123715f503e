"""Plan: says what a night would do, and touches nothing."""

import json
import os

import stores.layout as layouts
from pipelines.cli import main
from pipelines.operations.plan import judge_buckets
from stores.files import Root
from stores.layout import advise_buckets, require_layout
from tests.pipelines.nights import LENGTH, make_world
from tests.worlds import FIRST, day


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
    assert advise_buckets(4_000_000_000, 4_000_000_000) == 8_192
    assert "--user-buckets 16384" in judge_buckets(64, 4_000_000_000, None)  # and those that a new root would get


ROWS_PER_BUCKET, PINS_PER_SHARD = 100, 40  # in place of the real ones: then these nights get several of each


def test_every_command_chooses_the_same_counts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(layouts, "FIRST_BUCKET_ROWS", ROWS_PER_BUCKET)
    monkeypatch.setattr(layouts, "FIRST_SHARD_PINS", PINS_PER_SHARD)
    world = make_world(str(tmp_path))
    flags = [*world.inputs, f"--bootstrap-from={FIRST}", f"--history-length={LENGTH}", "--publish=none"]
    # Three days of some 270 rows; 81 pins have a vector.
    chosen = {"user_buckets": 16, "pin_shards": 4}
    roots = [str(tmp_path / name) for name in ("daily", "backfill", "given")]
    daily = [f"--root={roots[0]}", *flags, f"--date={day(2)}"]
    assert main(["plan", *daily]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "user buckets 16 for 816 rows; --user-buckets asks for another number" in said
    assert "pin shards 4 for 81 pins; --pin-shards asks for another number" in said
    assert main(["check-inputs", *daily, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["night"]
    assert {name: found["layout"][name] for name in chosen} == chosen
    assert main(["daily", *daily, "--quiet"]) == 0
    # The days after the first of a backfill count for nothing: its first release is that of `daily`.
    days = [f"--start={day(2)}", f"--end={day(3)}"]
    backfill = ["backfill", f"--root={roots[1]}", *flags, *days]
    assert main([*backfill, "--dry-run", "--quiet"]) == 0
    assert not os.path.exists(roots[1])
    assert main([*backfill, "--quiet"]) == 0
    for root in roots[:2]:
        layout = require_layout(Root(root))
        assert {name: getattr(layout, name) for name in chosen} == chosen
    # What is asked for comes first.
    given = [f"--root={roots[2]}", *flags, f"--date={day(2)}", "--user-buckets=3", "--pin-shards=2"]
    capsys.readouterr()
    assert main(["plan", *given]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "user buckets 3 enough" in said and "another number" not in said
    assert main(["daily", *given, "--quiet"]) == 0
    # A root that is there keeps what it has, whatever the rows.
    monkeypatch.setattr(layouts, "FIRST_BUCKET_ROWS", 1)
    assert main(["daily", *given[:-2], f"--date={day(3)}", "--quiet"]) == 0
    layout = require_layout(Root(roots[2]))
    assert (layout.user_buckets, layout.pin_shards) == (3, 2)
