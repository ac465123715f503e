"""A run that was cut off and is started again: the same bytes, and nothing done twice."""

import collections
import dataclasses
import os

import pytest

from pipelines.cli import main
from stores import hnsw
from stores.files import Root
from stores.kv import open_store
from stores.manifests import Manifest
from stores.releases import read_current
from tests.parts import Parts
from tests.pipelines.nights import LENGTH, World, make_world
from tests.worlds import FIRST, day, write_file
from transforms import embed_users, histories, pins, read_logs, release, snapshots, sort_vectors
from transforms.markers import STAGED_FOLDERS, read_markers

MODULES = (read_logs, histories, embed_users, snapshots, sort_vectors, pins)
MADE = ("--user-buckets=3", "--pin-shards=2", f"--history-length={LENGTH}", f"--bootstrap-from={FIRST}")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(str(tmp_path_factory.mktemp("world")))


def command(world: World, root: str, *more: str) -> list[str]:
    return ["daily", f"--root={root}", *world.inputs, f"--date={day(0)}", "--quiet", *MADE, *more]


def released(root: str) -> Manifest:
    manifest = read_current(Root(root))
    assert manifest is not None
    return dataclasses.replace(manifest, timings={})


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> tuple[Manifest, collections.Counter]:
    """The release of an undisturbed run, and how many parts of each step it did."""
    root, parts = str(tmp_path_factory.mktemp("undisturbed")), Parts()
    with pytest.MonkeyPatch.context() as patch:
        parts.watch(patch, MODULES)
        assert main(command(world, root, "--publish=none")) == 0
    return released(root), parts.done


@pytest.fixture(scope="module")
def undisturbed(whole) -> Manifest:
    return whole[0]


@pytest.fixture
def parts(monkeypatch) -> Parts:
    found = Parts()
    found.watch(monkeypatch, MODULES)
    return found


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_run_cut_off_does_only_the_rest(world, whole, tmp_path, parts, share):
    undisturbed, whole = whole
    assert set(whole) == {"read_logs", "update_histories", "embed_users", "merge_snapshot"} | {
        "cut_vectors",
        "shard_pins",
        "embed_pins",
        "build_indexes",
    }
    parts.stop_at = round(share * whole.total())
    root = str(tmp_path / "root")
    assert main(command(world, root, "--publish=none")) == 1
    assert not os.path.exists(f"{root}/CURRENT")
    first, parts.done, parts.stop_at = parts.done, collections.Counter(), None
    assert main(command(world, root, "--publish=none")) == 0
    assert released(root) == undisturbed
    again = +(first + parts.done - whole)
    assert set(again) <= {"read_logs"}, "a part was done twice"
    if first["update_histories"] == whole["update_histories"]:
        assert not again, "the logs were read although no bucket needs them"


def test_a_receipt_without_its_file_counts_for_nothing(world, undisturbed, tmp_path, parts, monkeypatch):
    root = str(tmp_path / "root")
    monkeypatch.setattr(release, "discard_staged", lambda *_: None)
    arguments = command(world, root, "--publish=none")
    assert main(arguments) == 0
    (run,) = os.listdir(f"{root}/staging")
    (vectors,) = os.listdir(f"{root}/sorted")
    monkeypatch.undo()
    parts.watch(monkeypatch, MODULES)
    os.unlink(f"{root}/CURRENT")  # as if the run had been cut off at the last moment
    damaged = []
    for step in ("update_histories", "embed_users", "merge_snapshot", "shard_pins", "embed_pins", "build_indexes"):
        folder = f"sorted/{vectors}" if step == "shard_pins" else f"staging/{run}"
        markers = read_markers(Root(root), folder, step)
        part, marker = next((part, r) for part, r in sorted(markers.items()) if any(e.rows for e in r.files()))
        entry = next(entry for entry in marker.files() if entry.rows)
        with open(f"{root}/{entry.path}", "ab") as file:
            file.write(b"x")
        assert part not in read_markers(Root(root), folder, step)
        damaged.append(step)
    marker = sorted(os.listdir(f"{root}/staging/{run}/done/cut_vectors"))[0]
    with open(f"{root}/staging/{run}/done/cut_vectors/{marker}", "w") as file:
        file.write("{")
    parts.done.clear()
    assert main(arguments) == 0
    assert released(root) == undisturbed
    assert all(parts.done[step] for step in [*damaged, "cut_vectors"])
    assert not {"done", *STAGED_FOLDERS} & set(os.listdir(f"{root}/staging/{run}")), "leftovers of a committed run"


@pytest.mark.parametrize("change", ["inputs", "settings", "vectors", "erased", "hnswlib"])
def test_leftovers_of_other_inputs_are_left_alone(world, tmp_path, parts, change, monkeypatch):
    world = make_world(str(tmp_path / "world"))
    root = str(tmp_path / "root")
    parts.stop_at = 15
    assert main(command(world, root, "--publish=none")) == 1
    more = []
    if change == "inputs":  # as many rows and bytes as before, other content
        rows = [{**row, "timestamp_ms": row["timestamp_ms"] - 1} for row in world.rows[0]]
        write_file(f"{world.folder}/logs", 0, rows[:150], "a.parquet")
    elif change == "settings":
        more = ["--token-budget=64"]
    elif change == "vectors":
        os.utime(f"{world.folder}/pins/vectors.parquet")
    elif change == "hnswlib":  # built for another CPU
        monkeypatch.setattr(hnsw, "_rounding", lambda: "00000000")
    else:
        with open(f"{root}/erased", "w") as file:
            file.write("3\n")
    parts.stop_at = 0
    parts.done.clear()
    assert main(command(world, root, "--publish=none", *more)) == 1
    assert len(os.listdir(f"{root}/staging")) == 2 and not parts.done


def test_a_run_that_committed_and_did_not_publish_publishes(world, undisturbed, tmp_path, monkeypatch):
    root, kv = str(tmp_path / "root"), f"lmdb://{tmp_path}/kv"
    publish = release.publish

    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(release, "publish", cut_off)
    assert main(command(world, root, f"--kv={kv}")) == 1
    assert released(root).tables == undisturbed.tables
    monkeypatch.setattr(release, "publish", publish)
    for _ in range(2):  # and once more, when nothing is left to do
        assert main(command(world, root, f"--kv={kv}")) == 0
        assert os.listdir(f"{root}/releases") == [str(day(0))]
        with open_store(kv) as store:
            assert store.current().release == str(day(0))
