"""Few pins changed: the old graph stays, a small one is put beside it, and whoever searches sees one index."""

import dataclasses
import shutil

import numpy as np
import pytest

from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.ids import bucket_of
from stores.manifests import Manifest, read_manifest, write_manifest
from stores.names import Counter, Step
from stores.pin_shards import PIN_SHARDS
from stores.releases import read_current
from stores.retriever import Retriever
from tests.pipelines.backfills import assert_same_chain
from tests.pipelines.nights import World, read_table, run_night
from tests.pipelines.test_reuse import change, counted, damage, night, of_pins, usable, verified
from tests.worlds import day, make_vectors
from transforms import grow_index

OTHERS = make_vectors(90, seed=6)  # another vector for each pin


@pytest.fixture(autouse=True)
def pins_may_move(monkeypatch, tmp_path):
    """Of so few pins two in a shard are many, and `pins_moved` would say so."""
    inputs, gates = World.inputs.fget, tmp_path / "gates.yaml"
    gates.write_text("max_pins_moved: 1\n")
    monkeypatch.setattr(World, "inputs", property(lambda world: [*inputs(world), f"--gates={gates}"]))


def of_indexes(manifest: Manifest) -> list[str]:
    return [entry.path for entry in manifest.tables["indexes"]]


def grown(manifest: Manifest) -> int:
    return manifest.count(Step.BUILD_INDEXES, Counter.SHARDS_GROWN)


def few(world: World) -> World:
    """Two pins of each shard have other vectors, one each is gone and one each is new."""
    parts = [[pin for pin in range(0, 60) if pin in OTHERS and bucket_of(np.array([pin]), 2)[0] == s] for s in (0, 1)]
    some = {pin: OTHERS[pin] for pins in parts for pin in pins[3:5]} | {pins[6]: None for pins in parts}
    new = [[pin for pin in range(500, 520) if bucket_of(np.array([pin]), 2)[0] == s][0] for s in (0, 1)]
    return change(world, {**some, **{pin: OTHERS[pin - 480] for pin in new}})


@pytest.fixture(scope="module")
def kept_grown(kept_nights, tmp_path_factory) -> tuple[World, str]:
    """The folder of a world in which a few pins have changed, and of its root after the night that grew the index."""
    folder = str(tmp_path_factory.mktemp("grown"))
    world, root = kept_nights.copy(1, folder)
    changed, gates = few(world), f"{folder}/gates.yaml"
    with open(gates, "w") as file:
        file.write("max_pins_moved: 1\n")
    night(changed, root, 1, f"--gates={gates}")
    return changed, folder


@pytest.fixture
def grown_night(kept_grown, tmp_path) -> tuple[World, str]:
    """(changed world, root) of `kept_grown`, below `tmp_path`, for a test to go on with or break."""
    changed, folder = kept_grown
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return dataclasses.replace(changed, folder=str(tmp_path)), f"{tmp_path}/root"


def answers(world: World, root: str, kv: str) -> dict[int, np.ndarray]:
    """Every pin by its score, for some users, as the retriever gives them; compared with exact search."""
    manifest = read_current(Root(root))
    assert manifest is not None
    rows = read_table(root, manifest, "pin_embeddings")
    vectors = np.array([np.frombuffer(row, np.float16) for row in rows["embedding"].to_pylist()]).astype(np.float32)
    pins, found = rows["pin_id"].to_numpy(), {}
    with EmbeddingClient(kv) as client, Retriever(root, kv) as retriever:
        for user in (0, 1, 2, 3):
            vector = client.get_many([user])[0][0].astype(np.float32)
            found[user] = retriever.retrieve(user, 200).pin_ids
            exact = pins[np.lexsort((pins, -(vectors @ vector)))]
            assert set(found[user]) == set(pins) and len(found[user]) == len(pins)
            np.testing.assert_array_equal(found[user][:3], exact[:3])
    return found


def test_a_small_graph_is_put_beside_the_old_one(one_night, tmp_path):
    world, root = one_night
    first, kv = read_current(Root(root)), f"lmdb://{tmp_path}/kv"
    assert first is not None
    changed = few(world)
    manifest = run_night(changed, root, 1, f"--kv={kv}")
    assert grown(manifest) == 2 and manifest.count(Step.EMBED_PINS, Counter.PINS_EMBEDDED) == 6
    assert counted(manifest, Counter.PINS_REUSED) == [usable(changed) - 6] * 2
    # The files of the old graph are those of the release before, and stay as they are.
    assert set(of_indexes(first)) < set(of_indexes(manifest))
    beside = [path.split("/")[1:] for path in set(of_indexes(manifest)) - set(of_indexes(first))]
    assert {date for date, _ in beside} == {str(day(1))}
    assert sorted(name.split("-")[0] for _, name in beside) == ["changed", "changed", "masked", "masked"]
    assert len(manifest.statistics[PIN_SHARDS]["0"]["graphs"]) == 2 and verified(root)
    gates = {gate["name"]: gate for gate in manifest.gates}
    assert gates["index_recall_at_10"]["measured"] == 1 and gates["pins_not_indexed"]["measured"] == 0
    answers(changed, root, kv)
    # The night after, nothing changed: all of it stays.
    again = run_night(changed, root, 2, f"--kv={kv}")
    assert again.tables["indexes"] == manifest.tables["indexes"] and grown(again) == 0
    assert again.statistics[PIN_SHARDS] == manifest.statistics[PIN_SHARDS]


def test_a_pin_that_is_gone_is_missed_by_verify_where_it_is_served(grown_night, capsys):
    """The measure can fail: without its mask an old graph has pins that are gone."""
    _, root = grown_night
    manifest = read_current(Root(root))
    assert manifest is not None and verified(root)
    bare = [entry for entry in manifest.tables["indexes"] if "masked" not in entry.path]
    write_manifest(Root(root), dataclasses.replace(manifest, tables={**manifest.tables, "indexes": bare}))
    assert not verified(root) and "pins differ" in capsys.readouterr().err


def test_night_after_night_until_too_much_changed(one_night, tmp_path):
    """Every night two pins of one shard change, one of them back and forth: four nights grow it, then it is new."""
    world, root = one_night
    kv, shard = f"lmdb://{tmp_path}/kv", 0
    pins = [pin for pin in world.vectors if bucket_of(np.array([pin]), 2)[0] == shard and pin != 3]
    first, graphs, masked = read_current(Root(root)), [], []
    assert first is not None
    for number in (1, 2, 3, 4):
        back = world.vectors[pins[0]] if number == 2 else OTHERS[pins[0]]
        world = change(world, {pins[0]: back, **{pin: OTHERS[pin] for pin in pins[2 * number : 2 * number + 2]}})
        manifest = run_night(world, root, number, f"--kv={kv}")
        answers(world, root, kv)
        graphs.append(sum(e.part == shard and e.path.endswith(".hnsw") for e in manifest.tables["indexes"]))
        masked.append(sum(e.rows for e in manifest.tables["indexes"] if "masked" in e.path))
        assert manifest.tables["indexes"][-1] == first.tables["indexes"][-1]  # of the other shard nothing changed
    assert len(pins) in range(35, 45) and graphs == [2, 2, 1, 2]
    assert masked == [3, 5, 0, 2]  # the pin that changed back on the second night among them


def test_twins_of_a_changed_pin_are_served_and_twins_come_together_again(one_night, tmp_path):
    world, root = one_night
    kv = f"lmdb://{tmp_path}/kv"
    pins = [pin for pin in world.vectors if bucket_of(np.array([pin]), 2)[0] == 1 and pin != 3][:6]
    world = change(world, dict.fromkeys(pins[:4], world.vectors[pins[5]]))
    run_night(world, root, 1, f"--kv={kv}", "--reindex=all")
    # The lowest leaves its crowd of five, which stands under its name in the graph; the next night it is back.
    alone = change(world, {pins[0]: OTHERS[pins[0]]})
    manifest = run_night(alone, root, 2, f"--kv={kv}")
    assert grown(manifest) == 1
    place = {user: [list(found).index(pin) for pin in pins[1:4]] for user, found in answers(alone, root, kv).items()}
    assert all(np.ptp(places) == 2 for places in place.values())  # side by side
    manifest = run_night(change(alone, {pins[0]: world.vectors[pins[0]]}), root, 3, f"--kv={kv}")
    assert grown(manifest) == 1
    for found in answers(world, root, kv).values():
        assert [pin for pin in found if pin in {*pins[:4], pins[5]}] == sorted([*pins[:4], pins[5]])


def test_a_backfill_grows_it_as_the_nights_do(one_night, tmp_path):
    world, root = one_night
    changed, other = few(world), str(tmp_path / "other")
    shutil.copytree(root, other)
    for number in (1, 2, 3):
        night(changed, root, number)
    span = [f"--start={day(1)}", f"--end={day(3)}", "--publish=none", "--quiet", "--days-per-pass=2"]
    assert main(["backfill", f"--root={other}", *changed.inputs, *span]) == 0
    assert_same_chain(other, root)
    assert grown(read_manifest(Root(other), str(day(1)))) == 2


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_run_killed_between_ends_with_the_same_bytes(one_night, tmp_path, monkeypatch, at):
    world, root = one_night
    changed, other = few(world), str(tmp_path / "other")
    shutil.copytree(root, other)
    whole, calls, index_shard = night(changed, root, 1), [], grow_index.index_shard

    def cut(*of):
        calls.append(of)
        if len(calls) == at + 1:
            raise RuntimeError("killed")
        return index_shard(*of)

    with monkeypatch.context() as patch:
        patch.setattr("transforms.pins.index_shard", cut)
        flags = [*changed.inputs, f"--date={day(1)}", "--quiet", "--publish=none"]
        assert main(["daily", f"--root={other}", *flags]) == 1
    manifest = night(changed, other, 1)
    assert dataclasses.replace(manifest, timings={}) == dataclasses.replace(whole, timings={})


@pytest.mark.parametrize("role", ["part-00000", "changed-00000", "masked-00000"])
def test_a_damaged_file_of_a_pair_is_not_built_upon(grown_night, role, capsys):
    changed, root = grown_night
    second = read_current(Root(root))
    assert second is not None and second.day == day(1)
    (path,) = [entry.path for entry in second.tables["indexes"] if f"/{role}" in entry.path]
    damage(root, path, "flipped")
    more = change(changed, {1: OTHERS[1], 2: OTHERS[2]})
    arguments = [f"--root={root}", *more.inputs, f"--date={day(2)}", "--publish=none"]
    assert main(["daily", *arguments]) == 0
    manifest = read_current(Root(root))
    assert manifest is not None and counted(manifest, Counter.SHARDS_DAMAGED) == [0, 1]
    assert "WARNING: 1 of 2 shards of" in capsys.readouterr().err
    assert [e.path.split("/")[2][:10] for e in manifest.tables["indexes"] if e.part == 0] == ["part-00000"]
    assert main(["verify", f"--root={root}", "--this-only"]) == 0


def test_gc_leaves_the_old_graph_of_a_pair(grown_night):
    changed, root = grown_night
    night(changed, root, 2)
    assert main(["gc", f"--root={root}", "--keep=1", "--keep-snapshots=1", "--grace=0s"]) == 0
    manifest = read_current(Root(root))
    assert manifest is not None and set(of_indexes(manifest)) <= set(of_pins(root)) and verified(root)
    assert grown(night(change(changed, {1: OTHERS[1], 2: OTHERS[2]}), root, 3)) > 0
