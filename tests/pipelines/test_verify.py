"""verify: finds what checksums show, and what they do not."""

import dataclasses
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest

from pipelines.cli import main
from stores.files import Root
from stores.kv import open_store
from stores.manifests import write_manifest
from stores.releases import read_current
from stores.tables import read_files, write_part
from tests.pipelines.nights import PublishedRoot, World, read_table, run_night, vectors_of
from tests.pipelines.test_reuse import change
from tests.worlds import day, make_vectors


def test_a_sound_release_verifies(kept, capsys):
    assert kept.verify() == 0
    said = capsys.readouterr().out
    assert "15 users made again: as it should be" in said and said.count("as it should be") == 5


@pytest.mark.parametrize("table", ["histories", "user_embeddings", "pin_embeddings", "indexes", "canaries"])
def test_a_flipped_bit_is_found_in_every_kind_of_file(kept, capsys, table):
    manifest = read_current(Root(kept.root))
    for entry in manifest.tables[table]:
        path = f"{kept.root}/{entry.path}"
        with open(path, "r+b") as file:
            content = bytearray(file.read())
            content[len(content) // 2] ^= 4
            file.seek(0)
            file.write(content)
        capsys.readouterr()
        assert kept.verify() == 1
        assert path in capsys.readouterr().err.splitlines()[0]
        content[len(content) // 2] ^= 4
        with open(path, "wb") as file:
            file.write(content)


def test_damaged_manifests_and_layouts_are_found(kept, capsys):
    for path in ("layout.json", f"releases/{day(3)}/manifest.json"):
        with open(f"{kept.root}/{path}", "r+") as file:
            text = file.read()
            file.seek(0)
            file.write(text.replace('"', "'", 1))
        assert kept.verify() == 1 and path in capsys.readouterr().err.splitlines()[0]
        with open(f"{kept.root}/{path}", "w") as file:
            file.write(text)


def rewrite(kept: PublishedRoot, table: str, change, part: int | None = None) -> str:
    """Writes a part of CURRENT again, by default the first, with a manifest that agrees: no checksum shows it."""
    root = Root(kept.root)
    manifest = read_current(root)
    entries = manifest.tables[table]
    entry = next(entry for entry in entries if part in (None, entry.part))
    new = write_part(root, table, manifest.day, entry.part, change(read_files(root, [entry])))
    tables = {**manifest.tables, table: [new if one == entry else one for one in entries]}
    write_manifest(root, dataclasses.replace(manifest, tables=tables))
    return new.path


def test_what_no_checksum_shows(kept, capsys):
    shutil.copytree(kept.root, f"{kept.root}-before")

    def wrong(table: str, change, *expected: str) -> None:
        shutil.rmtree(kept.root)
        shutil.copytree(f"{kept.root}-before", kept.root)
        path = rewrite(kept, table, change)
        capsys.readouterr()
        assert kept.verify("--users=1000") == 1
        error = capsys.readouterr().err
        assert all(text in error for text in expected or [path]), error

    wrong("user_embeddings", lambda rows: rows.take(np.arange(len(rows))[::-1]))
    wrong("histories", lambda rows: rows.take(np.arange(len(rows))[::-1]), "not in order")
    wrong("pin_embeddings", lambda rows: rows.slice(1), "pins differ")
    swapped = np.r_[1, 0]

    def swap_vectors(rows):
        order = np.r_[swapped, np.arange(2, len(rows))]
        return rows.set_column(1, "embedding", rows["embedding"].take(order))

    wrong("user_embeddings", swap_vectors, "made again, the vector has cosine", "not the vector of")


@pytest.mark.parametrize("forced", [None, "a holiday"])
def test_what_wider_limits_or_an_operator_let_through_is_no_damage(kept, capsys, forced):
    root = Root(kept.root)
    manifest = read_current(root)
    one = read_files(root, manifest.tables["user_embeddings"])["embedding"][0]

    def make_alike(rows):
        alike = pa.array([one.as_py()] * len(rows), one.type)
        return rows.set_column(rows.column_names.index("embedding"), "embedding", alike)

    for part in manifest.parts("user_embeddings"):
        rewrite(kept, "user_embeddings", make_alike, part)
    assert main(["verify", f"--root={kept.root}"]) == 1
    assert "users_alike: 1.0" in capsys.readouterr().err
    manifest = read_current(root)
    wide = {"users_alike": 1.1, "coverage_pins": 5}
    allowed = "threshold" if forced is None else "measured"
    gates = [
        {**gate, allowed: wide[gate["name"]], "forced": forced} if gate["name"] in wide else gate
        for gate in manifest.gates
    ]
    assert {gate["name"] for gate in gates} >= set(wide)
    write_manifest(root, dataclasses.replace(manifest, gates=gates))
    assert main(["verify", f"--root={kept.root}"]) == 0, capsys.readouterr().err


def test_a_store_that_does_not_hold_the_release(kept, capsys):
    users = np.array(sorted(vectors_of(kept.root, read_current(Root(kept.root)))))
    with open_store(kept.kv) as store:
        store.delete_users(store.current().generation, users[:3])
    assert kept.verify("--users=1000") == 1
    error = capsys.readouterr().err
    assert "holds" in error and f"user {users[0]}: missing" in error
    assert kept.of_root("verify", f"--release={day(2)}") == 1
    assert f"serves {day(3)}, not {day(2)}" in capsys.readouterr().err


def test_users_of_a_night_with_other_pins_are_not_made_again(one_night, capsys):
    """Pins change from night to night: whoever was carried over has a vector of what they were."""
    world, root = one_night
    other = make_vectors(90, seed=6)
    changed = change(world, {pin: other[pin] for pin in list(world.vectors)[::4] if pin in other and pin != 3})
    given = [f"--root={root}", f"--model={world.folder}/model", f"--pins={world.folder}/pins", "--users=100"]
    run_night(changed, root, 1, "--publish=none", "--gates=" + with_limits(world, "max_pins_moved: 1"))
    assert main(["verify", *given]) == 0
    said = capsys.readouterr().out
    asked, left = re.search(
        r"(\d+) users made again, (\d+) of a night with other --pins left out: as it", said
    ).groups()
    rows = read_table(root, read_current(Root(root)), "user_embeddings").to_pylist()
    assert int(left) == sum(row["embedding_date"] != day(1) for row in rows) > 0 and int(asked) + int(left) == len(rows)
    # Of those who were embedded with these all are asked: with others they are another's.
    change(world, {})
    assert main(["verify", *given]) == 1


def with_limits(world: World, lines: str) -> str:
    path = f"{world.folder}/limits.yaml"
    with open(path, "w") as file:
        file.write(lines)
    return path
