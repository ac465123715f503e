"""erase: nothing is left of who left, and everything of the rest."""

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
from stores.manifests import read_manifest
from stores.releases import chain
from tests.pipelines.nights import files_under, histories_of, run_night, vectors_of
from tests.worlds import day, write_file

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
    report = json.loads(capsys.readouterr().out)
    assert report["users"] == 4 and report["releases"] == 4 and sum(report["stored"].values()) == 4
    assert report["rows"]["histories"] and report["rows"]["user_embeddings"] and report["dead_letters"]
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
    capsys.readouterr()
    assert kept.of_root("verify", f"--erased={tmp_path}/none") == 2
    assert f"--erased {tmp_path}/none: No such file" in capsys.readouterr().err
    assert not os.path.exists(f"{kept.root}/erased")
    assert read_manifest(Root(kept.root), str(day(3))).revision == 1


def test_a_list_of_nobody_is_said(kept, tmp_path, capsys):
    (tmp_path / "list").write_text("999999999\n")
    assert kept.of_root("erase", f"--users={tmp_path}/list") == 0
    assert "warning: none of the 1 ids is in a release or a store given" in capsys.readouterr().err


def test_that_no_store_was_given_is_said(kept, leavers, capsys):
    assert main(["erase", f"--root={kept.root}", f"--users={leavers}"]) == 0
    assert "warning: no store was given (--kv)" in capsys.readouterr().err
    assert main(["verify", f"--root={kept.root}", f"--erased={leavers}"]) == 0
    assert "no store was given (--kv), and so none looked at" in capsys.readouterr().out
    assert kept.of_root("verify", f"--erased={leavers}") == 1
    assert kept.of_root("erase", f"--users={leavers}") == 0
    with EmbeddingClient(kept.kv) as client:
        assert not client.get_many(GONE)[2].any()
    # The root has fewer users since the first, and the store since the second: both say how many, and the same.
    assert main(["verify", f"--root={kept.root}", f"--kv={kept.kv}"]) == 0
    with open_store(kept.kv) as store:
        before, (newest, *_) = store.current(), chain(Root(kept.root))
        assert before.users == newest.rows("user_embeddings") == store.count(before.generation)


def test_a_store_that_holds_something_else_is_not_taken_for_what_an_erasure_left(kept, leavers):
    """A value is another than the root's: what the store holds stays unknown, and the next night writes all of it."""
    assert main(["erase", f"--root={kept.root}", f"--users={leavers}"]) == 0
    with open_store(kept.kv) as store:
        generation, users = store.current().generation, store.current().users
        of_bucket = next(iter(next(chain(Root(kept.root))).tables["user_embeddings"]))
        user = pq.read_table(Root(kept.root).path(of_bucket.path))["user_id"][0].as_py()
        (value,) = store.get_many(generation, np.array([user]))
        store.upload(
            generation, [(np.array([user]), [value[:-1] + b"?"])], deletes=[], fresh=False, current=store.current()
        )
    assert kept.of_root("erase", f"--users={leavers}") == 0
    with open_store(kept.kv) as store:
        assert store.current().users == users
    assert main(["verify", f"--root={kept.root}", f"--kv={kept.kv}"]) == 1
    run_night(kept.world, kept.root, 4, f"--kv={kept.kv}")
    assert main(["verify", f"--root={kept.root}", f"--kv={kept.kv}", "--users=1000"]) == 0


def test_timelines_under_the_root_go_and_their_neighbours_stay(kept, leavers, capsys):
    """Training data that holds one of the erased is removed whole; it is made again without them."""
    logs, pins = f"{kept.world.folder}/logs", f"{kept.world.folder}/pins"
    dates = [f"--start={day(0)}", f"--end={day(1)}"]
    with open(f"{kept.world.folder}/rule", "w") as file:
        json.dump({"surfaces": ["home"], "actions": {"click": 0.0, "repin": 0.0}}, file)
    given = [f"--logs={logs}", f"--pins={pins}", f"--model={kept.world.folder}/model", f"--label-rule={file.name}"]
    make = ["training-data", *given, *dates, "--buckets=2"]
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
    report = json.loads(capsys.readouterr().out)
    assert report["training_data_deleted"] == ["training/all"]
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
