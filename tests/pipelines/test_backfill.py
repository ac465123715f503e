"""The backfill against the same days run one by one: the same bytes, whatever the buckets, workers and passes."""

import collections
import shutil

import numpy as np
import pytest

from pinnerformer_model.inference import UserEncoder
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.manifests import Manifest
from stores.tables import read_files
from tests.pinnerformer_model.samples import windows_with
from tests.pipelines.backfills import (
    EMPTY,
    LENGTH,
    NEWCOMER,
    PINS,
    ROWS,
    USERS,
    VISITOR,
    assert_same_chain,
    assert_same_tables,
    backfill,
    copy_world,
    layout,
    make_world,
    releases,
    run_daily,
)
from tests.warm import run_python
from tests.worlds import day, make_rows, make_vectors, write_file, write_model
from transforms.canaries import CanaryCheck

WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


# name -> (days, buckets, flags)
MATRIX = {
    "one bucket": (4, 1, []),
    "seven buckets, passes of two days": (4, 7, ["--days-per-pass=2"]),
    "more buckets than users, two workers, two days": (2, 37, ["--workers=2"]),
    "more buckets than users, two worker processes of Beam's": (4, 53, WORKERS),
}
SLOW = {name for name in MATRIX if name.startswith("more buckets than users")}
BACKFILL = """
import sys
from tests.pipelines.backfills import backfill
root, last, inputs, *more = sys.argv[1:]
sys.exit(backfill(inputs.split("\\n"), root, 0, int(last), *more))
"""


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in MATRIX])
def test_equals_the_days_one_by_one(case, tmp_path):
    days, buckets, more = MATRIX[case]
    inputs = make_world(str(tmp_path), days)
    run_daily(inputs, str(tmp_path / "daily"), range(days), *layout(buckets))
    # Workers are forked from a process that has no thread yet, as a command has none: not from this one.
    words = [str(tmp_path / "backfill"), str(days - 1), "\n".join(inputs), *layout(buckets), *more]
    done = run_python(BACKFILL, *words)
    assert done.returncode == 0, done.stderr
    assert_same_chain(str(tmp_path / "backfill"), str(tmp_path / "daily"))


@pytest.mark.parametrize("days", [4, pytest.param(14, marks=pytest.mark.slow)])
def test_many_days_from_a_release_of_another_model(tmp_path, days):
    """Two days by the daily job under one model; then more under another, once one by one and once at once."""
    inputs = make_world(str(tmp_path), 2 + days)
    daily, other = str(tmp_path / "daily"), f"--model={write_model(str(tmp_path / 'model2'), seed=2)}"
    run_daily(inputs, daily, range(2), *layout(3))
    shutil.copytree(daily, tmp_path / "backfill")
    run_daily(inputs, daily, range(2, 2 + days), *layout(3), other)
    assert backfill(inputs, str(tmp_path / "backfill"), 2, 1 + days, *layout(3), other) == 0
    assert_same_chain(str(tmp_path / "backfill"), daily)
    made = releases(daily)
    assert len(made) == 2 + days and len({manifest.model_digest for manifest in made}) == 2
    # The case is not trivial: histories were cut, users come and go, a day changes nobody, vectors are carried over.
    users = [rows_of(daily, manifest, "user_embeddings") for manifest in made]
    assert [NEWCOMER in found for found in users[2:5]] == [False, True, True]
    assert users[-1][VISITOR]["embedding_date"] == day(2) and VISITOR not in users[0]
    assert made[EMPTY].tables["histories"] == made[EMPTY - 1].tables["histories"]
    kept = collections.Counter(histories_of(daily, made[-1]))
    assert max(kept.values()) == LENGTH and (kept[0] == LENGTH or days < 14)
    assert made[-1].counters["merge_snapshot"]["users_carried_over"] > 0


def test_late_files_and_erased_users_are_those_of_the_nights(tmp_path):
    """After two nights a file comes into the first partition, and a user asks to be left out."""
    inputs = make_world(str(tmp_path), 5)
    daily, root = str(tmp_path / "daily"), str(tmp_path / "backfill")
    run_daily(inputs, daily, range(2), *layout(3))
    late = [{**row, "user_id": 0} for row in make_rows(0, 20, USERS, PINS, seed=66)[:20]]
    write_file(f"{tmp_path}/logs", 0, late, "late.parquet")
    Root(daily).write_bytes("erased", b"1\n")
    shutil.copytree(daily, root)
    run_daily(inputs, daily, range(2, 5), *layout(3))
    assert backfill(inputs, root, 2, 4, *layout(3)) == 0
    assert_same_chain(root, daily)
    made = releases(root)
    came = {row["timestamp_ms"] for row in late} - times_of_user_0(root, made[1])
    assert came & times_of_user_0(root, made[2]) and made[3].counters["read_logs"]["rows_erased"] > 0


def test_a_damaged_file_of_the_release_it_starts_from_is_named(backfill_world, backfilled, tmp_path, capsys):
    """One flipped bit of a vector or of a history would be carried on into every release."""
    for table in ("histories", "user_embeddings"):
        root = str(tmp_path / table)
        shutil.copytree(backfilled, root)
        manifest = releases(root)[2]
        Root(root).write_bytes("CURRENT", f"{manifest.release}\n".encode())
        path = f"{root}/{manifest.tables[table][0].path}"
        content = bytearray(Root(root).read_bytes(manifest.tables[table][0].path))
        content[len(content) // 3] ^= 1
        with open(path, "wb") as file:
            file.write(content)
        assert backfill(backfill_world, root, 3, 4, *layout(3)) == 1
        said = capsys.readouterr().err
        assert path in said and "its sha256 is not the one" in said
        assert len(releases(root)) == 3


def rows_of(root: str, manifest: Manifest, table: str) -> dict[int, dict]:
    rows = [row for entries in manifest.parts(table).values() for row in read_files(Root(root), entries).to_pylist()]
    return {row["user_id"]: row for row in rows}


def histories_of(root: str, manifest: Manifest) -> list[int]:
    """The user of every kept engagement."""
    parts = manifest.parts("histories").values()
    return [user for entries in parts for user in read_files(Root(root), entries)["user_id"].to_pylist()]


def test_a_day_knows_nothing_of_what_came_in_after_it(backfill_world, backfilled, tmp_path):
    """Other rows on days 3 and 4, rows of days 0 to 2 that come late among them: the releases before do not change."""
    inputs, root = copy_world(backfill_world, tmp_path), str(tmp_path / "root")
    late = [{**row, "user_id": 0} for row in make_rows(1, 20, USERS, PINS, seed=77)[:20]]
    for number in (3, 4):
        write_file(f"{tmp_path}/world/logs", number, make_rows(number, ROWS, USERS, PINS, seed=78)[:ROWS], "a.parquet")
        write_file(f"{tmp_path}/world/logs", number, late, "late.parquet")
    assert backfill(inputs, root, 0, 4, *layout(3)) == 0
    found, expected = releases(root), releases(backfilled)
    for one, other in zip(found[:3], expected, strict=False):
        assert_same_tables(one, other)
    assert found[3].tables["histories"] != expected[3].tables["histories"]
    added = {row["timestamp_ms"] for row in late} - times_of_user_0(backfilled, expected[2])
    assert not added & times_of_user_0(root, found[2]) and added & times_of_user_0(root, found[3])


def times_of_user_0(root: str, manifest: Manifest) -> set[int]:
    rows = [
        row for entries in manifest.parts("histories").values() for row in read_files(Root(root), entries).to_pylist()
    ]
    return {row["timestamp_ms"] for row in rows if row["user_id"] == 0}


def test_days_without_a_release_are_caught_up_by_the_next(backfill_world, tmp_path):
    daily, root = str(tmp_path / "daily"), str(tmp_path / "root")
    run_daily(backfill_world, daily, [4], *layout(3))  # its first night, on the logs of all five days
    assert backfill(backfill_world, root, 0, 4, *layout(3), "--snapshots=last") == 0
    assert_same_chain(root, daily)


def test_users_that_fail_are_tried_again_the_next_day(backfill_world, tmp_path, monkeypatch):
    """One pin is poison on every day: the same users fail, keep their vectors and are tried again, day after day."""
    healthy = UserEncoder.encode_batch
    mark = make_vectors(PINS)[11].astype(np.float32)

    def encode_batch(self, batch):
        out = healthy(self, batch)
        out[windows_with(batch, (batch.pin_vectors.numpy() == mark).all(axis=1))] = np.nan
        return out

    monkeypatch.setattr(UserEncoder, "encode_batch", encode_batch)
    daily, root = str(tmp_path / "daily"), str(tmp_path / "root")
    run_daily(backfill_world, daily, range(3), *layout(2))
    assert backfill(backfill_world, root, 0, 2, *layout(2)) == 0
    assert_same_chain(root, daily)
    failed = [manifest.retry_users for manifest in releases(root)]
    assert failed == [manifest.retry_users for manifest in releases(daily)] and all(failed)


def test_canaries_are_looked_at_once(backfill_world, backfilled, tmp_path, monkeypatch):
    """They are the same on every day, as is all that they are embedded with."""
    measure, looks = CanaryCheck.measure, []
    monkeypatch.setattr(CanaryCheck, "measure", lambda self, *of: looks.append(of) or measure(self, *of))
    assert backfill(backfill_world, str(tmp_path / "root"), 0, 4, *layout(3)) == 0
    assert len(looks) == 1
    measured = [[g["measured"] for g in m.gates if g["name"] == "canaries_cosine"] for m in releases(backfilled)]
    assert measured[0] and measured == measured[:1] * 5


def test_the_last_day_is_published(backfill_world, backfilled, tmp_path):
    root, kv = str(tmp_path / "root"), f"lmdb://{tmp_path}/kv"
    more = [flag for flag in layout(3) if not flag.startswith("--publish")]
    assert backfill(backfill_world, root, 0, 4, *more, f"--kv={kv}") == 0
    users = rows_of(root, releases(root)[-1], "user_embeddings")
    with EmbeddingClient(kv) as client:
        assert client.current.release == str(day(4))
        vectors, days, found = client.get_many(list(users))
    assert found.all() and [v.tobytes() for v in vectors] == [row["embedding"] for row in users.values()]
    assert days.tolist() == [row["embedding_date"] for row in users.values()]
