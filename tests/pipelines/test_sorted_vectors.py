"""Vectors are sorted once: whoever comes later with the same files takes the tables, and nobody takes others."""

import dataclasses
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from stores import id_columns, locations, pin_vectors
from stores.files import FileEntry, Root
from stores.manifests import Manifest
from stores.names import Counter, Step
from stores.pin_vectors import describe_vectors, list_vector_files, read_vector_table
from stores.releases import chain
from stores.tables import read_files, write_rows
from tests.pipelines.nights import LENGTH, files_under, make_world
from tests.pipelines.test_reuse import change, damage, night
from tests.pipelines.test_string_collisions import weak_hash
from tests.worlds import FIRST, day
from transforms import sort_vectors
from transforms.run import RunFolder
from transforms.sort_vectors import CutVectors, KeepTable, SortShard, vector_groups, vectors_folder
from transforms.step_reports import StepReport


def sorted_files(root: str) -> list[str]:
    return [path for path in files_under(root) if path.startswith("sorted/") and path.endswith(".arrow")]


def content(manifest: Manifest) -> Manifest:
    """Without what is of the hour."""
    settings = {**manifest.settings, "run": None, "inputs_modified_ns": None}
    return dataclasses.replace(manifest, timings={}, settings=settings)


def nobody_sorts(monkeypatch) -> None:
    for name in ("read_vectors", "write_vector_table"):
        monkeypatch.setattr(sort_vectors, name, None)


@pytest.fixture
def here(one_night):
    """(world, root) after two nights, the second of which sorted the vectors where they lie now."""
    world, root = one_night
    night(world, root, 1)
    return world, root


def copied(root: str, folder) -> str:
    """The root without its tables."""
    other = shutil.copytree(root, str(folder))
    shutil.rmtree(f"{other}/sorted")
    return other


def test_a_night_of_the_same_vectors_sorts_nothing(here, tmp_path, monkeypatch):
    world, root = here
    before = sorted_files(root)
    assert len(before) == 2, "of two shards, and none of the vectors of the night before, which lay elsewhere"
    expected = night(world, copied(root, tmp_path / "other"), 2)
    nobody_sorts(monkeypatch)
    found = night(world, root, 2)
    assert content(found) == content(expected)
    assert found.count(Step.SHARD_PINS, Counter.VECTORS_READ) == len(world.vectors)
    assert found.count(Step.SHARD_PINS, Counter.VECTORS_ZERO) == 1
    assert sorted_files(root) == before
    assert main(["verify", f"--root={root}"]) == 0


def test_a_backfill_and_a_night_take_what_the_other_sorted(tmp_path, monkeypatch):
    world, root = make_world(str(tmp_path / "world")), str(tmp_path / "root")
    flags = ["--publish=none", "--quiet"]
    made = ["--user-buckets=3", "--pin-shards=2", f"--history-length={LENGTH}", f"--bootstrap-from={FIRST}"]
    days = [f"--start={FIRST}", f"--end={day(0)}"]
    assert main(["backfill", f"--root={root}", *world.inputs, *flags, *made, *days]) == 0
    assert len(sorted_files(root)) == 2
    nobody_sorts(monkeypatch)
    night(world, root, 1)
    days = [f"--start={day(2)}", f"--end={day(2)}"]
    assert main(["backfill", f"--root={root}", *world.inputs, *flags, *days]) == 0
    assert [manifest.day for manifest in chain(Root(root))] == [day(2), day(1), day(0)]
    tables = sorted_files(root)
    assert len(tables) == 2
    # The same once more, of files that are others: there is nothing to do, and nothing of theirs to put in place.
    os.chmod(f"{world.folder}/pins/vectors.parquet", 0o600)
    assert main(["backfill", f"--root={root}", *world.inputs, *flags, *days]) == 0
    assert sorted_files(root) == tables


def test_vectors_that_were_written_again_are_sorted_again_whatever_their_times_say(one_night):
    world, root = one_night
    path = f"{world.folder}/pins/vectors.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    table = pq.read_table(path)
    pq.write_table(table, path, **plain)
    night(world, root, 1)
    before, written = sorted_files(root), os.stat(path)
    vectors = table["vector"].to_pylist()
    vectors[0][0] *= -1
    pq.write_table(table.set_column(1, "vector", pa.array(vectors, table["vector"].type)), path, **plain)
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert os.path.getsize(path) == written.st_size, "the footer is the same too"
    manifest = night(world, root, 2)
    assert manifest.count(Step.EMBED_PINS, Counter.PINS_EMBEDDED) == 1
    after = sorted_files(root)
    assert len(after) == 2 and not set(after) & set(before), "the tables of other vectors are left"


def test_a_refused_night_leaves_what_the_nights_before_it_had(here, tmp_path, monkeypatch):
    world, root = here
    before = sorted_files(root)
    half = dict.fromkeys(sorted(world.vectors)[::2])
    refused = change(world, half)
    arguments = [f"--root={root}", *refused.inputs, f"--date={day(2)}", "--publish=none", "--quiet"]
    assert main(["daily", *arguments]) == 3
    both = sorted_files(root)
    assert len(both) == 4 and set(before) < set(both)
    users = tmp_path / "users"
    users.write_text("1\n")
    for command in (["gc", f"--root={root}"], ["erase", f"--root={root}", f"--users={users}"]):
        assert main([*command, "--quiet"]) == 0
        assert sorted_files(root) == both
    nobody_sorts(monkeypatch)
    assert main(["daily", *arguments]) == 3, "what was sorted for a night that was refused counts too"


@pytest.mark.parametrize("how", ["gone", "flipped", pytest.param("cut", marks=pytest.mark.slow)])
def test_a_table_that_is_damaged_is_made_again_and_that_is_said(here, tmp_path, how):
    world, root = here
    expected = night(world, copied(root, tmp_path / "other"), 2)
    first, second = sorted_files(root)
    with open(f"{root}/{first}", "rb") as file:
        sound = file.read()
    damage(root, first, how)
    found = night(world, root, 2)
    assert found.tables == expected.tables
    # Whoever plans a night sees what is gone or has another size: it is not there, and all is sorted as ever.
    assert found.count(Step.SHARD_PINS, Counter.SHARDS_DAMAGED) == (how == "flipped")
    assert sorted_files(root) == [first, second]
    with open(f"{root}/{first}", "rb") as file:
        assert file.read() == sound
    for counter in (Counter.VECTORS_READ, Counter.VECTORS_ZERO, Counter.PINS):
        assert found.count(Step.SHARD_PINS, counter) == expected.count(Step.SHARD_PINS, counter)


def test_where_nothing_says_whether_a_file_changed_each_night_sorts_for_itself(one_night, monkeypatch):
    world, root = one_night
    shutil.rmtree(f"{root}/sorted")
    found = [dataclasses.replace(file, stamp="") for file in list_vector_files(f"{world.folder}/pins")]
    monkeypatch.setattr(pin_vectors, "list_vector_files", lambda _: found)
    night(world, root, 1)
    assert not os.path.exists(f"{root}/sorted")


def test_a_table_of_which_another_pin_has_the_id_is_made_again(tmp_path, monkeypatch):
    """Names that are known may be those of another chain of nights than the one that sorted."""
    monkeypatch.setattr(id_columns, "hash_strings", weak_hash)
    root, folder = Root(str(tmp_path / "root")), str(tmp_path / "pins")
    names = [f"pin {number}" for number in range(40)]
    os.makedirs(folder)
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8)
    pq.write_table(pa.table({"pin_id": names, "vector": column}), f"{folder}/a.parquet", row_group_size=15)
    with open(f"{folder}/version.json", "w") as file:
        file.write('{"pinsage_version": "v"}')
    found = describe_vectors(folder, "v")
    run = RunFolder(root, "one", vectors_folder=vectors_folder(found, 1))
    sort, cut = SortShard(run, found, {}), CutVectors(run, 1, ())
    pieces = [piece for group in vector_groups(found) for _, piece in list(cut.process(group))[:-1]]
    of_sorting, table = sort.process((0, pieces))
    report = of_sorting.value[1]
    assert report.counters == {"vectors_read": 40, "vectors_zero": 0, "pins": 40}

    def kept(known: list[str]) -> tuple[StepReport, FileEntry]:
        inner = weak_hash(pa.array(known))
        table_of_names = pa.table({"pin_id": inner, "name": known}).sort_by("pin_id")
        entry = write_rows(root, "pin_names", 0, table_of_names)
        one, other = KeepTable(run, 1, found, {0: [entry]}).process((table, report))
        return one.value[1], other

    looked, same = kept(["pin 7", "another"])
    assert same == table and looked.counters == report.counters and looked.seconds > report.seconds
    again, other = kept(["rival of pin 7", "another"])
    assert again.counters == {"vectors_read": 40, "vectors_zero": 0, "vectors_collided": 1, "pins": 39}
    assert other.path != table.path and len(read_vector_table(root, other, "float16")[0]) == 39
    (letters,) = again.files["dead_letters"]
    assert read_files(root, [letters])["pin_name"].to_pylist() == ["pin 7"]


def test_what_stands_for_a_file_changes_with_it(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    (before,) = locations.list_entries(str(tmp_path))
    path.write_bytes(b"two")
    os.utime(path, ns=(before.modified_ns, before.modified_ns))
    (after,) = locations.list_entries(str(tmp_path))
    assert (after.bytes, after.modified_ns) == (before.bytes, before.modified_ns) and after.stamp != before.stamp
