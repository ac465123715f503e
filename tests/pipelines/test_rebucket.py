"""Rebucket: a root of other counts with the same rows, on which nights and readers go on."""

import os
import shutil

import numpy as np
import pytest

import tests.old_roots as old_roots
import transforms.rebucket as rebucketing
from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError
from stores.files import Root
from stores.kv import open_store
from stores.layout import find_root_id, require_layout
from stores.manifests import Manifest
from stores.names import Counter, Step
from stores.releases import chain, current_release, read_current
from stores.retriever import Retriever
from tests.pipelines.nights import first_night, make_world, read_table, run_night
from tests.pipelines.test_string_ids import renamed
from tests.s3_server import running_s3
from tests.worlds import day

TABLES = {"histories": "user_id", "user_embeddings": "user_id", "pin_embeddings": "pin_id"}


def newest(root: str) -> Manifest:
    manifest = read_current(Root(root))
    assert manifest is not None
    return manifest


def sorted_rows(root: str, table: str, key: str) -> list[dict]:
    """The rows of a table by id; those of an id in their order."""
    rows = read_table(root, newest(root), table).to_pylist()
    return sorted(rows, key=lambda row: row[key])


def assert_same_rows(root: str, other: str) -> None:
    for table, key in TABLES.items():
        rows = sorted_rows(root, table, key)
        assert len(rows) > 30 and rows == sorted_rows(other, table, key), table


def rebucket(root: str, out: str, *more: str) -> int:
    return main(["rebucket", f"--root={root}", f"--out={out}", "--quiet", *more])


# From four buckets and two shards: to more, to fewer, to what neither divides, and of one of the two alone.
@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        (["--user-buckets=16", "--pin-shards=4"], (16, 4)),
        (["--user-buckets=2", "--pin-shards=1"], (2, 1)),
        (["--user-buckets=6", "--pin-shards=3"], (6, 3)),
        (["--user-buckets=1"], (1, 2)),
        (["--pin-shards=8"], (4, 8)),
    ],
)
def test_every_row_is_there_and_verify_finds_it_sound(kept_nights, tmp_path, flags, counts):
    world, root = kept_nights.copy(2, str(tmp_path / "kept"))
    out = str(tmp_path / "out")
    before = newest(root)
    assert rebucket(root, out, *flags) == 0
    after, layout = newest(out), require_layout(Root(out))
    assert (layout.user_buckets, layout.pin_shards) == counts
    assert after.settings["layout"] == layout.to_json() and layout.history_length == 40
    for table, (key, parts) in {"histories": ("user", counts[0]), "indexes": ("pin", counts[1])}.items():
        assert sorted(after.parts(table)) == list(range(parts)), (table, key)
    assert_same_rows(root, out)
    assert read_table(root, before, "canaries").equals(read_table(out, after, "canaries"))
    assert [one.release for one in chain(Root(out))] == [one.release for one in chain(Root(root))]
    assert [one.inputs for one in chain(Root(out))] == [one.inputs for one in chain(Root(root))]
    assert find_root_id(Root(out)) != find_root_id(Root(root))
    assert main(["verify", f"--root={out}", f"--model={world.folder}/model", f"--pins={world.folder}/pins"]) == 0
    assert newest(root) == before


def test_histories_are_the_bytes_of_a_root_made_with_these_counts(kept_nights, tmp_path):
    world, root = kept_nights.copy(2, str(tmp_path / "kept"))
    out, made = str(tmp_path / "out"), str(tmp_path / "made")
    assert rebucket(root, out, "--user-buckets=6") == 0
    first_night(world, made, "--pin-shards=2", "--user-buckets=6")
    run_night(world, made, 1, "--publish=none")
    for table in ("histories", "pin_embeddings", "indexes"):
        files = [[(e.part, e.rows, e.checksum) for e in newest(one).tables[table]] for one in (out, made)]
        assert files[0] == files[1], table


def test_the_next_night_gives_the_same_rows(kept_nights, tmp_path):
    world, root = kept_nights.copy(2, str(tmp_path / "kept"))
    out = str(tmp_path / "out")
    assert rebucket(root, out, "--user-buckets=6", "--pin-shards=3") == 0
    nights = [run_night(world, one, 2, "--publish=none") for one in (root, out)]
    assert nights[0].release == nights[1].release == str(day(2))
    assert [one.inputs for one in nights[:1]] == [one.inputs for one in nights[1:]]
    # No pin changed: none is embedded again, and the new indexes are kept as the old ones are.
    for night, shards in zip(nights, (2, 3), strict=True):
        for step in (Step.EMBED_PINS, Step.BUILD_INDEXES):
            assert night.count(step, Counter.PINS_REUSED) == night.rows("pin_embeddings"), step
        assert night.count(Step.EMBED_PINS, Counter.PINS_EMBEDDED) == 0
        assert night.count(Step.BUILD_INDEXES, Counter.SHARDS_REUSED) == shards
    for table in ("histories", "pin_embeddings"):
        assert sorted_rows(root, table, TABLES[table]) == sorted_rows(out, table, TABLES[table])
    mine, theirs = (sorted_rows(one, "user_embeddings", "user_id") for one in (root, out))
    new = 0
    for one, other in zip(mine, theirs, strict=True):
        vectors = [np.frombuffer(row.pop("embedding"), np.float16).astype(np.float32) for row in (one, other)]
        assert one == other
        carried = one["embedding_date"] != day(2)
        new += not carried
        # Batch mates differ with the buckets: what is embedded tonight may differ in the last bit of a float16.
        assert (vectors[0] == vectors[1]).all() if carried else np.abs(vectors[0] - vectors[1]).max() < 1e-3
    assert 0 < new < len(mine)


def test_names_of_string_ids_come_along(tmp_path):
    world = renamed(make_world(str(tmp_path / "numbers")), str(tmp_path / "world"), hashed=False)
    root, out = str(tmp_path / "root"), str(tmp_path / "out")
    first_night(world, root, "--pin-shards=2")
    assert rebucket(root, out, "--user-buckets=8", "--pin-shards=3") == 0
    assert_same_rows(root, out)
    for table, key in (("user_names", "user_id"), ("pin_names", "pin_id")):
        rows = sorted_rows(root, table, key)
        assert rows and rows == sorted_rows(out, table, key)
    assert main(["verify", f"--root={out}"]) == 0


class CutOff(BaseException):
    """Stands for a kill: nothing catches it."""


def test_killed_at_any_file_it_is_no_root_and_goes_on(kept_nights, tmp_path, monkeypatch):
    _, root = kept_nights.copy(1, str(tmp_path / "kept"))
    whole, out = str(tmp_path / "whole"), str(tmp_path / "out")
    flags = ["--user-buckets=6", "--pin-shards=3"]
    assert rebucket(root, whole, *flags) == 0
    writes = {"left": 0, "made": 0}
    real = Root.write_named_by_content

    def write(self, *arguments):
        if self.url == out:
            writes["left"] -= 1
            if writes["left"] < 0:
                raise CutOff
            writes["made"] += 1
        return real(self, *arguments)

    monkeypatch.setattr(Root, "write_named_by_content", write)
    attempts = 0
    while current_release(Root(out)) is None:
        attempts += 1
        writes["left"] = 10  # a group of two parts that become three takes nine
        try:
            assert rebucket(root, out, *flags) == 0
        except CutOff:
            assert current_release(Root(out)) is None
            assert main(["status", f"--root={out}"]) == 1
            assert rebucket(root, out, "--user-buckets=5") == 2  # of something else
    assert attempts > 3
    assert newest(out).tables == newest(whole).tables
    assert Root(out).list("staging") == [] and not Root(out).exists("rebucket.json")
    assert rebucket(root, out, *flags) == 2  # it is there already


def test_what_it_refuses(kept_nights, tmp_path, capsys):
    _, root = kept_nights.copy(2, str(tmp_path / "kept"))
    out = str(tmp_path / "out")

    def refused(code: int, words: str, *flags: str, to: str = out) -> None:
        capsys.readouterr()
        assert rebucket(root, to, *flags) == code
        assert words in capsys.readouterr().err
        assert to == root or not Root(to).list("") or to == str(tmp_path / "other")

    refused(2, "has 4 and 2 of them", "--user-buckets=4")
    refused(2, "is --root, or lies in it", "--user-buckets=8", to=root)
    refused(2, "name every store", "--user-buckets=8", "--switch")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("a file of somebody")
    refused(2, "is there already, with mine.txt", "--user-buckets=8", to=str(tmp_path / "other"))
    refused(1, "is '2026' a release", "--user-buckets=8", "--release=2026")
    assert main(["gc", f"--root={root}", "--keep=1"]) == 0
    first = [one.release for one in chain(Root(root))][1]
    refused(1, "gc removed them", "--user-buckets=8", f"--release={first}")
    entry = newest(root).tables["pin_embeddings"][1]
    path = tmp_path / "kept" / "root" / entry.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    refused(1, "its content is not what the manifest says (sha256)", "--user-buckets=8")
    assert main(["rollback", f"--root={root}", "--reason=x", "--publish=none"]) == 1  # slimmed


def test_an_erasure_that_was_cut_off_is_not_carried_on(kept_nights, tmp_path, capsys):
    _, root = kept_nights.copy(1, str(tmp_path / "kept"))
    user = sorted_rows(root, "histories", "user_id")[0]["user_id"]
    Root(root).write_bytes("erased", f"{user}\n".encode())
    assert rebucket(root, str(tmp_path / "out"), "--user-buckets=8") == 1
    assert "an erasure was cut off" in capsys.readouterr().err
    assert current_release(Root(str(tmp_path / "out"))) is None


def test_it_works_from_and_to_an_object_store(kept_nights, tmp_path):
    _, root = kept_nights.copy(1, str(tmp_path / "kept"))
    with pytest.MonkeyPatch.context() as patch, running_s3(patch) as bucket:
        there, back = f"{bucket}/out", str(tmp_path / "back")
        assert rebucket(root, there, "--user-buckets=6", "--pin-shards=3") == 0
        assert_same_rows(root, there)
        assert rebucket(there, back, "--user-buckets=4", "--pin-shards=2") == 0
        assert_same_rows(root, back)
        assert Root(there).list("staging") == [] and rebucket(root, there, "--user-buckets=6") == 2
    for table in ("histories", "indexes"):
        sums = [sorted(e.checksum for e in newest(one).tables[table]) for one in (root, back)]
        assert sums[0] == sums[1]


def answers(root: str, kv: str, user: int) -> tuple[list[int], list[float]]:
    with Retriever(root, kv) as retriever:
        found = retriever.retrieve(user, k=10, exclude_engaged=True)
        return found.pin_ids.tolist(), found.scores.tolist()


def test_readers_follow_by_one_switch(kept_nights, tmp_path, kv, capsys):
    world, root = kept_nights.copy(1, str(tmp_path / "kept"))
    out = str(tmp_path / "out")
    run_night(world, root, 1, f"--kv={kv}")
    assert rebucket(root, out, "--user-buckets=6", "--pin-shards=3") == 0
    users = sorted({row["user_id"] for row in sorted_rows(root, "user_embeddings", "user_id")})
    before = {user: answers(root, kv, user) for user in users[:5]}
    with pytest.raises(StoreError, match="of another root"):
        answers(out, kv, users[0])
    with EmbeddingClient(kv) as client, Retriever(root, kv) as opened:
        vectors = client.get_many(users)[0]
        opened.retrieve(users[0], k=10)
        served = client.current
        assert rebucket(root, out, "--switch", f"--kv={kv}") == 0
        assert "0 users sent, 0 deleted" in capsys.readouterr().err
        assert client.current == served and (client.get_many(users)[0] == vectors).all()
        assert rebucket(root, out, "--switch", f"--kv={kv}") == 0  # again
        # Who was given the old root finds the new one, and gets the same.
        for one in (root, out):
            for user, (pins, scores) in before.items():
                found = answers(one, kv, user)
                assert found[0] == pins and np.allclose(found[1], scores)
        assert main(["status", f"--root={root}", f"--kv={kv}", "--max-age=90000d"]) == 1
        assert f"moved: {out} took the place" in capsys.readouterr().err
        # Nights go on there, and readers of the old root with them, open ones too.
        arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(2)}", f"--kv={kv}", "--quiet"]
        capsys.readouterr()
        assert main(arguments) == 1
        assert f"give --root {out}" in capsys.readouterr().err
        run_night(world, out, 2, f"--kv={kv}")
        assert client.current.generation == served.generation and client.current.release == str(day(2))
        late = opened.retrieve(users[0], k=10, exclude_engaged=True)
        assert late.release == str(day(2)) and late.pin_ids.tolist() == answers(out, kv, users[0])[0]
    shutil.rmtree(out)
    assert main(["rollback", f"--root={root}", "--lift-hold"]) == 0
    run_night(world, root, 2, f"--kv={kv}")  # and back again
    assert answers(root, kv, users[0])[0] == late.pin_ids.tolist()


def test_the_switch_takes_nobody_back(kept_nights, tmp_path, capsys):
    world, root = kept_nights.copy(1, str(tmp_path / "kept"))
    out, kv = str(tmp_path / "out"), f"lmdb://{tmp_path}/kv"
    assert rebucket(root, out, "--user-buckets=6") == 0
    run_night(world, root, 1, f"--kv={kv}")
    assert rebucket(root, out, "--switch", f"--kv={kv}") == 2
    assert f"daily --root {out} --date {day(1)}" in capsys.readouterr().err
    with open_store(kv, "pinnerformer") as store:
        assert store.contents()[store.current().generation].root == find_root_id(Root(root))
    run_night(world, out, 1, "--publish=none")
    assert rebucket(root, out, "--switch", f"--kv={kv}") == 0


def test_groups_hold_every_part_once():
    for old, new in ((4, 16), (16, 4), (6, 4), (5, 7), (1, 3), (8, 8)):
        groups = rebucketing.group_parts(old, new)
        for side, count in ((0, old), (1, new)):
            assert sorted(part for group in groups for part in group[side]) == list(range(count))
        ids = np.arange(1000)
        pairs = set(zip((ids % old).tolist(), (ids % new).tolist(), strict=True))
        assert pairs == {(a, b) for before, after in groups for a in before for b in after}


def test_a_root_of_the_version_before_is_taken_over(tmp_path):
    root, out = str(tmp_path / "root"), str(tmp_path / "out")
    old = os.path.join(os.path.dirname(old_roots.__file__), "v1")
    shutil.copytree(f"{old}/root", root)
    shutil.copy(f"{old}/PINNED", root)
    assert rebucket(root, out, "--user-buckets=4", "--pin-shards=2") == 1  # it is held
    assert main(["rollback", f"--root={root}", "--lift-hold"]) == 0
    assert rebucket(root, out, "--user-buckets=4", "--pin-shards=2") == 0
    assert main(["verify", f"--root={out}"]) == 0
    for table, key in TABLES.items():
        assert sorted_rows(root, table, key) == sorted_rows(out, table, key) != []
