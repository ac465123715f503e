"""The backfill against the same days run one by one: the same bytes, whatever the buckets, workers and passes."""

import collections
import os
import shutil
import signal

import numpy as np
import pytest

import transforms.backfill
import transforms.backfill_rows
import transforms.pins
import transforms.release
from pinnerformer_model.inference import UserEncoder
from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError
from stores.files import Root
from stores.manifests import Manifest, read_manifest, write_manifest
from stores.releases import chain
from stores.tables import read_files
from tests.parts import Parts
from tests.pipelines.test_daily import run_twice
from tests.warm import run_python
from tests.worlds import day, make_rows, make_vectors, midnight, write_file, write_model, write_vectors
from transforms.canaries import CanaryCheck

USERS, PINS, ROWS, LENGTH = 30, 60, 90, 34
EMPTY, NEWCOMER, VISITOR = 2, 7001, 7002
INPUTS = ("logs", "pins", "model", "gates")


def make_world(folder: str, days: int) -> list[str]:
    """Logs of some days, vectors and a model; returns the flags that name them.

    Day 2 has no rows. Rows of the day before come late in a file of their own every day. One user appears on day 3
    and stays, one comes on day 1 only.
    """
    for number in range(days):
        rows = [] if number == EMPTY else make_rows(number, ROWS, USERS, PINS, seed=8)
        if number >= 3:
            rows.append({**rows[0], "user_id": NEWCOMER, "timestamp_ms": midnight(number) + 5})
        if number == 1:
            rows.append({**rows[0], "user_id": VISITOR})
        write_file(f"{folder}/logs", number, rows[:50], "a.parquet")
        late = [] if number in (0, EMPTY) else make_rows(number - 1, 12, USERS, PINS, seed=9)[:12]
        write_file(f"{folder}/logs", number, rows[50:] + late, "b.parquet")
    write_vectors(f"{folder}/pins", make_vectors(PINS))
    write_model(f"{folder}/model")
    with open(f"{folder}/gates", "w") as file:  # an empty day in so small a world is like no other
        file.write("max_week_factor: 1000000\nmax_weekday_factor: 1000000\nmax_failed_share: 1\n")
    return [f"--{name}={folder}/{name}" for name in INPUTS]


def layout(buckets: int) -> list[str]:
    return [f"--user-buckets={buckets}", "--pin-shards=2", f"--history-length={LENGTH}", "--publish=none"]


def run_daily(inputs: list[str], root: str, numbers: list[int], *more: str) -> None:
    for number in numbers:
        dates = [f"--date={day(number)}", f"--bootstrap-from={day(0)}"]
        assert main(["daily", f"--root={root}", *inputs, *dates, "--quiet", *more]) == 0


def backfill(inputs: list[str], root: str, first: int, last: int, *more: str) -> int:
    dates = [f"--start={day(first)}", f"--end={day(last)}", f"--bootstrap-from={day(0)}"]
    return main(["backfill", f"--root={root}", *inputs, *dates, "--quiet", *more])


def releases(root: str) -> list[Manifest]:
    """Oldest first."""
    return list(chain(Root(root)))[::-1]


def assert_same_tables(found: Manifest, expected: Manifest) -> None:
    """Byte for byte; the files of pins lie in the folder of another day, their content is the same."""
    assert found.date == expected.date and found.model_digest == expected.model_digest
    for table in ("histories", "user_embeddings"):
        assert found.tables[table] == expected.tables[table], (found.date, table)  # the name carries the content
    for table in ("pin_embeddings", "indexes"):
        content = [[(e.part, e.rows, e.checksum) for e in manifest.tables[table]] for manifest in (found, expected)]
        assert content[0] == content[1], (found.date, table)
    assert found.inputs == expected.inputs and found.statistics == expected.statistics
    assert [e.checksum for e in found.tables["canaries"]] == [e.checksum for e in expected.tables["canaries"]]
    assert without_shuffle(found) == without_shuffle(expected)


def without_shuffle(manifest: Manifest) -> dict:
    counters = {step: dict(found) for step, found in manifest.counters.items()}
    counters["read_logs"].pop("bytes_shuffled", None)
    return {
        step: {name: n for name, n in found.items() if n} for step, found in counters.items() if any(found.values())
    }


def assert_same_chain(found: str, expected: str) -> None:
    pairs = list(zip(releases(found), releases(expected), strict=True))
    assert pairs
    for one, other in pairs:
        assert_same_tables(one, other)


WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]

# name -> (days, buckets, flags)
MATRIX = {
    "one bucket": (4, 1, []),
    "seven buckets, passes of two days": (4, 7, ["--days-per-pass=2"]),
    "more buckets than users, two worker processes, two days": (2, 53, WORKERS),
    "more buckets than users, two worker processes": (4, 53, WORKERS),
}
SLOW = {"more buckets than users, two worker processes"}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in MATRIX])
def test_equals_the_days_one_by_one(case, tmp_path):
    days, buckets, more = MATRIX[case]
    inputs = make_world(str(tmp_path), days)
    run_daily(inputs, str(tmp_path / "daily"), range(days), *layout(buckets))
    assert backfill(inputs, str(tmp_path / "backfill"), 0, days - 1, *layout(buckets), *more) == 0
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


def test_a_damaged_file_of_the_release_it_starts_from_is_named(world, whole, tmp_path, capsys):
    """One flipped bit of a vector or of a history would be carried on into every release."""
    for table in ("histories", "user_embeddings"):
        root = str(tmp_path / table)
        shutil.copytree(whole, root)
        manifest = releases(root)[2]
        Root(root).write_bytes("CURRENT", f"{manifest.release}\n".encode())
        path = f"{root}/{manifest.tables[table][0].path}"
        content = bytearray(Root(root).read_bytes(manifest.tables[table][0].path))
        content[len(content) // 3] ^= 1
        with open(path, "wb") as file:
            file.write(content)
        assert backfill(world, root, 3, 4, *layout(3)) == 1
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


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> list[str]:
    return make_world(str(tmp_path_factory.mktemp("world")), 5)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> str:
    """The root of an undisturbed backfill of the five days."""
    root = str(tmp_path_factory.mktemp("whole"))
    assert backfill(world, root, 0, 4, *layout(3)) == 0
    return root


def test_a_day_knows_nothing_of_what_came_in_after_it(world, whole, tmp_path):
    """Other rows on days 3 and 4, rows of days 0 to 2 that come late among them: the releases before do not change."""
    inputs, root = copy_world(world, tmp_path), str(tmp_path / "root")
    late = [{**row, "user_id": 0} for row in make_rows(1, 20, USERS, PINS, seed=77)[:20]]
    for number in (3, 4):
        write_file(f"{tmp_path}/world/logs", number, make_rows(number, ROWS, USERS, PINS, seed=78)[:ROWS], "a.parquet")
        write_file(f"{tmp_path}/world/logs", number, late, "late.parquet")
    assert backfill(inputs, root, 0, 4, *layout(3)) == 0
    found, expected = releases(root), releases(whole)
    for one, other in zip(found[:3], expected, strict=False):
        assert_same_tables(one, other)
    assert found[3].tables["histories"] != expected[3].tables["histories"]
    added = {row["timestamp_ms"] for row in late} - times_of_user_0(whole, expected[2])
    assert not added & times_of_user_0(root, found[2]) and added & times_of_user_0(root, found[3])


def times_of_user_0(root: str, manifest: Manifest) -> set[int]:
    rows = [
        row for entries in manifest.parts("histories").values() for row in read_files(Root(root), entries).to_pylist()
    ]
    return {row["timestamp_ms"] for row in rows if row["user_id"] == 0}


def copy_world(world: list[str], folder) -> list[str]:
    """A copy of a world that a test may change; returns the flags that name it."""
    shutil.copytree(world[0].removeprefix("--logs=").removesuffix("/logs"), f"{folder}/world")
    return [f"--{name}={folder}/world/{name}" for name in INPUTS]


def test_days_without_a_release_are_caught_up_by_the_next(world, tmp_path):
    daily, root = str(tmp_path / "daily"), str(tmp_path / "root")
    run_daily(world, daily, [4], *layout(3))  # its first night, on the logs of all five days
    assert backfill(world, root, 0, 4, *layout(3), "--snapshots=last") == 0
    assert_same_chain(root, daily)


def test_users_that_fail_are_tried_again_the_next_day(world, tmp_path, monkeypatch):
    """One pin is poison on every day: the same users fail, keep their vectors and are tried again, day after day."""
    healthy = UserEncoder.encode_batch
    mark = make_vectors(PINS)[11].astype(np.float32)

    def encode_batch(self, batch):
        out = healthy(self, batch)
        out[(batch.pin_vectors.numpy() == mark).all(axis=2).any(axis=1)] = np.nan
        return out

    monkeypatch.setattr(UserEncoder, "encode_batch", encode_batch)
    daily, root = str(tmp_path / "daily"), str(tmp_path / "root")
    run_daily(world, daily, range(3), *layout(2))
    assert backfill(world, root, 0, 2, *layout(2)) == 0
    assert_same_chain(root, daily)
    failed = [manifest.retry_users for manifest in releases(root)]
    assert failed == [manifest.retry_users for manifest in releases(daily)] and all(failed)


def test_a_hole_stops_the_chain_and_the_same_command_goes_on(world, whole, tmp_path, capsys):
    inputs, root = copy_world(world, tmp_path), str(tmp_path / "root")
    hole = tmp_path / "world" / "logs" / f"ds={day(3)}"
    hole.rename(tmp_path / "elsewhere")
    assert backfill(inputs, root, 0, 4, *layout(3)) == 1
    said = capsys.readouterr().err
    assert f"the chain stops after {day(2)}" in said and str(hole) in said and "--allow-missing" in said
    assert len(releases(root)) == 3
    (tmp_path / "elsewhere").rename(hole)
    assert backfill(inputs, root, 0, 4, *layout(3)) == 0
    assert_same_chain(root, whole)


def test_a_missing_day_can_be_taken_for_an_empty_one(world, whole, tmp_path):
    inputs, root = copy_world(world, tmp_path), str(tmp_path / "root")
    shutil.rmtree(tmp_path / "world" / "logs" / f"ds={day(EMPTY)}")
    assert backfill(inputs, root, 0, 3, *layout(3), f"--allow-missing={day(EMPTY)}") == 0
    for found, expected in zip(releases(root), releases(whole), strict=False):
        assert found.tables["histories"] == expected.tables["histories"]
        assert found.tables["user_embeddings"] == expected.tables["user_embeddings"]


@pytest.mark.parametrize("stop_at", [9, 29])
def test_a_run_cut_off_does_only_the_rest(world, whole, tmp_path, monkeypatch, stop_at):
    parts, root = Parts(stop_at=stop_at), str(tmp_path / "root")
    parts.watch(monkeypatch, (transforms.backfill, transforms.backfill_rows, transforms.pins))
    assert backfill(world, root, 0, 4, *layout(3)) == 1
    assert not os.path.exists(f"{root}/CURRENT")
    first, parts.done, parts.stop_at = parts.done, collections.Counter(), None
    assert backfill(world, root, 0, 4, *layout(3)) == 0
    assert_same_chain(root, whole)
    done = first + parts.done
    assert done["replay_buckets"] == 15, "a bucket was replayed through a day twice"


KILL = """
import os, signal, sys
import {module} as module
left = [{after}]
whole = module.{function}
def dies(*arguments, **named):
    found = whole(*arguments, **named)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
module.{function} = dies
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""

INSTANTS = {
    "while walking": ("transforms.backfill", "write_marker", 8),
    "between two commits": ("transforms.release", "move_current", 2),
    "a manifest written, CURRENT not moved": ("transforms.release", "write_manifest", 4),
}


@pytest.mark.parametrize("instant", INSTANTS)
def test_killed_and_started_again_gives_the_same_bytes(world, whole, tmp_path, instant):
    module, function, after = INSTANTS[instant]
    root = str(tmp_path / "root")
    dates = [f"--start={day(0)}", f"--end={day(4)}", f"--bootstrap-from={day(0)}"]
    command = ["backfill", f"--root={root}", *world, *dates, "--quiet", *layout(3)]
    code = KILL.format(module=module, function=function, after=after)
    killed = run_python(code, *command)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(releases(root)) < 5
    assert main(command) == 0
    assert_same_chain(root, whole)


def test_what_a_killed_attempt_committed_is_cleared_up(world, tmp_path, monkeypatch):
    """Cut off between the commit of a day and the removal of its markers: the next attempt removes them."""
    root, forget = str(tmp_path / "root"), transforms.release.discard_staged

    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(transforms.release, "discard_staged", cut_off)
    assert backfill(world, root, 0, 4, *layout(3)) == 1
    assert len(releases(root)) == 1
    monkeypatch.setattr(transforms.release, "discard_staged", forget)
    assert backfill(world, root, 0, 4, *layout(3)) == 0
    left = [name for run in os.listdir(f"{root}/staging") for name in os.listdir(f"{root}/staging/{run}")]
    assert len(releases(root)) == 5 and not {"done", "rows", "vectors"} & set(left)


def test_canaries_are_looked_at_once(world, whole, tmp_path, monkeypatch):
    """They are the same on every day, as is all that they are embedded with."""
    measure, looks = CanaryCheck.measure, []
    monkeypatch.setattr(CanaryCheck, "measure", lambda self, *of: looks.append(of) or measure(self, *of))
    assert backfill(world, str(tmp_path / "root"), 0, 4, *layout(3)) == 0
    assert len(looks) == 1
    measured = [[g["measured"] for g in m.gates if g["name"] == "canaries_cosine"] for m in releases(whole)]
    assert measured[0] and measured == measured[:1] * 5


def test_every_dofn_may_run_twice(world, whole, tmp_path, monkeypatch):
    for kind in (transforms.backfill.ReplayBucket, transforms.backfill_rows.SpoolRows):
        monkeypatch.setattr(kind, "process", run_twice(kind.process))
    assert backfill(world, str(tmp_path / "root"), 0, 4, *layout(3)) == 0
    assert_same_chain(str(tmp_path / "root"), whole)


def test_a_mended_log_is_done_again_with_everything_after_it(world, whole, tmp_path, capsys):
    inputs, root = copy_world(world, tmp_path), str(tmp_path / "root")
    shutil.copytree(whole, root)
    more = make_rows(2, 30, USERS, PINS, seed=55)[:30]
    write_file(f"{tmp_path}/world/logs", 2, more, "mended.parquet")
    before = releases(root)
    arguments = ["backfill", f"--root={root}", *inputs, f"--start={day(1)}", f"--end={day(3)}", *layout(3)]
    assert main([*arguments, "--recompute", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert releases(root) == before
    for words in ("left as is", str(day(1)), f"{day(2)}.2 .. {day(4)}.2", f"CURRENT stays on {day(4)}"):
        assert words in " ".join(said.split()), said
    assert main([*arguments, "--recompute", "--quiet"]) == 0
    fresh = str(tmp_path / "fresh")
    assert backfill(inputs, fresh, 0, 4, *layout(3)) == 0
    found = releases(root)
    assert [m.release for m in found] == [str(day(0)), str(day(1)), *(f"{day(n)}.2" for n in (2, 3, 4))]
    assert_same_chain(root, fresh)
    for manifest in before:
        assert read_manifest(Root(root), manifest.release) == manifest, "a release changed"
    assert main([*arguments, "--recompute", "--quiet"]) == 0
    assert releases(root) == found, "equal inputs were done again"


def test_a_recomputation_cut_off_leaves_the_old_chain_and_goes_on(world, whole, tmp_path, monkeypatch):
    inputs, root = copy_world(world, tmp_path), str(tmp_path / "root")
    shutil.copytree(whole, root)
    before = releases(root)
    write_file(f"{tmp_path}/world/logs", 1, make_rows(1, 30, USERS, PINS, seed=55)[:30], "mended.parquet")
    arguments = ["backfill", f"--root={root}", *inputs, f"--start={day(0)}", f"--end={day(4)}", *layout(3)]
    kept = []

    def cut_off(root, manifest):
        if len(kept) == 2:
            raise StoreError("cut off")
        kept.append(manifest.release)
        write_manifest(root, manifest)

    monkeypatch.setattr(transforms.release, "write_manifest", cut_off)
    assert main([*arguments, "--recompute", "--quiet"]) == 1
    assert releases(root) == before and kept == [f"{day(1)}.2", f"{day(2)}.2"]
    monkeypatch.undo()
    assert main([*arguments, "--recompute", "--quiet"]) == 0
    fresh = str(tmp_path / "fresh")
    assert backfill(inputs, fresh, 0, 4, *layout(3)) == 0
    assert_same_chain(root, fresh)


def test_a_file_that_came_late_is_recomputed_on_the_day_it_was_read(world, tmp_path):
    """Day 1's late file was read by day 3's night: done again, day 1 and day 2 still do not know it."""
    inputs, root = copy_world(world, tmp_path), str(tmp_path / "root")
    run_daily(inputs, root, [0, 1, 2], *layout(3))
    write_file(f"{tmp_path}/world/logs", 1, make_rows(1, 20, USERS, PINS, seed=66)[:20], "late.parquet")
    run_daily(inputs, root, [3], *layout(3))
    before = releases(root)
    dates = [f"--start={day(0)}", f"--end={day(3)}"]
    assert main(["backfill", f"--root={root}", *inputs, *dates, "--quiet", *layout(3), "--recompute"]) == 0
    found = releases(root)
    assert [m.release for m in found] == [f"{day(n)}.2" for n in range(4)]
    for one, other in zip(found, before, strict=True):
        assert_same_tables(one, other)


def test_a_refused_day_stops_the_chain_there(world, tmp_path, capsys):
    inputs, root = copy_world(world, tmp_path), str(tmp_path / "root")
    rows = make_rows(3, ROWS, USERS, PINS, seed=8)
    write_file(f"{tmp_path}/world/logs", 3, [*rows, *({**row, "pin_id": -1} for row in rows)], "a.parquet")
    assert backfill(inputs, root, 0, 4, *layout(3)) == 3
    said = capsys.readouterr().err
    assert f"release {day(3)} was refused" in said and "rows_dropped_share" in said
    assert [m.release for m in releases(root)] == [str(day(n)) for n in range(3)]


def test_the_last_day_is_published(world, whole, tmp_path):
    root, kv = str(tmp_path / "root"), f"lmdb://{tmp_path}/kv"
    more = [flag for flag in layout(3) if not flag.startswith("--publish")]
    assert backfill(world, root, 0, 4, *more, f"--kv={kv}") == 0
    users = rows_of(root, releases(root)[-1], "user_embeddings")
    with EmbeddingClient(kv) as client:
        assert client.current.release == str(day(4))
        vectors, days, found = client.get_many(list(users))
    assert found.all() and [v.tobytes() for v in vectors] == [row["embedding"] for row in users.values()]
    assert days.tolist() == [row["embedding_date"] for row in users.values()]


WRONG = {
    "the end before the start": (["--start=2026-11-03", "--end=2026-11-02"], 2, "--end 2026-11-02: before"),
    "nothing to start from": (["--start=2026-11-02", "--end=2026-11-03"], 2, "--bootstrap-from DATE"),
    "a bootstrap after the start": (
        ["--start=2026-11-02", "--end=2026-11-03", "--bootstrap-from=2026-11-03"],
        2,
        "later than --start",
    ),
    "a date that is none": (["--start=2026-11-31", "--end=2026-12-01"], 2, "'2026-11-31' is not a date"),
    "a first day that is missing": (
        ["--start=2026-11-09", "--end=2026-11-12", "--bootstrap-from=2026-11-09"],
        1,
        "ds=2026-11-09: missing partition",
    ),
    "nowhere to publish": (
        ["--start=2026-11-01", "--end=2026-11-02", "--bootstrap-from=2026-11-01", "--publish=last"],
        2,
        "--kv is missing",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_use_is_refused_before_anything_is_written(case, world, tmp_path, capsys):
    flags, code, words = WRONG[case]
    root = tmp_path / "root"
    assert main(["backfill", f"--root={root}", *world, "--publish=none", *flags]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said
    assert not (root / "CURRENT").exists() and not (root / "staging").exists()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(world, tmp_path, capsys):
    root = tmp_path / "root"
    dates = [f"--start={day(0)}", f"--end={day(4)}", f"--bootstrap-from={day(0)}"]
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=4"]
    arguments = ["backfill", f"--root={root}", *world, *dates, "--dry-run", "--user-buckets=3", *workers]
    assert main([*arguments, "--days-per-pass=2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("5: 2026-11-01 .. 2026-11-05", "3 of at most 2 days", "WARNING 1 of 4 workers will be idle"):
        assert words in said
    assert not root.exists()
