"""Two runs on one root: one wins, the other changes nothing."""

import dataclasses
import json
import os

import pytest

from pipelines.cli import main
from stores.errors import StoreError
from stores.files import Root
from stores.lease import LEASE
from stores.releases import current_release, read_current
from tests.pipelines.nights import World, make_world
from tests.stores.test_lease import OTHER
from tests.worlds import FIRST, day
from transforms import release


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(str(tmp_path_factory.mktemp("world")))


def command(world: World, root: str, *more: str) -> list[str]:
    made = ["--user-buckets=2", "--pin-shards=2", f"--bootstrap-from={FIRST}", "--publish=none", "--quiet"]
    return ["daily", f"--root={root}", *world.inputs, f"--date={day(0)}", *made, *more]


def meanwhile(monkeypatch, what) -> None:
    """Does something once, while a run checks its gates."""
    check = release.check

    def checked(*arguments):
        monkeypatch.setattr(release, "check", check)
        what()
        return check(*arguments)

    monkeypatch.setattr(release, "check", checked)


def test_the_second_is_refused_while_the_first_works(world, tmp_path, monkeypatch, capsys):
    root, codes = str(tmp_path / "root"), []
    meanwhile(monkeypatch, lambda: codes.append(main(command(world, root))))
    assert main(command(world, root)) == 0
    assert codes == [1] and "holds this root" in capsys.readouterr().err
    assert current_release(Root(root)) == str(day(0))


def test_a_run_that_lost_the_root_commits_nothing(world, tmp_path, monkeypatch, capsys):
    """A machine was frozen for longer than the lease; it wakes up while the other run is at work."""
    root = str(tmp_path / "root")
    lease = json.dumps({**OTHER, "expires": 1e12}).encode()
    meanwhile(monkeypatch, lambda: Root(root).write_bytes(LEASE, lease))
    assert main(command(world, root)) == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert "this run lost the root" in error and "daily 2026-11-01 holds it now" in error
    assert current_release(Root(root)) is None and not os.path.exists(f"{root}/releases")
    (run,) = os.listdir(f"{root}/staging")
    assert not os.path.exists(f"{root}/staging/{run}/outcome.json"), (
        "the other run's outcome is not this one's to write"
    )
    assert Root(root).read_bytes(LEASE) == lease, "the other's lease is not this one's to give back"


def test_a_repair_that_lost_the_root_commits_nothing(world, tmp_path, monkeypatch, capsys):
    root = str(tmp_path / "root")
    assert main(command(world, root)) == 0
    lease = json.dumps({**OTHER, "expires": 1e12}).encode()
    meanwhile(monkeypatch, lambda: Root(root).write_bytes(LEASE, lease))
    repair = ["repair", f"--root={root}", *world.inputs, "--publish=none", "--quiet", f"--partition={day(0)}"]
    assert main(repair) == 1
    assert "this run lost the root" in capsys.readouterr().err
    assert current_release(Root(root)) == str(day(0)) and os.listdir(f"{root}/releases") == [str(day(0))]


def test_a_backfill_that_lost_the_root_commits_nothing_more(world, tmp_path, monkeypatch, capsys):
    """It lost the root while the second of its three days was checked."""
    root, check, checks = str(tmp_path / "root"), release.check, []
    lease = json.dumps({**OTHER, "expires": 1e12}).encode()

    def checked(*arguments):
        checks.append(arguments)
        if len(checks) == 2:
            Root(root).write_bytes(LEASE, lease)
        return check(*arguments)

    monkeypatch.setattr(release, "check", checked)
    dates = [f"--start={day(0)}", f"--end={day(2)}", f"--bootstrap-from={FIRST}"]
    assert main(["backfill", f"--root={root}", *world.inputs, *dates, "--publish=none", "--quiet"]) == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert "this run lost the root" in error and "daily 2026-11-01 holds it now" in error
    assert current_release(Root(root)) == str(day(0)) and os.listdir(f"{root}/releases") == [str(day(0))]
    assert len(checks) == 2 and Root(root).read_bytes(LEASE) == lease


@pytest.mark.parametrize("held", [True, False])
def test_a_run_that_wakes_up_after_the_other_committed(world, tmp_path, monkeypatch, capsys, held):
    """The same release id, other settings: neither the manifest nor CURRENT of the winner is touched."""
    root = str(tmp_path / "root")

    def overtake():
        os.unlink(f"{root}/{LEASE}")
        assert main(command(world, root, "--token-budget=512")) == 0
        winner.append(read_current(Root(root)))
        if not held:  # even if nobody looks at the lease
            monkeypatch.setattr(release, "check_lease", lambda *_: None)

    winner = []
    meanwhile(monkeypatch, overtake)
    assert main(command(world, root)) == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert ("lost the root" if held else "another run committed meanwhile") in error
    assert "committed but not published" not in error
    assert read_current(Root(root)) == winner[0] and winner[0].settings["token_budget"] == 512


def test_another_attempt_of_the_commit_is_no_other_run(world, tmp_path):
    root = Root(str(tmp_path / "root"))
    assert main(command(world, root.url)) == 0
    manifest = read_current(root)
    release.commit(root, manifest.settings["run"], manifest)
    other = dataclasses.replace(manifest, settings={**manifest.settings, "run": "another"})
    with pytest.raises(StoreError, match="another run committed meanwhile"):
        release.commit(root, "another", other)
    assert read_current(root) == manifest
