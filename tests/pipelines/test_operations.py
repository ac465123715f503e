"""What an operator does to a root between nights: gc, verify, erase; on one small root of four nights."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from stores import erasure
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.kv import open_store
from stores.manifests import read_manifest, write_manifest
from stores.releases import chain, read_current
from stores.tables import read_files, write_part
from tests.pipelines.nights import World, first_night, histories_of, make_world, run_night, vectors_of
from tests.worlds import day, write_file


@dataclasses.dataclass
class Kept:
    world: World
    root: str
    kv: str

    def of_root(self, command: str, *more: str) -> int:
        return main([command, f"--root={self.root}", f"--kv={self.kv}", *more])

    def verify(self, *more: str) -> int:
        folder = self.world.folder
        return self.of_root("verify", f"--model={folder}/model", f"--pins={folder}/pins", "--users=15", *more)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Kept:
    folder = str(tmp_path_factory.mktemp("made"))
    kept = Kept(make_world(folder), f"{folder}/root", f"lmdb://{folder}/kv")
    first_night(kept.world, kept.root, "--user-buckets=2", "--pin-shards=2")
    for number in (1, 2, 3):
        run_night(kept.world, kept.root, number, f"--kv={kept.kv}")
    return kept


@pytest.fixture
def kept(made, tmp_path) -> Kept:
    """A copy for a test to break."""
    shutil.copytree(os.path.dirname(made.root), tmp_path / "copy")
    folder = str(tmp_path / "copy")
    return Kept(dataclasses.replace(made.world, folder=folder), f"{folder}/root", f"lmdb://{folder}/kv")


def files_under(folder: str) -> dict[str, int]:
    return {
        os.path.relpath(os.path.join(where, name), folder): os.path.getsize(os.path.join(where, name))
        for where, _, names in os.walk(folder)
        for name in names
        if name != "lease.json" and not name.startswith(".lock")
    }


def named(root: str) -> set[str]:
    releases = [m for m in chain(Root(root))]
    return {entry.path for m in releases for entries in m.tables.values() for entry in entries}


# gc


def test_gc_keeps_what_is_kept_and_removes_the_rest(kept, capsys):
    before = files_under(kept.root)
    assert kept.of_root("gc", "--keep=2", "--keep-snapshots=3", "--dry-run") == 0
    assert files_under(kept.root) == before and "would be slimmed" in capsys.readouterr().out
    os.makedirs(f"{kept.root}/staging/daily-2020-01-01-dead", exist_ok=True)
    with open(f"{kept.root}/staging/daily-2020-01-01-dead/x.json", "w") as file:
        file.write("{}")
    os.utime(file.name, (1e9, 1e9))
    strays = ["histories/2026-11-01/part-00000-stray.parquet", "histories/2026-11-01/.tmp-left"]
    strays += [".tmp-current", f"releases/{day(1)}/.tmp-manifest", f"releases/{day(1)}/dead_letters/.tmp-rows"]
    for stray in strays:
        with open(f"{kept.root}/{stray}", "w") as file:
            file.write("left by a killed worker")
        os.utime(file.name, (1e9, 1e9))
    for young in ("histories/2026-11-01/part-00000-young.parquet", "indexes/2026-11-01/.tmp-young", ".tmp-young"):
        with open(f"{kept.root}/{young}", "w") as file:
            file.write("being written by a worker that outlived its driver")
    assert kept.of_root("gc", "--keep=2", "--keep-snapshots=3") == 0
    assert not any(os.path.exists(f"{kept.root}/{stray}") for stray in strays)
    for young in ("histories/2026-11-01/part-00000-young.parquet", "indexes/2026-11-01/.tmp-young", ".tmp-young"):
        os.remove(f"{kept.root}/{young}")
    releases = {m.release: m for m in chain(Root(kept.root))}
    assert [releases[str(day(n))].dropped for n in (3, 2)] == [[], []]
    assert releases[str(day(1))].dropped == ["histories", "pin_embeddings", "indexes", "canaries"]
    assert releases[str(day(0))].dropped == ["histories", "user_embeddings", "pin_embeddings", "indexes", "canaries"]
    assert all(m.inputs for m in releases.values())  # what was read stays known
    left = {
        path for path in files_under(kept.root) if path.split("/")[0] in ("histories", "user_embeddings", "indexes")
    }
    assert left <= named(kept.root) and named(kept.root) <= set(files_under(kept.root))
    assert not os.path.exists(f"{kept.root}/staging/daily-2020-01-01-dead")
    for number in (3, 2, 1):
        assert main(["verify", f"--root={kept.root}", f"--release={day(number)}"]) == 0
    assert kept.verify() == 0
    before = files_under(kept.root)
    assert kept.of_root("gc", "--keep=2", "--keep-snapshots=3") == 0 and files_under(kept.root) == before
    assert main(["rollback", f"--root={kept.root}", "--publish=none", "--reason=x", f"--to={day(1)}"]) == 1
    assert "gc removed them" in capsys.readouterr().err
    # A late file of a day that only a slimmed release has read, and the days that it read: neither is missed.
    write_file(f"{kept.world.folder}/logs", 1, kept.world.late, "late.parquet")
    after = run_night(kept.world, kept.root, 4, f"--kv={kept.kv}")
    assert [file["path"] for file in after.inputs] == [
        f"ds={day(1)}/late.parquet",
        f"ds={day(4)}/a.parquet",
        f"ds={day(4)}/b.parquet",
    ]


def test_gc_never_slims_what_a_store_serves(kept):
    root = Root(kept.root)
    assert main(["rollback", f"--root={kept.root}", f"--kv={kept.kv}", "--reason=x", f"--to={day(0)}"]) == 0
    root.remove("HELD")
    root.write_bytes("CURRENT", f"{day(3)}\n".encode())  # committed, and not published yet
    assert kept.of_root("gc", "--keep=1", "--keep-snapshots=1") == 0
    assert {m.release: bool(m.dropped) for m in chain(root)} == {
        str(day(3)): False,
        str(day(2)): True,
        str(day(1)): True,
        str(day(0)): False,
    }


def test_gc_stopped_halfway_does_the_rest(kept, monkeypatch):
    remove, left = Root.remove, [3]

    def stumbling(self, relative):
        if relative.startswith("histories/"):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        remove(self, relative)

    with monkeypatch.context() as patched:
        patched.setattr(Root, "remove", stumbling)
        assert kept.of_root("gc", "--keep=1", "--keep-snapshots=1") == 1
    assert named(kept.root) <= set(files_under(kept.root))
    os.remove(f"{kept.root}/lease.json") if os.path.exists(f"{kept.root}/lease.json") else None
    assert kept.of_root("gc", "--keep=1", "--keep-snapshots=1", "--grace=0s") == 0
    tables = ("histories", "user_embeddings", "pin_embeddings", "indexes", "canaries")
    assert {p for p in files_under(kept.root) if p.split("/")[0] in tables} == named(kept.root)


# verify


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


def rewrite(kept: Kept, table: str, change) -> str:
    """Writes a part of CURRENT again, with a manifest that agrees: no checksum shows it."""
    root = Root(kept.root)
    manifest = read_current(root)
    entry = manifest.tables[table][0]
    new = write_part(root, table, manifest.day, entry.part, change(read_files(root, [entry])))
    tables = {**manifest.tables, table: [new, *manifest.tables[table][1:]]}
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


def test_a_store_that_does_not_hold_the_release(kept, capsys):
    users = np.array(sorted(vectors_of(kept.root, read_current(Root(kept.root)))))
    with open_store(kept.kv) as store:
        store.delete_users(store.current().generation, users[:3])
    assert kept.verify("--users=1000") == 1
    error = capsys.readouterr().err
    assert "holds" in error and f"user {users[0]}: missing" in error
    assert kept.of_root("verify", f"--release={day(2)}") == 1
    assert f"serves {day(3)}, not {day(2)}" in capsys.readouterr().err


# erase

GONE = [-5, 0, 3, 7]


@pytest.fixture
def leavers(kept) -> str:
    path = f"{kept.world.folder}/leavers.txt"
    with open(path, "w") as file:
        file.write("\n".join(map(str, GONE)) + "\n")
    return path


def test_nothing_is_left_of_the_erased_and_everything_of_the_rest(kept, leavers, capsys):
    root = Root(kept.root)
    before = {m.release: (histories_of(kept.root, m), vectors_of(kept.root, m)) for m in chain(root)}
    assert all(user in found for found in before[str(day(3))] for user in GONE)
    dead = pq.read_table(f"{kept.root}/releases/{day(0)}/dead_letters")
    assert np.isin(dead["user_id"].drop_null().to_numpy(), GONE).any()
    assert kept.verify(f"--erased={leavers}") == 1
    capsys.readouterr()
    assert kept.of_root("erase", f"--users={leavers}") == 0
    marker = json.loads(capsys.readouterr().out)
    assert marker["users"] == 4 and marker["releases"] == 4 and sum(marker["stored"].values()) == 4
    assert marker["rows"]["histories"] and marker["rows"]["user_embeddings"] and marker["dead_letters"]
    for manifest in chain(root):
        histories, vectors = before[manifest.release]
        assert histories_of(kept.root, manifest) == {u: rows for u, rows in histories.items() if u not in GONE}
        assert vectors_of(kept.root, manifest) == {u: v for u, v in vectors.items() if u not in GONE}
        assert manifest.revision == 2
    with EmbeddingClient(kept.kv) as client:
        assert not client.get_many(GONE)[2].any()
    assert kept.verify(f"--erased={leavers}", "--users=1000") == 0
    assert main(["verify", f"--root={kept.root}", f"--release={day(1)}"]) == 0
    # Again: harmless. And the rows that come back, by delivery and by lookback, are not taken in.
    assert kept.of_root("erase", f"--users={leavers}") == 0
    assert [m.revision for m in chain(root)] == [2] * 4
    write_file(f"{kept.world.folder}/logs", 1, kept.world.late, "late.parquet")
    after = run_night(kept.world, kept.root, 4, f"--kv={kept.kv}")
    assert after.counters["read_logs"]["rows_erased"] > 0
    assert kept.verify(f"--erased={leavers}") == 0


def test_an_erasure_stopped_halfway_is_finished_by_the_next(kept, leavers, monkeypatch, capsys):
    write, left = erasure.write_manifest, [2]

    def stumbling(root, manifest):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(root, manifest)

    with monkeypatch.context() as patched:
        patched.setattr(erasure, "write_manifest", stumbling)
        assert kept.of_root("erase", f"--users={leavers}") == 1
    for manifest in chain(Root(kept.root)):  # whatever is named is there
        assert all(os.path.exists(f"{kept.root}/{e.path}") for found in manifest.tables.values() for e in found)
    assert kept.of_root("erase", f"--users={leavers}") == 0
    assert kept.verify(f"--erased={leavers}", "--users=1000") == 0


def test_lists_that_are_none(kept, tmp_path, capsys):
    for text, said in ((b"1\ntwo\n", "line 2: 'two'"), (b"\n", "nobody in it"), (b"99999999999999999999", "line 1")):
        (tmp_path / "list").write_bytes(text)
        assert kept.of_root("erase", f"--users={tmp_path}/list") == 2
        assert said in capsys.readouterr().err.splitlines()[0]
    assert kept.of_root("erase", f"--users={tmp_path}/none") == 2
    assert not os.path.exists(f"{kept.root}/erased")
    assert read_manifest(Root(kept.root), str(day(3))).revision == 1


def test_timelines_under_the_root_go_and_their_neighbours_stay(kept, leavers, capsys):
    """Training data that holds one of the erased is removed whole; it is made again without them."""
    logs, pins = f"{kept.world.folder}/logs", f"{kept.world.folder}/pins"
    dates = [f"--start={day(0)}", f"--end={day(1)}"]
    with open(f"{kept.world.folder}/rule", "w") as file:
        json.dump({"surfaces": ["home"], "actions": {"click": 0.0, "repin": 0.0}}, file)
    given = [f"--logs={logs}", f"--pins={pins}", f"--model={kept.world.folder}/model", f"--label-rule={file.name}"]
    make = ["training-data", *given, *dates]
    for name in ("training/all", "training/others"):
        assert main([*make, f"--out={kept.root}/{name}"]) == 0
    others = f"{kept.root}/training/others"
    for folder, _, names in os.walk(others):
        for name in names:
            if name.endswith(".parquet"):
                rows = pq.read_table(os.path.join(folder, name))
                pq.write_table(rows.filter(pa.array(~np.isin(rows["user_id"], GONE))), os.path.join(folder, name))
    shutil.copytree(kept.world.folder + "/model", f"{kept.root}/training/model")
    shutil.copytree(logs, f"{kept.root}/logs")
    shutil.copytree(pins, f"{kept.root}/pins")
    capsys.readouterr()
    assert kept.of_root("erase", f"--users={leavers}") == 0
    marker = json.loads(capsys.readouterr().out)
    assert marker["training_data_deleted"] == ["training/all"]
    assert not os.path.exists(f"{kept.root}/training/all")
    left = {"training/others/timelines.json", "training/model/config.json", "pins/vectors.parquet"}
    assert left <= set(files_under(kept.root)) and os.path.exists(f"{kept.root}/logs/ds={day(1)}/a.parquet")
    assert kept.verify(f"--erased={leavers}") == 1  # logs are the owner's; they are named
    assert "/logs/" in capsys.readouterr().err
    shutil.rmtree(f"{kept.root}/logs")
    assert kept.verify(f"--erased={leavers}") == 0
    # Made again from the logs, with the root that knows who left, they stay out.
    assert main([*make, f"--root={kept.root}", f"--out={kept.root}/training/all"]) == 0
    assert kept.verify(f"--erased={leavers}") == 0
