"""Ids that are strings, through nights and a backfill: the same tables as of a root whose logs have the hashes."""

import glob
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from stores.files import Root
from stores.layout import read_layout
from stores.releases import chain, read_current
from stores.string_ids import hash_strings, hash_text
from tests.pipelines.nights import World, first_night, make_world, read_table, run_night
from tests.worlds import FIRST, day

INNER = ("histories", "user_embeddings", "pin_embeddings", "indexes", "canaries")


def name_user(user: int) -> str:
    return f"u\N{LATIN SMALL LETTER E WITH ACUTE}-{user}"


def name_pin(pin: int) -> str:
    return f"SKU {pin:04d} of a catalogue with long numbers"


def rename(column: pa.ChunkedArray, name, hashed: bool, kind: pa.DataType) -> pa.Array:
    """The column with strings, or with their hashes; invalid pins (negative) become the empty string."""
    strings = [None if one is None else "" if one < 0 and name is name_pin else name(one) for one in column.to_pylist()]
    if not hashed:
        return pa.array(strings, pa.string()).cast(kind)
    return pa.array([None if text is None else -1 if text == "" else hash_text(text) for text in strings], pa.int64())


def renamed(world: World, folder: str, *, hashed: bool, kind: pa.DataType | None = None) -> World:
    """A copy of a world whose ids are strings, or the hashes of the same strings."""
    shutil.copytree(world.folder, folder)
    for path in glob.glob(f"{folder}/*/**/*.parquet", recursive=True):
        table, groups = pq.read_table(path), 97 if "/logs/" in path else 31
        for key, name in (("user_id", name_user), ("pin_id", name_pin)):
            if key in table.schema.names:
                at = table.schema.get_field_index(key)
                table = table.set_column(at, key, rename(table[key], name, hashed, kind or pa.string()))
        pq.write_table(table, path, row_group_size=groups)
    return World(folder, world.rows, world.late, world.vectors)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("strings"))
    world = make_world(f"{folder}/numbers")
    return renamed(world, f"{folder}/named", hashed=False), renamed(world, f"{folder}/hashed", hashed=True)


def checksums(manifest, tables) -> dict[str, list]:
    return {table: [(e.part, e.rows, e.checksum) for e in manifest.tables[table]] for table in tables}


def names_of(root: str, manifest, table: str) -> dict[int, str]:
    rows = read_table(root, manifest, table)
    ids = rows.column(0).to_pylist()
    assert len(set(ids)) == len(ids)
    return dict(zip(ids, rows["name"].to_pylist(), strict=True))


def check_names(root: str, manifest) -> None:
    """Everybody in a table has a name whose hash is the id; nobody else has one, pins of the logs and vectors do."""
    users = names_of(root, manifest, "user_names")
    assert set(users) == set(read_table(root, manifest, "histories")["user_id"].to_pylist())
    pins = names_of(root, manifest, "pin_names")
    assert set(pins) >= set(read_table(root, manifest, "histories")["pin_id"].to_pylist())
    assert set(pins) >= set(read_table(root, manifest, "pin_embeddings")["pin_id"].to_pylist())
    for names in (users, pins):
        assert hash_strings(pa.array(list(names.values()))).tolist() == list(names)
    for table in ("user_names", "pin_names"):
        for entries in manifest.parts(table).values():
            ids = pq.read_table(f"{root}/{entries[0].path}").column(0).to_numpy()
            assert (np.diff(ids) > 0).all()


def test_nights_with_strings_equal_nights_with_their_hashes(worlds, tmp_path):
    named, hashed = worlds
    roots = {"named": str(tmp_path / "named"), "hashed": str(tmp_path / "hashed")}
    for number in range(3):
        manifests = {}
        for kind, world in (("named", named), ("hashed", hashed)):
            flags = ("--publish=none",)
            night = first_night(world, roots[kind], "--pin-shards=2") if number == 0 else None
            manifests[kind] = night or run_night(world, roots[kind], number, *flags)
        assert checksums(manifests["named"], INNER) == checksums(manifests["hashed"], INNER)
        assert set(manifests["hashed"].tables) == set(INNER)
        check_names(roots["named"], manifests["named"])
    layout = read_layout(Root(roots["named"]))
    assert (layout.user_ids, layout.pin_ids) == ("string", "string")
    counters = manifests["named"].counters["read_logs"]
    assert counters["dropped_empty_pin_id"] == 1 and counters["dropped_negative_pin_id"] == 0
    (dead,) = glob.glob(f"{roots['named']}/releases/{day(2)}/dead_letters/*b*.parquet")[:1] or [None]
    rows = pa.concat_tables(
        [pq.read_table(path) for path in glob.glob(f"{roots['named']}/releases/{day(2)}/dead_letters/*.parquet")]
    )
    assert {"user_name", "pin_name", "reason", "row", "file"} <= set(rows.schema.names)
    late = rows.filter(pc.equal(rows["reason"].cast(pa.string()), "timestamp_after_partition")).to_pylist()
    assert late and all(hash_text(row["user_name"]) == row["user_id"] for row in late)


def test_a_backfill_gives_the_bytes_of_the_nights(worlds, tmp_path):
    named, _ = worlds
    nights, filled = str(tmp_path / "nights"), str(tmp_path / "filled")
    made = [first_night(named, nights, "--pin-shards=2")]
    made += [run_night(named, nights, number, "--publish=none") for number in (1, 2)]
    flags = [f"--start={FIRST}", f"--end={day(2)}", f"--bootstrap-from={FIRST}", "--user-buckets=4", "--pin-shards=2"]
    code = main(
        ["backfill", f"--root={filled}", *named.inputs, *flags, "--history-length=40", "--publish=none", "--quiet"]
    )
    assert code == 0
    again = list(reversed(list(chain(Root(filled)))))
    assert len(again) == 3
    for one, other in zip(made, again, strict=True):
        tables = [table for table in one.tables if table not in ("pin_embeddings", "indexes")]
        assert checksums(one, tables) == checksums(other, tables)
        paths = {e.path for t in ("user_names", "pin_names") for e in one.tables[t]}
        assert paths == {e.path for t in ("user_names", "pin_names") for e in other.tables[t]}
        assert one.counters["name_pins"] == other.counters["name_pins"]
    assert not os.path.exists(f"{filled}/staging/{again[-1].settings['run']}/pin_names")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_other_types_of_strings_give_the_same_release(worlds, tmp_path, kind):
    named, _ = worlds
    roots = [str(tmp_path / name) for name in ("one", "other")]
    other = renamed(make_world(str(tmp_path / "world")), str(tmp_path / "renamed"), hashed=False, kind=kind)
    first, second = first_night(named, roots[0]), first_night(other, roots[1])
    tables = (*INNER, "user_names", "pin_names")
    assert checksums(first, tables) == checksums(second, tables)


def test_numbers_against_a_root_of_strings_and_the_reverse(worlds, tmp_path, capsys):
    named, hashed = worlds
    for first, second, has, wants in ((named, hashed, "int64", "string"), (hashed, named, "string", "int64")):
        root = str(tmp_path / wants)
        first_night(first, root)
        shutil.copytree(f"{first.folder}/logs", tmp_path / f"logs-{wants}")
        shutil.copy(f"{second.folder}/logs/ds={day(1)}/a.parquet", tmp_path / f"logs-{wants}/ds={day(1)}/a.parquet")
        shutil.copy(f"{second.folder}/logs/ds={day(1)}/b.parquet", tmp_path / f"logs-{wants}/ds={day(1)}/b.parquet")
        night = ["daily", f"--root={root}", f"--date={day(1)}", "--publish=none", "--quiet"]
        assert main([*night, f"--logs={tmp_path}/logs-{wants}", *first.inputs[1:]]) == 1
        said = capsys.readouterr().err
        assert f"ds={day(1)}/a.parquet: column 'user_id' is of {has}" in said
        assert f"layout.json says user_ids {wants}" in said and "start a new --root" in said
        # The vectors too must be of the logs' kind.
        logs, pins, model = first.inputs
        assert main([*night, logs, second.inputs[1], model]) == 1
        said = capsys.readouterr().err
        assert f"vectors.parquet: column 'pin_id' is of {has}, and the pins of the logs are of {wants}" in said
        assert read_current(Root(root)).day == day(0)


def test_files_of_both_kinds_are_refused(worlds, tmp_path, capsys):
    named, hashed = worlds
    shutil.copytree(named.folder, tmp_path / "mixed")
    shutil.copy(f"{hashed.folder}/logs/ds={day(0)}/b.parquet", tmp_path / f"mixed/logs/ds={day(0)}/b.parquet")
    mixed = World(str(tmp_path / "mixed"), named.rows, named.late, named.vectors)
    flags = [f"--root={tmp_path}/root", f"--date={day(0)}", f"--bootstrap-from={FIRST}", "--publish=none", "--quiet"]
    assert main(["daily", *flags, *mixed.inputs]) == 1
    said = capsys.readouterr().err
    assert "b.parquet: column 'user_id' is of int64" in said and "a.parquet of string" in said
    assert "write the ids of all files as one of the two" in said


def test_a_model_is_made_for_strings_as_for_their_hashes(worlds, tmp_path):
    digests = []
    for kind, world in zip(("named", "hashed"), worlds, strict=True):
        assert main(["init-model", "--preset=tiny", *world.inputs[:2], f"--out={tmp_path}/{kind}", "--seed=3"]) == 0
        with open(f"{tmp_path}/{kind}/model.safetensors", "rb") as file:
            digests.append(file.read())
    assert digests[0] == digests[1]
