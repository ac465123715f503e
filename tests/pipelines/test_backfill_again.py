"""A backfill that is cut off, killed, stopped by a hole or refused goes on; one that is done again takes over whole."""

import collections
import os
import shutil
import signal

import pytest

import transforms.backfill
import transforms.backfill_rows
import transforms.pins
import transforms.release
import transforms.sort_vectors
from pipelines.cli import main
from stores.errors import StoreError
from stores.files import Root
from stores.manifests import read_manifest, write_manifest
from tests.parts import Parts
from tests.pipelines.backfills import (
    EMPTY,
    PINS,
    ROWS,
    USERS,
    assert_same_chain,
    assert_same_tables,
    backfill,
    copy_world,
    layout,
    releases,
    run_daily,
)
from tests.pipelines.test_daily import run_twice
from tests.warm import run_python
from tests.worlds import day, make_rows, write_file


def test_a_hole_stops_the_chain_and_the_same_command_goes_on(backfill_world, backfilled, tmp_path, capsys):
    inputs, root = copy_world(backfill_world, tmp_path), str(tmp_path / "root")
    hole = tmp_path / "world" / "logs" / f"ds={day(3)}"
    hole.rename(tmp_path / "elsewhere")
    assert backfill(inputs, root, 0, 4, *layout(3)) == 1
    said = capsys.readouterr().err
    assert f"the chain stops after {day(2)}" in said and str(hole) in said and "--allow-missing" in said
    assert len(releases(root)) == 3
    (tmp_path / "elsewhere").rename(hole)
    assert backfill(inputs, root, 0, 4, *layout(3)) == 0
    assert_same_chain(root, backfilled)


def test_a_missing_day_can_be_taken_for_an_empty_one(backfill_world, backfilled, tmp_path):
    inputs, root = copy_world(backfill_world, tmp_path), str(tmp_path / "root")
    shutil.rmtree(tmp_path / "world" / "logs" / f"ds={day(EMPTY)}")
    assert backfill(inputs, root, 0, 3, *layout(3), f"--allow-missing={day(EMPTY)}") == 0
    for found, expected in zip(releases(root), releases(backfilled), strict=False):
        assert found.tables["histories"] == expected.tables["histories"]
        assert found.tables["user_embeddings"] == expected.tables["user_embeddings"]


@pytest.mark.parametrize("stop_at", [pytest.param(9, marks=pytest.mark.slow), 29])
def test_a_run_cut_off_does_only_the_rest(backfill_world, backfilled, tmp_path, monkeypatch, stop_at):
    parts, root = Parts(stop_at=stop_at), str(tmp_path / "root")
    parts.watch(monkeypatch, (transforms.backfill, transforms.backfill_rows, transforms.sort_vectors, transforms.pins))
    assert backfill(backfill_world, root, 0, 4, *layout(3)) == 1
    assert not os.path.exists(f"{root}/CURRENT")
    first, parts.done, parts.stop_at = parts.done, collections.Counter(), None
    assert backfill(backfill_world, root, 0, 4, *layout(3)) == 0
    assert_same_chain(root, backfilled)
    done = first + parts.done
    assert done["replay_buckets"] == 15, "a bucket was replayed through a day twice"


KILL = """
import os, signal, sys
import {module} as module
left = [{after}]
whole = module.{function}
def dies(*arguments, **named):
    found = whole(*arguments, **named)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
module.{function} = dies
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


INSTANTS = {
    "while walking": ("transforms.backfill", "write_marker", 8),
    "between two commits": ("transforms.release", "move_current", 2),
    "a manifest written, CURRENT not moved": ("transforms.release", "write_manifest", 4),
}


# Cut off within its work is what `test_a_run_cut_off_does_only_the_rest` looks at, twice.
@pytest.mark.parametrize(
    "instant", [pytest.param(name, marks=pytest.mark.slow if name == "while walking" else ()) for name in INSTANTS]
)
def test_killed_and_started_again_gives_the_same_bytes(backfill_world, backfilled, tmp_path, instant):
    module, function, after = INSTANTS[instant]
    root = str(tmp_path / "root")
    dates = [f"--start={day(0)}", f"--end={day(4)}", f"--bootstrap-from={day(0)}"]
    command = ["backfill", f"--root={root}", *backfill_world, *dates, "--quiet", *layout(3)]
    code = KILL.format(module=module, function=function, after=after)
    killed = run_python(code, *command)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(releases(root)) < 5
    assert main(command) == 0
    assert_same_chain(root, backfilled)


def test_what_a_killed_attempt_committed_is_cleared_up(backfill_world, tmp_path, monkeypatch):
    """Cut off between the commit of a day and the removal of its markers: the next attempt removes them."""
    root, forget = str(tmp_path / "root"), transforms.release.discard_staged

    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(transforms.release, "discard_staged", cut_off)
    assert backfill(backfill_world, root, 0, 4, *layout(3)) == 1
    assert len(releases(root)) == 1
    monkeypatch.setattr(transforms.release, "discard_staged", forget)
    assert backfill(backfill_world, root, 0, 4, *layout(3)) == 0
    left = [name for run in os.listdir(f"{root}/staging") for name in os.listdir(f"{root}/staging/{run}")]
    assert len(releases(root)) == 5 and not {"done", "rows", "vectors"} & set(left)


def test_every_dofn_may_run_twice(backfill_world, backfilled, tmp_path, monkeypatch):
    for kind in (transforms.backfill.ReplayBucket, transforms.backfill_rows.SpoolRows):
        monkeypatch.setattr(kind, "process", run_twice(kind.process))
    assert backfill(backfill_world, str(tmp_path / "root"), 0, 4, *layout(3)) == 0
    assert_same_chain(str(tmp_path / "root"), backfilled)


def test_a_mended_log_is_done_again_with_everything_after_it(backfill_world, backfilled, tmp_path, capsys):
    inputs, root = copy_world(backfill_world, tmp_path), str(tmp_path / "root")
    shutil.copytree(backfilled, root)
    more = make_rows(2, 30, USERS, PINS, seed=55)[:30]
    write_file(f"{tmp_path}/world/logs", 2, more, "mended.parquet")
    before = releases(root)
    arguments = ["backfill", f"--root={root}", *inputs, f"--start={day(1)}", f"--end={day(3)}", *layout(3)]
    assert main([*arguments, "--recompute", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert releases(root) == before
    for words in ("left as is", str(day(1)), f"{day(2)}.2 .. {day(4)}.2", f"CURRENT stays on {day(4)}"):
        assert words in " ".join(said.split()), said
    assert main([*arguments, "--recompute", "--quiet"]) == 0
    fresh = str(tmp_path / "fresh")
    assert backfill(inputs, fresh, 0, 4, *layout(3)) == 0
    found = releases(root)
    assert [m.release for m in found] == [str(day(0)), str(day(1)), *(f"{day(n)}.2" for n in (2, 3, 4))]
    assert_same_chain(root, fresh)
    for manifest in before:
        assert read_manifest(Root(root), manifest.release) == manifest, "a release changed"
    assert main([*arguments, "--recompute", "--quiet"]) == 0
    assert releases(root) == found, "equal inputs were done again"


def test_a_recomputation_cut_off_leaves_the_old_chain_and_goes_on(backfill_world, backfilled, tmp_path, monkeypatch):
    inputs, root = copy_world(backfill_world, tmp_path), str(tmp_path / "root")
    shutil.copytree(backfilled, root)
    before = releases(root)
    write_file(f"{tmp_path}/world/logs", 1, make_rows(1, 30, USERS, PINS, seed=55)[:30], "mended.parquet")
    arguments = ["backfill", f"--root={root}", *inputs, f"--start={day(0)}", f"--end={day(4)}", *layout(3)]
    kept = []

    def cut_off(root, manifest):
        if len(kept) == 2:
            raise StoreError("cut off")
        kept.append(manifest.release)
        write_manifest(root, manifest)

    monkeypatch.setattr(transforms.release, "write_manifest", cut_off)
    assert main([*arguments, "--recompute", "--quiet"]) == 1
    assert releases(root) == before and kept == [f"{day(1)}.2", f"{day(2)}.2"]
    monkeypatch.undo()
    assert main([*arguments, "--recompute", "--quiet"]) == 0
    fresh = str(tmp_path / "fresh")
    assert backfill(inputs, fresh, 0, 4, *layout(3)) == 0
    assert_same_chain(root, fresh)


def test_a_file_that_came_late_is_recomputed_on_the_day_it_was_read(backfill_world, tmp_path):
    """Day 1's late file was read by day 3's night: done again, day 1 and day 2 still do not know it."""
    inputs, root = copy_world(backfill_world, tmp_path), str(tmp_path / "root")
    run_daily(inputs, root, [0, 1, 2], *layout(3))
    write_file(f"{tmp_path}/world/logs", 1, make_rows(1, 20, USERS, PINS, seed=66)[:20], "late.parquet")
    run_daily(inputs, root, [3], *layout(3))
    before = releases(root)
    dates = [f"--start={day(0)}", f"--end={day(3)}"]
    assert main(["backfill", f"--root={root}", *inputs, *dates, "--quiet", *layout(3), "--recompute"]) == 0
    found = releases(root)
    assert [m.release for m in found] == [f"{day(n)}.2" for n in range(4)]
    for one, other in zip(found, before, strict=True):
        assert_same_tables(one, other)


def test_a_refused_day_stops_the_chain_there(backfill_world, tmp_path, capsys):
    inputs, root = copy_world(backfill_world, tmp_path), str(tmp_path / "root")
    rows = make_rows(3, ROWS, USERS, PINS, seed=8)
    write_file(f"{tmp_path}/world/logs", 3, [*rows, *({**row, "pin_id": -1} for row in rows)], "a.parquet")
    assert backfill(inputs, root, 0, 4, *layout(3)) == 3
    said = capsys.readouterr().err
    assert f"release {day(3)} was refused" in said and "rows_dropped_share" in said
    assert [m.release for m in releases(root)] == [str(day(n)) for n in range(3)]
