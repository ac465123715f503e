"""Rows, users and vectors that grow old: night by night, by backfill, in the store, and in the plan."""

import shutil

import pytest

from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.kv import open_store
from stores.releases import read_current
from tests.pipelines.backfills import VISITOR, assert_same_tables, backfill, layout, make_world, releases, run_daily
from tests.pipelines.nights import histories_of, read_table
from tests.worlds import day, midnight

DAYS = 6
FLAGS = ["--max-history-days=3", "--max-idle-days=2", "--refresh-days=3"]


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """The folder of a world whose nights were run one by one, under `daily`; the flags of its inputs."""
    folder = str(tmp_path_factory.mktemp("nights"))
    inputs = make_world(folder, DAYS)
    run_daily(inputs, f"{folder}/daily", [0, 1], *layout(2), *FLAGS)
    shutil.copytree(f"{folder}/daily", f"{folder}/two")  # for nights that go on otherwise
    run_daily(inputs, f"{folder}/daily", list(range(2, DAYS)), *layout(2), *FLAGS)
    return folder, inputs


def test_a_backfill_gives_the_bytes_of_the_nights(nights, tmp_path):
    folder, inputs = nights
    root = str(tmp_path / "backfill")
    assert backfill(inputs, root, 0, DAYS - 1, *layout(2), *FLAGS) == 0
    found, expected = releases(root), releases(f"{folder}/daily")
    for one, other in zip(found, expected, strict=True):
        assert_same_tables(one, other)
        for step in ("update_histories", "merge_snapshot"):
            assert one.counters[step] == other.counters[step]
    # A night that was missed: its share of users is made up for, by the nights and by the backfill alike.
    missed = shutil.copytree(f"{folder}/two", str(tmp_path / "missed"))
    run_daily(inputs, missed, [3, 5], *layout(2), *FLAGS)
    weekly = str(tmp_path / "weekly")
    assert backfill(inputs, weekly, 0, 1, *layout(2), *FLAGS) == 0
    for number in (3, 5):
        assert backfill(inputs, weekly, number, number, "--snapshots=last", *layout(2), *FLAGS) == 0
    for one, other in zip(releases(weekly), releases(missed), strict=True):
        assert_same_tables(one, other)


def test_what_is_too_old_is_gone(nights):
    folder, _ = nights
    made = releases(f"{folder}/daily")
    history, snapshot = ({name: 0 for name in names} for names in (("rows_expired", "users_due"), ("users_expired",)))
    for number, manifest in enumerate(made):
        histories = histories_of(f"{folder}/daily", manifest)
        assert min(row["timestamp_ms"] for rows in histories.values() for row in rows) >= midnight(number - 2)
        rows = read_table(f"{folder}/daily", manifest, "user_embeddings").to_pylist()
        assert all(row["last_action_ms"] >= midnight(number - 1) for row in rows)
        assert all((day(number) - row["embedding_date"]).days < 3 for row in rows)
        history = {name: total + manifest.counters["update_histories"][name] for name, total in history.items()}
        snapshot = {name: total + manifest.counters["merge_snapshot"][name] for name, total in snapshot.items()}
        users = [row["user_id"] for row in rows]
        assert (VISITOR in users) == (number in (1, 2)) and (VISITOR in histories) == (number in (1, 2, 3))
    assert min(*history.values(), *snapshot.values()) > 0


def test_carried_over_vectors_are_those_of_the_histories(nights):
    folder, inputs = nights
    given = [flag for flag in inputs if flag.startswith(("--model", "--pins"))]
    assert main(["verify", f"--root={folder}/daily", *given, "--users=1000"]) == 0


def test_the_store_lets_them_go(nights, tmp_path):
    folder, inputs = nights
    root, kv = shutil.copytree(f"{folder}/two", str(tmp_path / "root")), f"lmdb://{tmp_path}/kv"
    made = [flag for flag in layout(2) if not flag.startswith("--publish")]
    run_daily(inputs, root, [2], *made, *FLAGS, f"--kv={kv}")
    with EmbeddingClient(kv) as client:
        assert client.get_many([VISITOR])[2].all()
    run_daily(inputs, root, [3], *made, *FLAGS, f"--kv={kv}")
    with EmbeddingClient(kv) as client:
        assert not client.get_many([VISITOR])[2].any()
    with open_store(kv) as store:
        assert store.count(store.current().generation) == read_current(Root(root)).rows("user_embeddings")


def test_the_plan_says_it_and_the_settings_name_the_run(nights, capsys):
    folder, inputs = nights
    plan = ["plan", f"--root={folder}/daily", *inputs, f"--date={day(DAYS - 1)}"]
    assert main([*plan, *FLAGS]) == 0
    said = capsys.readouterr().out
    assert "growing old" in said and "within 3 days" in said
    assert main(plan) == 0
    assert "growing old" not in capsys.readouterr().out
    settings = read_current(Root(f"{folder}/daily")).settings
    assert settings["ageing"] == {"max_history_days": 3, "max_idle_days": 2, "refresh_days": 3}
    # The same night under other settings is another run, and another release.
    before = settings["run"]
    run_daily(inputs, f"{folder}/daily", [DAYS - 1], *layout(2), *FLAGS)
    assert read_current(Root(f"{folder}/daily")).settings["run"] == before
    run_daily(inputs, f"{folder}/daily", [DAYS - 1], *layout(2), *FLAGS[:2])
    again = read_current(Root(f"{folder}/daily"))
    assert again.settings["run"] != before and again.release == f"{day(DAYS - 1)}.2"
