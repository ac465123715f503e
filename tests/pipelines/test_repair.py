"""Repair: after a bad input was corrected, the root is as if it had been right from the start."""

import os
import shutil

import numpy as np
import pytest

from pipelines.cli import main
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import read_current
from tests.pipelines.nights import (
    PINS,
    ROWS,
    USERS,
    cosines,
    first_night,
    histories_of,
    make_world,
    run_night,
    vectors_of,
)
from tests.worlds import day, make_rows, midnight, write_file

STRANGER = 900


def assert_same(root: str, manifest: Manifest, wanted_root: str, wanted: Manifest) -> None:
    assert histories_of(root, manifest) == histories_of(wanted_root, wanted)
    found, expected = vectors_of(root, manifest), vectors_of(wanted_root, wanted)
    assert found.keys() == expected.keys()
    a, b = (np.stack([np.frombuffer(v[u], np.float16) for u in sorted(found)]) for v in (found, expected))
    assert cosines(a, b).min() >= 0.9999


def test_a_corrected_partition_and_a_named_user(kept_nights, one_night, tmp_path, capsys):
    world, root = one_night
    _, right = kept_nights.copy(2, str(tmp_path / "right"))
    wanted = read_current(Root(right))
    # Half of the partition was of another shop: other pins, a user who does not exist, others who did nothing.
    bad = [{**row, "pin_id": 80 - row["pin_id"] % 40} for row in world.rows[1][:60] if row["pin_id"] >= 0]
    bad += [{**row, "user_id": STRANGER, "timestamp_ms": midnight(1)} for row in bad[:4] if row["user_id"] is not None]
    elsewhere = {**bad[0], "user_id": STRANGER + 1, "timestamp_ms": midnight(0) + 5, "duration_s": 3.0}
    write_file(f"{tmp_path}/logs", 1, [*bad, elsewhere], "a.parquet")
    wrong = run_night(world, root, 1, "--publish=none")
    assert STRANGER in vectors_of(root, wrong)
    write_file(f"{tmp_path}/logs", 1, world.rows[1][:150], "a.parquet")

    repair = ["repair", f"--root={root}", *world.inputs, "--publish=none", "--quiet"]
    assert main([*repair, f"--partition={day(1)}"]) == 0
    repaired = read_current(Root(root))
    assert (repaired.release, repaired.previous) == (f"{day(1)}.2", str(day(1)))
    assert repaired.counters["read_logs"]["rows_of_others"] >= 0
    # A bad row of another day: its user is in neither, and has to be named.
    assert {u for u in vectors_of(root, repaired) if u >= STRANGER} == {STRANGER + 1}
    (tmp_path / "users").write_text(f"{STRANGER + 1}\n")
    (tmp_path / "gates.yaml").write_text("max_lost_share: 0.5\n")
    assert main([*repair, f"--users={tmp_path}/users", f"--gates={tmp_path}/gates.yaml"]) == 0
    again = read_current(Root(root))
    assert again.release == f"{day(1)}.3"
    assert_same(root, again, right, wanted)
    assert main([*repair, "--partition=2020-01-01"]) == 1
    assert "--partition 2020-01-01" in capsys.readouterr().err.splitlines()[0]
    assert main(repair) == 2


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """A world; a root of two nights on it, the second of a partition that was wrong; and one that was right."""
    folder = str(tmp_path_factory.mktemp("nights"))
    world = make_world(folder)
    made = ("--user-buckets=2", "--pin-shards=1")
    right = [row for row in world.rows[1][:150] if row["pin_id"] >= 0]
    for root, rows in (("right", right), ("root", [{**row, "pin_id": 80 - row["pin_id"] % 40} for row in right])):
        write_file(f"{folder}/logs", 1, rows, "a.parquet")
        first_night(world, f"{folder}/{root}", *made)
        run_night(world, f"{folder}/{root}", 1, "--publish=none", f"--gates={gates(folder)}")
    return folder


def gates(folder: str) -> str:
    """Half of the pins of a night may be one pin, and this is about something else."""
    path = f"{folder}/gates.yaml"
    with open(path, "w") as file:
        file.write("max_cosine_drift: 1\nmax_coverage_fall: 100\nmin_coverage_pins: 1\nmax_lost_share: 0.5\n")
    return path


def copy_of(nights: str, tmp_path) -> str:
    return shutil.copytree(nights, tmp_path / "copy")


def write_again(folder: str, name: str) -> str:
    """Yesterday's partition, corrected: under the same name, or as Spark does it, under a new one."""
    path = f"{folder}/logs/ds={day(1)}/a.parquet"
    os.unlink(path)
    rows = make_rows(1, ROWS, USERS, PINS, seed=8)[:150]
    write_file(f"{folder}/logs", 1, [row for row in rows if row["pin_id"] >= 0], name)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a-9c2e.parquet"])
def test_a_partition_that_was_written_again_is_refused_until_it_is_repaired(nights, tmp_path, capsys, name):
    folder = copy_of(nights, tmp_path)
    root, given = f"{folder}/root", [f"--{n}={folder}/{n}" for n in ("logs", "pins", "model")]
    night = ["daily", f"--root={root}", *given, f"--date={day(2)}", "--publish=none", "--quiet"]
    night.append(f"--gates={gates(folder)}")
    looks = [["status", f"--root={root}", given[0]], ["verify", f"--root={root}", given[0]]]
    plan = ["plan", *(flag for flag in night[1:] if flag != "--quiet")]
    for look in looks:
        assert main(look) == 0
    path = write_again(folder, name)
    before = read_current(Root(root))
    for command in (night, plan, *looks):
        capsys.readouterr()
        assert main(command) == 1, command
        line = capsys.readouterr().err.splitlines()[0]
        assert path in line and f"repair --partition {day(1)}" in line, line
    assert read_current(Root(root)) == before and len(os.listdir(f"{root}/staging")) == 2
    capsys.readouterr()
    assert main([*plan, "--rewritten-partitions=repair"]) == 0
    assert "repaired first" in capsys.readouterr().out
    assert main([*night, "--rewritten-partitions=repair"]) == 0
    found = read_current(Root(root))
    assert (found.release, found.previous) == (str(day(2)), f"{day(1)}.2")
    right = f"{folder}/right"
    assert main([flag.replace(root, right) for flag in [*night, "--lookback=0"]]) == 0
    wanted = read_current(Root(right))
    assert histories_of(root, found) == histories_of(right, wanted)
    for look in looks:
        assert main(look) == 0


def test_the_repair_before_a_night_names_all_that_a_repair_asks_for(nights, tmp_path):
    """Two days after CURRENT, the night looks less far back than a repair of CURRENT does."""
    folder = copy_of(nights, tmp_path)
    write_file(f"{folder}/logs", 3, [])
    for path in (f"ds={day(0)}/b.parquet", f"ds={day(1)}/a.parquet"):
        os.utime(f"{folder}/logs/{path}", (0, 0))
    night = ["daily", f"--root={folder}/root", *(f"--{n}={folder}/{n}" for n in ("logs", "pins", "model"))]
    night += [f"--date={day(3)}", "--lookback=2", "--publish=none", "--quiet", f"--gates={gates(folder)}"]
    assert main(night) == 1
    assert main([*night, "--rewritten-partitions=repair"]) == 0
    found = read_current(Root(f"{folder}/root"))
    assert (found.release, found.previous) == (str(day(3)), f"{day(1)}.2")


def test_a_repair_names_every_partition_that_changed(nights, tmp_path, capsys):
    """Read again for some users only, and noted as read, the other partition's change would be heard of no more."""
    folder = copy_of(nights, tmp_path)
    given = [f"--root={folder}/root", *(f"--{n}={folder}/{n}" for n in ("logs", "pins", "model")), "--publish=none"]
    write_again(folder, "a.parquet")
    os.utime(f"{folder}/logs/ds={day(0)}/b.parquet", (0, 0))
    repair = ["repair", *given, "--quiet", f"--gates={gates(folder)}"]
    (tmp_path / "users").write_text("1\n")
    for flags in ([f"--partition={day(1)}"], [f"--users={tmp_path}/users"]):
        capsys.readouterr()
        assert main([*repair, *flags]) == 1
        assert f"ds={day(0)}/b.parquet (written again" in capsys.readouterr().err
    assert main([*repair, f"--partition={day(1)}", "--lookback=1"]) == 0  # an older file that was only copied
    assert read_current(Root(f"{folder}/root")).release == f"{day(1)}.2"


def test_a_night_that_is_started_again_after_a_repair_goes_on(nights, tmp_path):
    """The scheduler tries the night again: what it was built on saw the partition before the repair."""
    folder = copy_of(nights, tmp_path)
    given = [f"--root={folder}/root", *(f"--{n}={folder}/{n}" for n in ("logs", "pins", "model")), "--publish=none"]
    write_again(folder, "a.parquet")
    shutil.move(f"{folder}/logs/ds={day(0)}/b.parquet", f"{folder}/logs/ds={day(0)}/c.parquet")
    more = ["--quiet", f"--gates={gates(folder)}"]
    assert main(["repair", *given, *more, f"--partition={day(0)}", f"--partition={day(1)}"]) == 0
    assert main(["daily", *given, *more, f"--date={day(1)}"]) == 0
    assert main(["daily", *given, *more, f"--date={day(2)}"]) == 0
