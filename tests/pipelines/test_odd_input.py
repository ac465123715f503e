"""Input as some table's writer or some client left it: a night takes all that can be taken, and so does every job."""

import dataclasses
import datetime
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from pipelines.cli import main
from pipelines.planning.daily_plan import Settings
from pipelines.training.init_model import read_vocabularies
from stores.files import Root
from stores.indexes import IndexParameters
from stores.logs import ColumnNames
from stores.manifests import Manifest
from stores.partitions import PartitionDays
from stores.releases import read_current
from tests.pipelines.nights import histories_of
from tests.worlds import (
    ACTIONS,
    FIRST,
    SURFACES,
    day,
    make_rows,
    make_vectors,
    midnight,
    write_file,
    write_model,
    write_vectors,
)
from transforms.gates import Thresholds
from transforms.training_data import load_training_data

PINS, HOUR = 60, 3_600_000
WEST = ["--day-offset=-8h", "--max-clock-skew=90"]
LAYOUT = ["--user-buckets=2", "--pin-shards=1", "--history-length=256"]


def clean_rows(number: int) -> list[dict]:
    """A day's rows without those that any run would drop: days of UTC-8, the last rows 89 s past their end."""
    rows = [row for row in make_rows(number, 90, 20, PINS, seed=3)[:90] if row["action"] in ACTIONS]
    for row in rows:
        row["timestamp_ms"] += 8 * HOUR  # of a day that begins at 08:00 UTC
    rows[-1]["timestamp_ms"] = midnight(number + 1) + 8 * HOUR + 89_999
    return rows


def odd_rows(number: int) -> list[dict]:
    """One row too large to be shuffled, one infinite duration, one past the skew."""
    rows = clean_rows(number)
    rows[5] = {**rows[5], "action": "x" * 3_000_000}
    rows[6] = {**rows[6], "duration_s": float("inf")}
    rows[7] = {**rows[7], "timestamp_ms": midnight(number + 1) + 8 * HOUR + 90_000}
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> str:
    """Two days; the second as Trino leaves one, by hour and without suffixes."""
    folder = str(tmp_path_factory.mktemp("odd"))
    write_file(f"{folder}/logs", 0, clean_rows(0))
    rows = odd_rows(1)
    write_file(f"{folder}/logs", 1, rows[:30], "20261102_0001_0")
    write_file(f"{folder}/logs/ds={day(1)}/hour=18", 1, rows[30:], "000000_0")
    os.rename(f"{folder}/logs/ds={day(1)}/hour=18/ds={day(1)}/000000_0", f"{folder}/logs/ds={day(1)}/hour=18/000000_0")
    shutil.rmtree(f"{folder}/logs/ds={day(1)}/hour=18/ds={day(1)}")
    write_vectors(f"{folder}/pins", make_vectors(PINS))
    os.rename(f"{folder}/pins/vectors.parquet", f"{folder}/pins/000000_0")
    write_model(f"{folder}/model")
    return folder


def inputs(folder: str) -> list[str]:
    return [f"--logs={folder}/logs", f"--pins={folder}/pins", f"--model={folder}/model"]


@pytest.fixture(scope="module")
def night(world) -> Manifest:
    root = f"{world}/root"
    flags = ["--quiet", "--publish=none", *WEST]
    first = ["daily", f"--root={root}", *inputs(world), f"--date={day(0)}", f"--bootstrap-from={FIRST}", *LAYOUT]
    assert main([*first, *flags]) == 0
    assert main(["daily", f"--root={root}", *inputs(world), f"--date={day(1)}", *flags]) == 0
    manifest = read_current(Root(root))
    assert manifest is not None
    return manifest


def test_a_night_takes_everything_but_what_it_names(world, night):
    counters = night.counters["read_logs"]
    assert counters["rows_read"] == len(odd_rows(1))
    assert {name: n for name, n in counters.items() if n and "dropped" in name} == {
        "rows_dropped": 2,
        "dropped_text_too_long": 1,
        "dropped_timestamp_after_partition": 1,
    }
    assert [entry["path"] for entry in night.inputs] == [
        f"ds={day(1)}/20261102_0001_0",
        f"ds={day(1)}/hour=18/000000_0",
    ]
    folder = f"{world}/root/releases/{day(1)}/dead_letters"
    dead = [row for name in os.listdir(folder) for row in pq.read_table(f"{folder}/{name}").to_pylist()]
    found = {row["reason"]: (row["file"], row["row"], row["action"][:4]) for row in dead}
    assert found == {
        "text_too_long": (f"ds={day(1)}/20261102_0001_0", 5, "xxxx"),
        "timestamp_after_partition": (f"ds={day(1)}/20261102_0001_0", 7, odd_rows(1)[7]["action"][:4]),
    }
    kept = [row for rows in histories_of(f"{world}/root", night).values() for row in rows]
    wanted = {(row["user_id"], row["pin_id"], row["timestamp_ms"]) for n in range(2) for row in clean_rows(n)}
    missing = {(row["user_id"], row["pin_id"], row["timestamp_ms"]) for row in (clean_rows(1)[5], clean_rows(1)[7])}
    assert {(row["user_id"], row["pin_id"], row["timestamp_ms"]) for row in kept} == wanted - missing
    assert not night.retry_users and None in {row["duration_s"] for row in kept}
    assert all(row["duration_s"] is None or np.isfinite(row["duration_s"]) for row in kept)


def test_what_the_days_are_is_part_of_a_run_only_where_it_is_told(night):
    """So that the runs of a root that tells nothing keep their names."""
    assert night.settings["partition_days"] == {"max_clock_skew_s": 90, "day_offset_s": -28800}
    settings = Settings(1024, "broadcast", IndexParameters(), Thresholds())
    assert set(settings.to_json()) == {"token_budget", "join", "index", "thresholds", "ageing"}
    west = dataclasses.replace(settings, days=PartitionDays(90, -28800)).to_json()
    assert west == {**settings.to_json(), "partition_days": night.settings["partition_days"]}


def test_a_backfill_takes_the_same(world, night, tmp_path):
    root = str(tmp_path / "root")
    days = [f"--start={day(0)}", f"--end={day(1)}", f"--bootstrap-from={FIRST}"]
    assert main(["backfill", f"--root={root}", *inputs(world), *days, *LAYOUT, *WEST, "--publish=none", "--quiet"]) == 0
    found = read_current(Root(root))
    assert found is not None
    for table in ("histories", "user_embeddings"):
        assert found.tables[table] == night.tables[table]
    assert found.inputs == night.inputs


def test_a_repair_takes_the_same(world, night, tmp_path):
    root = str(tmp_path / "root")
    shutil.copytree(f"{world}/root", root)
    partitions = [f"--partition={day(0)}", f"--partition={day(1)}"]
    assert main(["repair", f"--root={root}", *inputs(world), *partitions, *WEST, "--publish=none", "--quiet"]) == 0
    found = read_current(Root(root))
    assert found is not None and found.release == f"{day(1)}.2"
    content = [[(e.part, e.checksum) for e in m.tables["histories"]] for m in (found, night)]
    assert content[0] == content[1]


def test_training_data_takes_the_same(world, tmp_path):
    where = [f"--logs={world}/logs", f"--pins={world}/pins", f"--start={day(0)}", f"--end={day(1)}"]
    (tmp_path / "rule.json").write_text('{"surfaces": ["home"], "actions": {"repin": 0}}')
    rule = [f"--label-rule={tmp_path}/rule.json", "--evaluation-share=0", "--buckets=2", "--quiet"]
    assert main(["training-data", *where, f"--out={tmp_path}/out", *rule, *WEST]) == 0
    data = load_training_data(f"{tmp_path}/out", "train")
    assert data.description["partition_days"] == {"max_clock_skew_s": 90, "day_offset_s": -28800}
    usable = set(data.pin_ids.tolist())
    rows = {(r["user_id"], r["pin_id"], r["timestamp_ms"]) for n in range(2) for r in clean_rows(n)}
    rows -= {(r["user_id"], r["pin_id"], r["timestamp_ms"]) for r in (clean_rows(1)[5], clean_rows(1)[7])}
    assert data.description["counts"]["events"] == len([row for row in rows if row[1] in usable])
    assert np.isfinite(data.timelines.duration_s[~np.isnan(data.timelines.duration_s)]).all()


def test_vocabularies_hold_words_that_a_night_takes(world):
    """Of the row that is too large, of every hour's folder and every name."""
    assert read_vocabularies(f"{world}/logs", ColumnNames()) == (ACTIONS, SURFACES)


def test_what_is_not_read_is_refused_by_every_job(world, tmp_path, capsys):
    folder = str(tmp_path / "world")
    shutil.copytree(world, folder, ignore=shutil.ignore_patterns("root"))
    given, root = inputs(folder), f"--root={tmp_path}/root"
    first = [root, *given, f"--bootstrap-from={FIRST}", "--publish=none"]
    training = ["training-data", *given[:2], f"--start={day(0)}", f"--end={day(1)}", f"--out={tmp_path}/out"]
    model = ["init-model", "--preset=tiny", *given[:2], f"--out={tmp_path}/made"]
    jobs = [["daily", *first, f"--date={day(1)}"], ["plan", *first, f"--date={day(1)}"]]
    jobs += [["backfill", *first, f"--start={day(1)}", f"--end={day(1)}"], training]
    for stray, commands in (
        (f"logs/ds={day(1)}/old", [*jobs, model]),
        (f"logs/ds={day(1)}/notes.txt", [*jobs, model]),
        ("logs/ds=20261103", [*jobs, model]),
        ("pins/old", jobs),
        ("pins/notes.txt", jobs),
    ):
        path = f"{folder}/{stray}"
        if stray.endswith(".txt"):
            with open(path, "w") as file:
                file.write("rows?")
        else:
            os.mkdir(path)
        for command in commands:
            capsys.readouterr()
            assert main(command) == 1, (stray, command)
            line = capsys.readouterr().err.splitlines()[0]
            assert f"{path}: " in line and "begin its name with _" in line, line
        shutil.move(path, f"{folder}/_{os.path.basename(path)}")
    assert not os.path.exists(f"{tmp_path}/root/CURRENT")


def commands_with_a_model(world, model: str, root: str) -> list[list[str]]:
    given = [*inputs(world)[:2], f"--model={model}", f"--root={root}", "--publish=none"]
    return [
        ["plan", *given, f"--date={day(0)}", f"--bootstrap-from={FIRST}"],
        ["daily", *given, f"--date={day(0)}", f"--bootstrap-from={FIRST}"],
        ["backfill", *given, f"--start={day(0)}", f"--end={day(0)}", f"--bootstrap-from={FIRST}"],
        ["evaluate", f"--model={model}", "--timelines=nowhere"],
    ]


def test_weights_that_cannot_be_used_are_refused_before_any_work(world, tmp_path, capsys):
    folder = f"{tmp_path}/model"
    shutil.copytree(f"{world}/model", folder)
    with open(f"{folder}/model.safetensors", "wb"):
        pass
    for command in commands_with_a_model(world, folder, f"{tmp_path}/root"):
        capsys.readouterr()
        assert main(command) == 1
        assert f"{folder}/model.safetensors: not readable as safetensors (it is empty" in capsys.readouterr().err
    assert not os.path.exists(f"{tmp_path}/root/staging")


def test_a_tower_of_another_training_is_refused_before_any_work(world, tmp_path, capsys):
    folder = write_model(f"{tmp_path}/model", seed=1, until=FIRST)
    theirs = load_file(f"{write_model(f'{tmp_path}/other', seed=2, until=FIRST)}/model.safetensors")
    mine = load_file(f"{folder}/model.safetensors")
    mixed = mine | {name: value for name, value in theirs.items() if name.startswith("pin_tower.")}
    save_file(mixed, f"{folder}/model.safetensors")
    for command in commands_with_a_model(world, folder, f"{tmp_path}/root"):
        capsys.readouterr()
        assert main(command) == 1
        said = capsys.readouterr().err
        assert f"{folder}/model.safetensors: pin_tower is not what config.json was written with" in said
        assert "put back both files of one training" in said
    assert not os.path.exists(f"{tmp_path}/root/staging")


def test_dead_letters_are_shown_where_a_gate_closes_on_them(world, night, tmp_path, capsys):
    """Without the flags most rows of the day are past its end."""
    given = ["daily", f"--root={tmp_path}/root", *inputs(world), f"--date={day(1)}", f"--bootstrap-from={day(1)}"]
    assert main([*given, "--publish=none", "--quiet", *LAYOUT]) == 3
    said = capsys.readouterr().err
    counters = night.counters["read_logs"]
    end = datetime.datetime.combine(day(2), datetime.time(), datetime.UTC).timestamp() * 1000
    late = [n for n, row in enumerate(odd_rows(1)) if row["timestamp_ms"] >= end]
    first = f"ds={day(1)}/20261102_0001_0, row {late[0]}" if late[0] < 30 else f"ds={day(1)}/hour=18/000000_0"
    assert f"  {len(late)} timestamp_after_partition, the first in {first}" in said
    assert f"  1 text_too_long, the first in ds={day(1)}/20261102_0001_0, row 5" in said
    assert f"The {len(late) + 1} rows that were dropped" in said and "/dead_letters" in said
    assert counters["rows_read"] > len(late)
