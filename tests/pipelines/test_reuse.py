"""Pins that are what they were the night before: their files stay, and are made again where they should be."""

import dataclasses
import os

import numpy as np
import pytest

from pinnerformer_model import inference
from pipelines.cli import main
from stores.files import Root
from stores.manifests import Manifest, read_manifest, write_manifest
from stores.names import Counter, Step
from stores.pin_shards import PIN_SHARDS
from stores.releases import read_current
from tests.pipelines.nights import World, files_under, named, read_table, run_night
from tests.worlds import day, make_vectors, write_model, write_vectors
from transforms import grow_index, pins

OF_PINS = ("pin_embeddings", "indexes")
STEPS = (Step.EMBED_PINS, Step.BUILD_INDEXES)


def night(world: World, root: str, number: int, *more: str) -> Manifest:
    return run_night(world, root, number, "--publish=none", *more)


def of_pins(root: str) -> dict[str, int]:
    """Path -> bytes of the files of pins under a root."""
    return {path: size for path, size in files_under(root).items() if path.startswith(OF_PINS)}


def paths(manifest: Manifest, part: int | None = None) -> list[str]:
    entries = [entry for table in OF_PINS for entry in manifest.tables[table]]
    return [entry.path for entry in entries if part in (None, entry.part)]


def counted(manifest: Manifest, counter: Counter) -> list[int]:
    return [manifest.count(step, counter) for step in STEPS]


def usable(world: World) -> int:
    return sum(bool(vector.any()) for vector in world.vectors.values())


def verified(root: str) -> bool:
    return main(["verify", f"--root={root}"]) == 0


def change(world: World, some: dict[int, np.ndarray | None]) -> World:
    """The world with other vectors of some pins; None: the pin is gone."""
    vectors = {pin: vector for pin, vector in {**world.vectors, **some}.items() if vector is not None}
    write_vectors(f"{world.folder}/pins", vectors)
    return dataclasses.replace(world, vectors=vectors)


def test_a_night_of_the_same_pins_writes_nothing_of_them(one_night, monkeypatch, capsys):
    world, root = one_night
    before, first = of_pins(root), read_current(Root(root))
    monkeypatch.setattr(pins, "encode_pins", None)  # neither the tower
    for build in ("build_shard", "build_findable_index"):  # nor a build, nor a search for the width
        monkeypatch.setattr(grow_index, build, None)
    for number in (1, 2):
        arguments = [f"--root={root}", *world.inputs, f"--date={day(number)}", "--publish=none"]
        assert main(["daily", *arguments]) == 0
        manifest = read_current(Root(root))
        assert [manifest.tables[table] for table in OF_PINS] == [first.tables[table] for table in OF_PINS]
        assert counted(manifest, Counter.PINS_REUSED) == [usable(world)] * 2
        assert counted(manifest, Counter.SHARDS_REUSED) == [2, 2]
        assert (
            manifest.statistics[PIN_SHARDS] == first.statistics[PIN_SHARDS] and len(first.statistics[PIN_SHARDS]) == 2
        )
        assert manifest.settings["index"]["ef_search"] == first.settings["index"]["ef_search"]
        said = capsys.readouterr().err
        assert "pins reused" in said and f"as they were in {day(number - 1)}" in said
    assert of_pins(root) == before and verified(root)


def damage(root: str, path: str, how: str) -> None:
    if how == "gone":
        os.remove(f"{root}/{path}")
        return
    with open(f"{root}/{path}", "r+b") as file:
        content = bytearray(file.read())
        content[len(content) // 2] ^= 1
        file.seek(0)
        file.write(content)
        if how == "cut":
            file.truncate(len(content) // 2)


DAMAGES = {("pin_embeddings", "gone"), ("indexes", "flipped")}  # the others look for them in the same way


@pytest.mark.parametrize(
    ("table", "how"),
    [
        pytest.param(table, how, marks=() if (table, how) in DAMAGES else pytest.mark.slow)
        for table in OF_PINS
        for how in ("gone", "flipped", "cut")
    ],
)
def test_a_damaged_shard_is_made_again_and_that_is_said(one_night, table, how, capsys):
    world, root = one_night
    first = read_current(Root(root))
    assert first is not None
    damage(root, first.tables[table][0].path, how)
    arguments = [f"--root={root}", *world.inputs, f"--date={day(1)}", "--publish=none"]
    assert main(["daily", *arguments]) == 0
    manifest = read_current(Root(root))
    damaged = [int(step is (Step.EMBED_PINS if table == "pin_embeddings" else Step.BUILD_INDEXES)) for step in STEPS]
    assert counted(manifest, Counter.SHARDS_DAMAGED) == damaged
    assert counted(manifest, Counter.SHARDS_REUSED) == [2 - number for number in damaged]
    assert f"WARNING: 1 of 2 shards of {day(0)} were damaged or gone" in capsys.readouterr().err
    assert paths(manifest) == paths(first) and verified(root)  # of the same content: both releases are whole again


def test_damaged_pins_that_have_changed_are_made_again_too(one_night, capsys):
    """What the release before had of them nobody knows: they are all embedded, and indexed from nothing."""
    world, root = one_night
    first = read_current(Root(root))
    assert first is not None
    for entry in first.tables["pin_embeddings"]:
        damage(root, entry.path, "gone")
    manifest = night(change(world, {pin: moved for pin, moved in make_vectors(90, seed=6).items() if pin < 5}), root, 1)
    assert counted(manifest, Counter.SHARDS_DAMAGED) == [2, 0] and counted(manifest, Counter.PINS_REUSED) == [0, 0]
    assert main(["verify", f"--root={root}", "--this-only"]) == 0


@pytest.mark.parametrize("what", ["model", "parameters", "reindex", "library"])
def test_what_is_made_otherwise_is_made_again(one_night, tmp_path, what, monkeypatch):
    world, root = one_night
    first, more = read_current(Root(root)), []
    if what == "model":
        more = [f"--model={write_model(str(tmp_path / 'other'), seed=2)}"]
    elif what == "parameters":
        more = ["--index-m=8"]
    elif what == "reindex":
        more = ["--reindex=all"]
    else:
        monkeypatch.setattr("stores.pin_shards.builder_id", lambda: "hnswlib of another build")
    manifest = night(world, root, 1, *more)
    kept = usable(world) if what in ("parameters", "library") else 0  # the tower is the same
    assert counted(manifest, Counter.PINS_REUSED) == [kept, 0]
    assert counted(manifest, Counter.PINS_EMBEDDED)[0] == usable(world) - kept
    assert not {path for path in paths(manifest) if path.startswith("indexes")} & set(paths(first))
    assert verified(root)
    if what == "reindex":
        for table in OF_PINS:
            assert [e.checksum for e in manifest.tables[table]] == [e.checksum for e in first.tables[table]]
        assert counted(night(world, root, 2), Counter.SHARDS_REUSED) == [2, 2]  # once


def test_a_release_that_does_not_say_what_it_was_made_of_is_made_again(one_night):
    """As of the version before: nothing of it is kept, and the next night keeps all."""
    world, root = one_night
    first = read_current(Root(root))
    assert first is not None
    statistics = {name: value for name, value in first.statistics.items() if name != PIN_SHARDS}
    write_manifest(Root(root), dataclasses.replace(first, statistics=statistics))
    manifest = night(world, root, 1)
    assert counted(manifest, Counter.PINS_REUSED) == [0, 0] == counted(manifest, Counter.SHARDS_DAMAGED)
    assert counted(night(world, root, 2), Counter.SHARDS_REUSED) == [2, 2]


def test_gc_leaves_what_a_kept_release_has_from_older_ones(one_night):
    world, root = one_night
    for number in (1, 2):
        night(world, root, number)
    shared = set(of_pins(root))
    assert main(["gc", f"--root={root}", "--keep=1", "--keep-snapshots=1", "--grace=0s"]) == 0
    assert read_manifest(Root(root), str(day(0))).dropped and set(of_pins(root)) == shared <= named(root)
    assert verified(root)
    assert counted(night(world, root, 3), Counter.SHARDS_REUSED) == [2, 2]


def test_after_an_erasure_pins_stay_as_they_are(one_night, tmp_path):
    world, root = one_night
    before = of_pins(root)
    with open(tmp_path / "leavers", "w") as file:
        file.write("1\n")
    assert main(["erase", f"--root={root}", f"--users={file.name}"]) == 0
    assert counted(night(world, root, 1), Counter.SHARDS_REUSED) == [2, 2]
    assert of_pins(root) == before and verified(root)
    assert main(["verify", f"--root={root}", f"--erased={file.name}"]) == 0


def test_after_a_rollback_pins_are_compared_with_the_release_gone_back_to(one_night):
    world, root = one_night
    changed = change(world, {2: make_vectors(90, seed=6)[2]})
    night(changed, root, 1)
    assert main(["rollback", f"--root={root}", "--reason=test", "--publish=none"]) == 0
    assert main(["rollback", f"--root={root}", "--lift-hold"]) == 0
    write_vectors(f"{world.folder}/pins", world.vectors)
    manifest = night(world, root, 1)
    assert manifest.release == f"{day(1)}.2" and counted(manifest, Counter.SHARDS_REUSED) == [2, 2]
    assert paths(manifest) == paths(read_manifest(Root(root), str(day(0)))) and verified(root)


def test_only_changed_pins_are_embedded(one_night, monkeypatch):
    """Vectors of three pins are others, one is new, one gone: the tower sees four."""
    world, root = one_night
    other = make_vectors(90, seed=6)
    seen = []
    encode = inference.encode_pins
    monkeypatch.setattr(pins, "encode_pins", lambda tower, rows: seen.append(len(rows)) or encode(tower, rows))
    manifest = night(change(world, {0: other[1], 10: other[10], 20: other[20], 300: other[21], 41: None}), root, 1)
    assert sum(seen) == 4 == counted(manifest, Counter.PINS_EMBEDDED)[0]
    assert counted(manifest, Counter.PINS_REUSED)[0] == usable(world) - 4
    fresh = night(world, root, 2, "--reindex=all")
    one, all_of_them = (
        dict(zip(table["pin_id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
        for table in (read_table(root, found, "pin_embeddings") for found in (manifest, fresh))
    )
    assert one == all_of_them and 300 in one and 41 not in one
