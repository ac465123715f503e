"""`status --max-age`: each thing that keeps readers from tonight's vectors ends with 1 and a line that says which."""

import datetime
import json
import os

import pytest

from pipelines.cli import main
from pipelines.operations import alarms
from pipelines.operations.alarms import find_alarms
from stores.files import Root
from stores.kv import open_store
from stores.lease import hold_lease
from stores.releases import move_current
from tests.redis_server import running_redis
from tests.transforms.interrupted import (
    MODEL,
    NEWEST,
    OLD,
    OTHER_MODEL,
    Cut,
    commit,
    cut_before_write,
    small_chunks,
    target,
    two_releases,
)
from transforms.publish import publish
from transforms.release import OUTCOME

TODAY = datetime.datetime.now(datetime.UTC).date()
YESTERDAY, BEFORE, LONG_AGO = (str(TODAY - datetime.timedelta(days)) for days in (1, 2, 6))


@pytest.fixture
def root(tmp_path) -> Root:
    return two_releases(f"{tmp_path}/root", BEFORE, YESTERDAY)


@pytest.fixture
def kv(tmp_path, root) -> str:
    kv = f"lmdb://{tmp_path}/kv"
    publish(root, YESTERDAY, target(kv))
    return kv


def ring(capsys, root: Root, kv: str | None, *more: str) -> tuple[int, list[str], str]:
    """Exit code, names of the alarms in --json, and what was said on stderr; both forms agree."""
    status = ["status", f"--root={root.url}", *([f"--kv={kv}"] if kv else []), "--max-age=30h", *more]
    capsys.readouterr()
    code = main([*status, "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)["alarms"]
    assert [set(alarm) for alarm in found] == [{"name", "text"}] * len(found)
    assert main(status) == code == (1 if found else 0)
    shown, again = capsys.readouterr()
    assert again == err and len(err.splitlines()) == len(found)
    assert all(alarm["text"] in err for alarm in found)
    assert main(status[:-1] if not more else status[:2]) == 0  # without --max-age it is a report, no alarm
    return code, [alarm["name"] for alarm in found], err


def test_all_is_well(root, kv, capsys):
    assert ring(capsys, root, kv) == (0, [], "")
    assert ring(capsys, root, None) == (0, [], "")


def test_an_empty_store(root, tmp_path, capsys):
    code, names, said = ring(capsys, root, f"lmdb://{tmp_path}/empty")
    assert (code, names) == (1, ["store_empty"])
    assert "serves nothing in namespace pinnerformer" in said
    assert f"pinnerformer release --root {root.url} --run daily-{YESTERDAY} --kv URL" in said
    assert not os.path.exists(tmp_path / "empty")


def test_a_store_behind_current(root, tmp_path, capsys):
    kv = f"lmdb://{tmp_path}/kv"
    publish(root, BEFORE, target(kv))
    code, names, said = ring(capsys, root, kv)
    assert (code, names) == (1, ["store_behind", "too_old"][: 1 + (datetime.datetime.now(datetime.UTC).hour >= 6)])
    assert f"serves {BEFORE}, CURRENT is {YESTERDAY}" in said and f"--run daily-{YESTERDAY}" in said
    with hold_lease(root, "daily"):  # which is about to publish it
        assert "store_behind" not in ring(capsys, root, kv)[1]
    assert ring(capsys, root, None)[0] == 0  # CURRENT is as it should be


def test_a_root_nobody_ran_on_while_erase_was_typed(tmp_path, capsys):
    """What counts is the day of the data, in the store and in the root; a manifest written a minute ago is nothing."""
    root, kv = Root(f"{tmp_path}/root"), f"lmdb://{tmp_path}/kv"
    commit(root, LONG_AGO, OLD)
    publish(root, LONG_AGO, target(kv))
    (tmp_path / "leavers").write_text("3\n")
    assert main(["erase", f"--root={root.url}", f"--users={tmp_path}/leavers", f"--kv={kv}"]) == 0
    for where in (kv, None):
        code, names, said = ring(capsys, root, where)
        assert (code, names) == (1, ["too_old"])
        ends = datetime.date.fromisoformat(LONG_AGO) + datetime.timedelta(1)
        assert f"the data of {LONG_AGO}, which is served, ends {ends} 00:00 UTC" in said and "allows 30 h" in said


def test_a_held_root(root, kv, capsys):
    assert main(["rollback", f"--root={root.url}", f"--kv={kv}", "--reason=half a log"]) == 0
    code, names, said = ring(capsys, root, kv)
    assert code == 1 and "held" in names and not {"store_behind", "half_published"} & {*names}
    assert (
        f"held at {BEFORE} since" in said and "half a log" in said and f"rollback --root {root.url} --lift-hold" in said
    )
    main(["status", f"--root={root.url}"])
    assert f"held at {BEFORE} since" in capsys.readouterr().out
    main(["status", f"--root={root.url}", "--json"])
    assert json.loads(capsys.readouterr().out)["held"]["reason"] == "half a log"
    assert main(["rollback", f"--root={root.url}", "--lift-hold"]) == 0
    assert "held" not in ring(capsys, root, kv)[1]


@pytest.mark.parametrize("how", ["refused", "failed"])
def test_a_night_that_ended_without_a_release(how, root, kv, capsys):
    gates = [{"name": "cosine_drift"}, {"name": "users_lost_share"}]
    outcome = {"outcome": how, "release": str(TODAY), "finished": f"{TODAY}T03:12:00+00:00"}
    outcome |= {
        "publish": None,
        "refused": gates if how == "refused" else [],
        "error": "the disk is full" if how == "failed" else None,
    }
    run = f"staging/daily-{TODAY}-0123456789ab"
    root.write_json(f"{run}/{OUTCOME}", outcome)
    code, names, said = ring(capsys, root, kv)
    assert (code, names) == (1, [how]) and f"{TODAY}T03:12" in said
    assert ("cosine_drift, users_lost_share" if how == "refused" else "the disk is full") in said
    commit(root, str(TODAY), NEWEST, previous=YESTERDAY)  # mended, and run again
    publish(root, str(TODAY), target(kv))
    assert ring(capsys, root, kv) == (0, [], "")
    root.write_bytes(f"{run}/{OUTCOME}", b"")  # a power cut
    assert ring(capsys, root, kv) == (0, [], "")


def test_a_publish_that_was_cut_off(root, tmp_path, capsys, monkeypatch):
    small_chunks(monkeypatch)
    with running_redis(str(tmp_path)) as port:
        kv = f"redis://127.0.0.1:{port}/0"
        publish(root, BEFORE, target(kv))
        with cut_before_write(3), pytest.raises(Cut):
            publish(root, YESTERDAY, target(kv))
        code, names, said = ring(capsys, root, kv)
        assert code == 1 and names[:2] == ["store_behind", "half_published"]
        assert f"a publish of {YESTERDAY} that began" in said
        with hold_lease(root, "daily"):  # it is going on
            assert "half_published" not in ring(capsys, root, kv)[1]
        assert main(["rollback", f"--root={root.url}", f"--kv={kv}", "--reason=x"]) == 0
        assert "half_published" not in ring(capsys, root, kv)[1]


def test_a_store_of_another_root(root, kv, tmp_path, capsys):
    for model, snapshot in ((OTHER_MODEL, OLD), (MODEL, OLD)):
        other = Root(f"{tmp_path}/other-{model[:2]}")
        commit(other, YESTERDAY, snapshot, model)
        publish(other, YESTERDAY, target(kv))
        code, names, said = ring(capsys, root, kv)
        assert (code, names) == (1, ["store_of_another_root"]) and f"--run daily-{YESTERDAY}" in said
    strange = Root(f"{tmp_path}/strange")
    commit(strange, str(TODAY), OLD)
    publish(strange, str(TODAY), target(kv))
    assert ring(capsys, root, kv)[1] == ["store_of_another_root"]


def test_a_root_restored_and_done_again_under_the_same_name(root, kv, capsys):
    move_current(root, YESTERDAY, BEFORE)
    commit(root, YESTERDAY, NEWEST, previous=BEFORE)
    code, names, said = ring(capsys, root, kv)
    assert (code, names) == (1, ["store_behind"]) and "before its files were made again" in said


def test_a_root_without_a_release(tmp_path, capsys):
    root = Root(f"{tmp_path}/root")
    root.write_json("layout.json", {"user_buckets": 1, "pin_shards": 1})
    assert ring(capsys, root, None)[:2] == (1, ["no_release"])
    assert set(ring(capsys, root, f"lmdb://{tmp_path}/kv")[1]) == {"no_release", "store_empty"}
    assert root.read_json("layout.json") == {"user_buckets": 1, "pin_shards": 1}  # it looks and writes nothing


def test_every_alarm_is_in_the_docs(root):
    with open(os.path.join(os.path.dirname(alarms.__file__), os.pardir, os.pardir, "docs", "alarms.md")) as file:
        page = file.read()
    names = ["no_release", "store_empty", "store_behind", "store_of_another_root", "half_published", "too_old"]
    assert all(f"`{name}`" in page for name in [*names, "held", "refused", "failed"])
    assert max(map(len, page.splitlines())) <= 110


def test_the_hour_counts_from_the_midnight_after_the_day(root, kv):
    midnight = datetime.datetime.combine(TODAY, datetime.time(), datetime.UTC)
    with open_store(kv) as store:
        for hours, expected in ((29.9, []), (30.1, ["too_old"])):
            now = midnight + datetime.timedelta(hours=hours)
            assert [a.name for a in find_alarms(root, store, 30 * 3600, now)] == expected
