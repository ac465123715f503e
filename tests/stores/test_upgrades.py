"""What older versions wrote, what newer ones will write, and what is neither: the door they all come through."""

import dataclasses
import json
import re
import shutil

import lmdb
import numpy as np
import pytest

from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.erasure import find_users
from stores.errors import StoreError
from stores.files import Root
from stores.kv import open_store
from stores.kv.base import Current, Generation
from stores.layout import Layout, read_layout
from stores.manifests import DIGEST, _digest, manifest_path, read_manifest, write_manifest
from stores.releases import current_release, read_current, read_hold
from stores.tables import TABLES
from stores.timelines import read_description
from stores.upgrades import LAYOUT, MANIFEST, RUN_OUTCOME, STAGED_RUN, Change, Kind, Record, read_record, upgrade
from tests.old_roots import OLD_ROOTS
from tests.old_roots.make import write_inputs
from tests.worlds import day
from transforms.publish import PublishTarget, publish
from transforms.release import read_outcome, read_staged
from transforms.step_reports import StepReport
from transforms.training_data import load_training_data

FIRST, SECOND = str(day(0)), str(day(1))
RUN = "daily-2026-11-02-9de7fac1bacf"
MODEL = f"{OLD_ROOTS}/v1/model"
NEWER = {"a_new_fact": {"of": ["a", "newer", "version"]}}


@pytest.fixture
def old(tmp_path) -> Root:
    """The root that version 1 left, where it can be changed."""
    shutil.copytree(f"{OLD_ROOTS}/v1/root", tmp_path / "root")
    return Root(str(tmp_path / "root"))


@pytest.fixture
def kv(tmp_path) -> str:
    """The URL of the store that version 1 published it to."""
    with open(f"{OLD_ROOTS}/v1/kv.json") as file:
        content = json.load(file)
    with lmdb.open(f"{tmp_path}/kv", map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for key, value in content.items():
            transaction.put(bytes.fromhex(key), bytes.fromhex(value))
    return f"lmdb://{tmp_path}/kv"


def test_an_old_root_is_looked_at_verified_and_searched(old, kv, tmp_path, capsys):
    inputs = write_inputs(str(tmp_path), 2, MODEL)
    assert main(["status", f"--root={old.url}", f"--kv={kv}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [release["release"] for release in found["releases"]] == [SECOND, FIRST]
    assert found["store"]["release"] == SECOND and found["store"]["users"] == 6
    assert main(["verify", f"--root={old.url}", *inputs[1:], f"--kv={kv}"]) == 0
    capsys.readouterr()
    assert main(["retrieve", f"--root={old.url}", f"--kv={kv}", "--user=-1", "--k=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["release"] == SECOND and len(found["pins"]) == 3


def test_a_night_goes_on_from_an_old_root_and_publishes_what_changed(old, kv, tmp_path):
    inputs = write_inputs(str(tmp_path), 3, MODEL)
    with open_store(kv) as store:
        generation = store.current().generation
    assert main(["daily", f"--root={old.url}", *inputs, f"--date={day(2)}", f"--kv={kv}", "--quiet"]) == 0
    manifest = read_current(old)
    assert (manifest.previous, manifest.day) == (SECOND, day(2))
    assert [file["path"] for file in manifest.inputs] == [f"ds={day(2)}/a.parquet"]
    with open_store(kv) as store:
        assert store.current().release == str(day(2)) and store.current().generation == generation
        assert store.generations()[generation].release == str(day(2))


def test_a_store_that_an_old_version_wrote_since_is_compared_and_not_believed(old, kv, tmp_path, capsys):
    """`rollback` of 0.1.0 runs on a root with an id, and leaves the store saying of itself what it held before."""
    inputs = write_inputs(str(tmp_path), 3, MODEL)
    assert main(["daily", f"--root={old.url}", *inputs, f"--date={day(2)}", f"--kv={kv}", "--quiet"]) == 0
    with open_store(kv) as store:
        said = store.contents()
    assert main(["rollback", f"--root={old.url}", f"--kv={kv}", "--reason=x"]) == 0
    with open_store(kv) as store, store.hold_writes("as an old version leaves it"):
        store.set_contents(said)
    capsys.readouterr()
    assert main(["verify", f"--root={old.url}", f"--kv={kv}"]) == 1
    assert f"says that it holds {day(2)}" in capsys.readouterr().err
    # By what the store says there would be nothing to send.
    assert publish(old, str(day(2)), PublishTarget(kv, "pinnerformer"))["users_sent"] > 0
    assert main(["verify", f"--root={old.url}", f"--release={day(2)}", f"--kv={kv}"]) == 0


def test_what_a_run_of_an_old_version_staged_is_released(old):
    old.remove("CURRENT")
    old.write_bytes("CURRENT", f"{FIRST}\n".encode())
    assert main(["release", f"--root={old.url}", f"--run={RUN}", "--publish=none"]) == 0
    assert current_release(old) == SECOND and read_outcome(old, RUN)["outcome"] == "committed"


def test_old_timelines_are_trained_on():
    data = load_training_data(f"{OLD_ROOTS}/v1/timelines", "train")
    assert len(data.timelines) == 3 and data.timelines.positive.any() and len(data.pin_ids) == 10


@pytest.mark.parametrize("flag", ["--lift-hold", "--unpin"])
def test_a_hold_of_an_old_version_holds_and_is_lifted(old, tmp_path, capsys, flag):
    inputs = write_inputs(str(tmp_path), 3, MODEL)
    shutil.copy(f"{OLD_ROOTS}/v1/PINNED", old.path("PINNED"))
    assert read_hold(old).release == FIRST and read_hold(old).rolled_back == SECOND
    night = ["daily", f"--root={old.url}", *inputs, f"--date={day(2)}", "--publish=none", "--quiet"]
    assert main(night) == 1
    line = capsys.readouterr().err.splitlines()[0]
    assert old.path("PINNED") in line and "half of the log" in line and "--lift-hold" in line
    assert main(["gc", f"--root={old.url}", "--keep=1", "--keep-snapshots=1"]) == 0
    assert all(not read_manifest(old, release).dropped for release in (FIRST, SECOND))  # both that it concerns
    assert main(["rollback", f"--root={old.url}", flag]) == 0
    assert "hold lifted" in capsys.readouterr().err and read_hold(old) is None and not old.exists("PINNED")
    assert main(["rollback", f"--root={old.url}", flag]) == 0
    assert "was not held" in capsys.readouterr().err


def test_a_new_hold_takes_the_place_of_an_old_one(old):
    shutil.copy(f"{OLD_ROOTS}/v1/PINNED", old.path("PINNED"))
    rollback = ["rollback", f"--root={old.url}", "--publish=none", "--reason=worse still"]
    assert main([*rollback, f"--to={SECOND}"]) == 0
    assert old.exists("HELD") and not old.exists("PINNED") and read_hold(old).release == SECOND
    for damaged in (b"{}", b"not JSON"):  # it is lifted all the same
        old.write_bytes("HELD", damaged)
        with pytest.raises(StoreError, match=re.escape(old.path("HELD"))):
            read_hold(old)
        assert main(["rollback", f"--root={old.url}", "--lift-hold"]) == 0 and not old.exists("HELD")


def change_manifest(root: Root, release: str, change) -> None:
    """Writes a manifest as a version would that has `change` beside what this one has."""
    found = root.read_json(manifest_path(release))
    del found[DIGEST]
    change(found)
    root.write_json(manifest_path(release), {**found, DIGEST: _digest(found)})


def add_new_facts(manifest: Record) -> None:
    """A key, a key of every file, and a table, of which a newer version writes them."""
    manifest |= NEWER
    for entries in manifest["tables"].values():
        for entry in entries:
            entry["codec"] = "zstd"
    file = {"path": "item_vectors/2026-11-01/x", "part": 0, "rows": 1, "bytes": 2, "checksum": "0" * 64}
    manifest["tables"]["item_vectors"] = [file]
    manifest["dropped"] += ["item_vectors"]


def test_what_a_newer_version_wrote_beside_survives_gc(old):
    for release in (FIRST, SECOND):
        change_manifest(old, release, add_new_facts)
    before = old.read_json(manifest_path(SECOND))
    assert main(["status", f"--root={old.url}"]) == 0
    assert main(["gc", f"--root={old.url}", "--keep=1", "--keep-snapshots=2", "--grace=0s"]) == 0
    slimmed = old.read_json(manifest_path(FIRST))
    assert slimmed["revision"] == 2 and slimmed["tables"]["histories"] == [] and slimmed["a_new_fact"]
    assert slimmed["a_new_fact"] == NEWER["a_new_fact"] and len(slimmed["tables"]["item_vectors"]) == 1
    assert {entry["codec"] for entry in slimmed["tables"]["user_embeddings"]} == {"zstd"}
    assert set(slimmed["dropped"]) == set(TABLES) - {"user_embeddings"} | {"item_vectors"}
    assert read_manifest(old, FIRST).extra == NEWER  # its digest is one of all of it
    assert old.read_json(manifest_path(SECOND)) == before
    damaged = old.read_bytes(manifest_path(FIRST)).replace(b"zstd", b"zstc", 1)
    old.write_bytes(manifest_path(FIRST), damaged)
    with pytest.raises(StoreError, match="its digest is another"):
        read_manifest(old, FIRST)


def test_what_a_newer_version_wrote_beside_survives_an_erasure(old, tmp_path):
    def add(manifest: Record) -> None:
        add_new_facts(manifest)
        del manifest["tables"]["item_vectors"]
        manifest["dropped"] = []

    for release in (FIRST, SECOND):
        change_manifest(old, release, add)
    (tmp_path / "leavers").write_text("-1\n")
    assert main(["erase", f"--root={old.url}", f"--users={tmp_path}/leavers"]) == 0
    assert find_users(old, np.array([-1])) == []
    found = old.read_json(manifest_path(SECOND))
    assert found["revision"] == 2 and found["a_new_fact"] == NEWER["a_new_fact"]
    assert {entry["codec"] for entry in found["tables"]["indexes"]} == {"zstd"}
    new = [e for e in found["tables"]["user_embeddings"] if "codec" not in e]
    assert len(new) == 1  # written by this version, of which nobody knows what a newer one would say


def test_an_erasure_refuses_a_root_with_a_table_that_it_does_not_know(old, tmp_path, capsys):
    change_manifest(old, FIRST, add_new_facts)
    (tmp_path / "leavers").write_text("-1\n")
    assert main(["erase", f"--root={old.url}", f"--users={tmp_path}/leavers"]) == 1
    said = capsys.readouterr().err
    assert old.path(manifest_path(FIRST)) in said and "item_vectors" in said and not old.exists("erased")


def test_a_night_goes_on_beside_what_a_newer_version_wrote(old, kv, tmp_path):
    inputs = write_inputs(str(tmp_path), 3, MODEL)
    for release in (FIRST, SECOND):
        change_manifest(old, release, add_new_facts)
    for relative in ("layout.json", f"staging/{RUN}/outcome.json", f"staging/{RUN}/staged.json"):
        old.write_json(relative, {**old.read_json(relative), **NEWER})
    assert read_layout(old) == Layout(2, 1, 32)
    assert read_outcome(old, RUN)["release"] == SECOND and read_staged(old, RUN)[0].release == SECOND
    assert main(["daily", f"--root={old.url}", *inputs, f"--date={day(2)}", f"--kv={kv}", "--quiet"]) == 0
    with EmbeddingClient(kv) as client:
        assert client.current.release == str(day(2)) and client.get_many([-1])[2].all()


def test_reports_and_gates_of_a_newer_version_are_read(old):
    relative = f"staging/{RUN}/staged.json"
    found = old.read_json(relative)
    for report in found["reports"].values():
        report["peak_bytes"] = 5
        for entries in report["files"].values():
            for entry in entries:
                entry["codec"] = "zstd"
    found["manifest"]["settings"]["thresholds"]["max_of_tomorrow"] = 1.0
    old.write_json(relative, found)
    _, reports = read_staged(old, RUN)
    assert reports["build_indexes"].files["indexes"][0].path.startswith("indexes/")
    old.write_bytes("CURRENT", f"{FIRST}\n".encode())
    assert main(["release", f"--root={old.url}", f"--run={RUN}", "--publish=none"]) == 0


@pytest.mark.parametrize("key", ["user_buckets", "pin_shards", "history_length", "embedding_dtype"])
def test_a_damaged_name_is_not_taken_for_a_new_one(old, key):
    """Else the key would be at its default, and its value a fact of some newer version."""
    found = old.read_json("layout.json")
    old.write_json("layout.json", {name if name != key else name[:-1] + "x": v for name, v in found.items()})
    with pytest.raises(StoreError, match="keys missing or unknown") as error:
        read_layout(old)
    assert old.path("layout.json") in str(error.value) and key in str(error.value)


def newer(record: Record) -> Record:
    return {**record, "format": 2}


def test_a_format_that_is_not_known_is_never_guessed_at(old, tmp_path):
    reads = {
        "layout.json": lambda: read_layout(old),
        "HELD": lambda: read_hold(old),
        f"staging/{RUN}/outcome.json": lambda: read_outcome(old, RUN),
        f"staging/{RUN}/staged.json": lambda: read_staged(old, RUN),
        manifest_path(FIRST): lambda: read_manifest(old, FIRST),
    }
    shutil.copy(f"{OLD_ROOTS}/v1/PINNED", old.path("HELD"))
    for relative, read in reads.items():
        read()
        old.write_json(relative, newer(old.read_json(relative)))
        with pytest.raises(StoreError, match="format 2, made by a newer version; this one reads format 1") as error:
            read()
        assert old.path(relative) in str(error.value) and "upgrade pinnerformer" in str(error.value)
    shutil.copytree(f"{OLD_ROOTS}/v1/timelines", tmp_path / "timelines")
    path = tmp_path / "timelines" / "timelines.json"
    path.write_text(json.dumps(newer(json.loads(path.read_text()))))
    with pytest.raises(StoreError, match="timelines format 2"):
        read_description(str(tmp_path / "timelines"))
    for record in (Current("g", "r", "ab", 1), Generation("r", "ab", 1)):
        data = json.dumps(newer(json.loads(record.to_bytes()))).encode()
        with pytest.raises(StoreError, match="the store: .* format 2, made by a newer version"):
            type(record).from_bytes(data, "the store")


def test_steps_run_from_the_oldest_form_to_todays():
    def rename(record: Record) -> Record:
        """Format 2 calls `size` what format 1 called `length`."""
        rest = {name: value for name, value in record.items() if name != "length"}
        return {**rest, "size": record["length"], "format": 2}

    def add_colour(record: Record) -> Record:
        """What says nothing of its colour is grey."""
        return {"colour": "grey", **record}

    def double(record: Record) -> Record:
        """Format 3 counts in halves."""
        return {**record, "size": 2 * record["size"], "format": 3}

    kind = Kind("thing", (Change(1, rename), Change(2, add_colour), Change(2, double)), format=3)
    keys = frozenset({"size", "colour"})
    first = {"length": 4}
    assert upgrade(kind, first, "x", keys) == {"size": 8, "colour": "grey", "format": 3} and first == {"length": 4}
    second = {"size": 4, "format": 2}
    assert upgrade(kind, second, "x", keys) == {"size": 8, "colour": "grey", "format": 3}
    today = {"size": 4, "colour": "red", "format": 3, "weight": 1}
    assert upgrade(kind, today, "x", keys) == today
    for damaged in ({"size": 4, "format": 3}, {"size": 4, "color": "red", "format": 3}, [], None, {"format": "3"}):
        with pytest.raises(ValueError, match="keys missing or unknown|not a JSON object|format is"):
            upgrade(kind, damaged, "x", keys)
    with pytest.raises(StoreError, match="x: thing format 4, made by a newer version; this one reads formats 1 to 3"):
        upgrade(kind, {"format": 4}, "x", keys)
    with pytest.raises(StoreError, match="x: thing format 0, made by an older version.*make it again"):
        upgrade(kind, {"format": 0}, "x", keys)


def test_a_short_layout_is_completed_and_a_whole_one_is_as_it_says():
    assert read_record(LAYOUT, Layout, {"user_buckets": 7, "pin_shards": 3}, "x") == Layout(7, 3, 256, "float16")
    assert read_record(LAYOUT, Layout, vars(Layout(7, 3, 99)), "x") == Layout(7, 3, 99)


def test_version_1_is_todays_form(old):
    """No step has anything to do to it, and nothing in it is unknown; the first step that has changes this test."""
    for release in (FIRST, SECOND):
        found = old.read_json(manifest_path(release))
        write_manifest(old, read_manifest(old, release))
        assert old.read_json(manifest_path(release)) == found and read_manifest(old, release).extra == {}
    for relative, kind in (("outcome.json", RUN_OUTCOME), ("staged.json", STAGED_RUN)):
        found = old.read_json(f"staging/{RUN}/{relative}")
        assert upgrade(kind, found, relative) == found
    assert MANIFEST.oldest == MANIFEST.format == 1


def test_a_report_of_before_the_word_task_is_read():
    report = dataclasses.asdict(StepReport(1.5, 3, {"users": 2}))
    report["parts"] = report.pop("tasks")
    assert StepReport.from_json(report) == StepReport(1.5, 3, {"users": 2})
