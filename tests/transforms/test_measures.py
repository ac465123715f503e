"""What steps measure by bucket and by shard is what one process finds that reads all; the barrier reads nothing."""

import dataclasses
import json
import os
import random

import numpy as np
import pyarrow as pa
import pytest

from pipelines.cli import main
from stores import tables
from stores.files import FileEntry, Root
from stores.indexes import IndexParameters, build_index, search_shards
from stores.layout import Layout
from stores.manifests import read_manifest
from stores.neighbours import exact_top_k
from stores.releases import chain
from stores.schemas import to_binary_column
from stores.tables import draw_numbers, read_drawn, read_files, write_part
from tests.pipelines.nights import run_night
from tests.stores.test_indexes import unit_vectors
from tests.transforms.gates.releases import manifest_of
from tests.worlds import day, write_model, write_vectors
from transforms import hindsight, shard_measures
from transforms.gates import GATES, StagedRelease, Thresholds, check_gates, sample
from transforms.gates.sample import SampleFigures, sample_of, search_well_enough
from transforms.release import check, read_staged, read_staged_run
from transforms.run import Instructions, Run
from transforms.sample_steps import (
    Answers,
    choose_width,
    first_widths,
    merge_answers,
    needs_wider,
    search_exactly,
    search_index,
)
from transforms.shard_measures import EMBEDDINGS, MeasureShard, ShardFacts, add_facts

TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


def run_of(root: str, number: int) -> str:
    (run,) = [name for name in os.listdir(f"{root}/staging") if name.startswith(f"daily-{day(number)}")]
    return run


def measured_and_read(path: str, number: int) -> tuple[StagedRelease, StagedRelease]:
    """A night's release with the figures of its steps, and without: its gates then read the files."""
    root = Root(path)
    run = read_staged_run(root, run_of(path, number))
    manifest = run.manifest
    before = list(chain(root, manifest.previous)) if manifest.previous else []
    plain = StagedRelease(root, manifest, run.reports, before, Thresholds())
    return dataclasses.replace(plain, figures=run.figures), plain


def assert_same_figures(path: str, number: int) -> None:
    with_figures, plain = measured_and_read(path, number)
    found, expected = sample_of(with_figures), sample_of(plain)
    assert isinstance(found, SampleFigures) and not isinstance(expected, SampleFigures) and expected is not None
    assert found.to_json() == SampleFigures.of(1000, expected).to_json()
    assert check_gates(GATES, with_figures) == check_gates(GATES, plain)


def test_nights_measure_by_steps_what_gates_would_read(two_nights, tmp_path):
    """A first night, a second, one with a user and pins gone, and one of another model on two processes."""
    world, path = two_nights
    assert_same_figures(path, 0)
    assert_same_figures(path, 1)
    run_night(world, path, 2, "--publish=none", "--max-idle-days=1")
    assert_same_figures(path, 2)
    assert read_staged(Root(path), run_of(path, 2))[0].counters["merge_snapshot"]["users_lost"] > 0
    write_model(f"{tmp_path}/other", seed=2)
    run_night(world, path, 3, "--publish=none", f"--model={tmp_path}/other", *TWO_WORKERS)
    assert_same_figures(path, 3)


def test_pins_and_users_that_are_lost_are_counted_where_they_were(one_night, tmp_path):
    """Pins leave the vectors, and with them users without a usable token: both gates say what they read."""
    world, path = one_night
    (tmp_path / "gates.yaml").write_text("max_lost_share: 0.01\n")
    vectors = {pin: vector for pin, vector in world.vectors.items() if pin % 3}
    write_vectors(f"{world.folder}/pins", vectors)
    night = ["daily", f"--root={path}", *world.inputs, f"--date={day(1)}", "--publish=none", "--quiet"]
    assert main([*night, f"--gates={tmp_path}/gates.yaml"]) == 3
    assert_same_figures(path, 1)
    assert read_staged_run(Root(path), run_of(path, 1)).figures["lost"]["pin_embeddings"] > 20


def test_the_barrier_opens_no_table(two_nights, monkeypatch):
    _, path = two_nights
    manifest, _ = read_staged(Root(path), run_of(path, 1))

    def refuse(*of, **named):
        raise AssertionError("a table was opened")

    for name in ("read_files", "read_drawn", "count_lost", "load_shards"):
        for module in (tables, sample):
            monkeypatch.setattr(module, name, refuse, raising=False)
    monkeypatch.setattr(tables, "open_table_file", refuse)
    checked = check(Root(path), run_of(path, 1), Thresholds())
    committed = read_manifest(Root(path), manifest.release)
    assert checked.gates == committed.gates and checked.settings["index"] == committed.settings["index"]
    assert len(checked.gates) > 25


def test_other_thresholds_are_measured_anew(two_nights):
    _, path = two_nights
    checked = check(Root(path), run_of(path, 1), Thresholds(recall_users=7))
    assert checked.settings["index"]["recall_users"] == 7


def test_a_run_that_an_older_version_staged_is_measured_by_its_gates(two_nights):
    """Its file has no figures."""
    _, path = two_nights
    name = f"{path}/staging/{run_of(path, 1)}/staged.json"
    with open(name) as file:
        found = json.load(file)
    del found["figures"]
    with open(name, "w") as file:
        json.dump(found, file)
    checked = check(Root(path), run_of(path, 1), Thresholds())
    assert checked.gates == read_manifest(Root(path), str(day(1))).gates


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9, 0.97, 1.0])
def test_shards_searched_apart_are_shards_searched_together(monkeypatch, target):
    """As `search_well_enough`, which has all of them open; in whatever order and grouping they are merged."""
    widths = (2, 4, 8, 16, 64)
    monkeypatch.setattr(sample, "EF_CANDIDATES", widths)
    monkeypatch.setattr(sample, "EF_TARGET", target)
    vectors, queries = unit_vectors(3000), unit_vectors(50, seed=1).astype(np.float32)
    vectors[1000:1100] = vectors[0]  # twins, in every shard: scores that tie
    ids = np.arange(3000)
    shards = [build_index(ids[i::3], vectors[i::3], IndexParameters(4, 8)) for i in range(3)]
    best = exact_top_k(queries, ids, vectors, 10)
    expected, ef = search_well_enough(shards, queries, best, widths[0])
    parts = [
        Answers(search_exactly(queries, ids[i::3], vectors[i::3]), {2: search_index([shards[i]], queries, 2)})
        for i in range(3)
    ]
    dice = random.Random(3)
    dice.shuffle(parts)
    first = merge_answers([merge_answers(parts[:2]), parts[2]])
    np.testing.assert_array_equal(first.best.pin_ids, best.pin_ids)
    assert needs_wider(first) == (ef > 2)
    wider = [Answers(None, {w: search_index([shard], queries, w) for w in widths[1:]}) for shard in shards[::-1]]
    chosen, found = choose_width(merge_answers([merge_answers([first]), *wider]))
    assert chosen == ef
    np.testing.assert_array_equal(found.pin_ids, expected.pin_ids)
    np.testing.assert_array_equal(found.pin_ids, search_shards(shards, queries, 10, ef).pin_ids)


def test_the_widths_of_the_night_before_are_searched_at_once():
    assert first_widths(64, 0) == first_widths(64, 64) == [64] and first_widths(64, 256) == [64, 128, 256]
    assert first_widths(128, 64) == [128] and first_widths(1024, 64) == [1024]


def test_a_night_that_needs_a_wider_search_gets_it(one_night, monkeypatch):
    """Graphs of two links each find little at first: both looks at the shards are taken, by the steps and plainly."""
    world, path = one_night
    monkeypatch.setattr(sample, "EF_CANDIDATES", (2, 4, 8, 64))
    monkeypatch.setattr(shard_measures, "add_facts", lambda facts: dataclasses.replace(add_facts(facts), find_ef=2))
    monkeypatch.setattr(shard_measures, "first_widths", lambda find_ef, served: [find_ef])
    monkeypatch.setattr(sample, "find_ef_of", lambda staged: 2)
    widened = []
    monkeypatch.setattr(shard_measures, "needs_wider", lambda found: widened.append(needs_wider(found)) or widened[-1])
    run_night(world, path, 1, "--publish=none", "--index-m=2", "--reindex=all")
    assert_same_figures(path, 1)
    with_figures, _ = measured_and_read(path, 1)
    assert any(widened) and sample_of(with_figures).ef > 2


def write_pins(root: Root, date, shards: list[list[int]], factor: int = 1) -> list[FileEntry]:
    """Pins whose vector is their id, twice."""
    return [
        write_part(
            root,
            EMBEDDINGS,
            date,
            part,
            pa.table(
                {"pin_id": ids, "embedding": to_binary_column(np.array(ids, np.float16)[:, None].repeat(2, 1) * factor)}
            ),
        )
        for part, ids in enumerate(shards)
    ]


def pick(root: Root, tonight: list[FileEntry], asked: list[int], before: list[FileEntry] | None) -> dict[int, tuple]:
    """Pin -> (drawn, before, tonight), of all shards, as the look back gets them on a first day."""
    run = Run(root, "a-run", day(1), "r", "p" if before else None, Layout(), Instructions(False))
    step = MeasureShard([run])
    if before is not None:
        step._before = dataclasses.replace(manifest_of(0, 0, 0), tables={EMBEDDINGS: before})
    sizes = tuple((entry.part, entry.path, entry.rows) for entry in tonight)
    found = {}
    for entry in tonight:
        rows = read_files(root, [entry])
        ids = rows["pin_id"].to_numpy()
        mine = np.array([pin for pin in asked if pin % 2 == entry.part], np.int64)
        picked = step._pick(0, entry.part, mine, ([entry], rows), sizes)
        assert picked["pin_id"].to_pylist() == sorted(picked["pin_id"].to_pylist()) and len(ids)
        for pin, drawn, old, new in zip(*(column.to_pylist() for column in picked.columns), strict=True):
            found[pin] = (drawn, *(vector and float(np.frombuffer(vector, np.float16)[1]) for vector in (old, new)))
    return found


def test_pins_are_picked_and_drawn_by_shard(tmp_path, monkeypatch):
    root = Root(str(tmp_path))
    tonight = write_pins(root, day(1), [[2, 4, 10, 12], [1, 3, 5]])
    assert pick(root, tonight, [2, 5, 8], None) == {
        pin: (True, None, float(pin)) if pin != 8 else (False, None, None) for pin in (1, 2, 3, 4, 5, 8, 10, 12)
    }
    before = write_pins(root, day(0), [[2, 4, 8], [1, 3, 7]], 2)
    monkeypatch.setattr(hindsight, "DRAWN", 3)
    found = pick(root, tonight, [2, 5, 8], before)
    seed = hindsight.seed_of(day(1))
    drawn = [pin for rows in read_drawn(root, before, 3, seed, ["pin_id"]) for pin in rows["pin_id"].to_pylist()]
    assert sorted(pin for pin, (is_drawn, *_) in found.items() if is_drawn) == sorted(drawn) and len(drawn) == 3
    assert found[2][1:] == (4.0, 2.0) and found[5][1:] == (None, 5.0) and found[8][1:] == (16.0, None)
    os.remove(root.path(before[0].path))  # gone since: what is left is drawn from
    assert {pin for pin, (is_drawn, *_) in pick(root, tonight, [2], before).items() if is_drawn} == {1, 3, 7}


def test_rows_are_drawn_by_number_as_they_are_read():
    numbers = draw_numbers([3, 0, 100, 5], 40, 9)
    chosen = np.sort(np.random.default_rng(9).choice(108, 40, replace=False))
    starts = [0, 3, 3, 103]
    assert np.concatenate([n + start for n, start in zip(numbers, starts, strict=True)]).tolist() == chosen.tolist()


def test_what_matters_to_all_shards_is_added_up_in_any_order():
    one, two = ShardFacts(((1, "b", 5),), 0), ShardFacts(((0, "a", 4),), 128)
    assert add_facts([one, two]) == add_facts([two, one]) == ShardFacts(((0, "a", 4), (1, "b", 5)), 128)
    assert add_facts([]).find_ef == 64
