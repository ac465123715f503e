"""Timelines from logs, against plain loops over the same rows; and what cannot be trained on."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_model.checkpoint import load_config
from pipelines import training_data
from pipelines.cli import main
from stores.errors import StoreError
from stores.files import Root
from stores.ids import uniform_of
from stores.releases import read_current
from tests.worlds import (
    ACTIONS,
    SURFACES,
    day,
    is_valid,
    make_rows,
    make_vectors,
    midnight,
    order_of,
    write_file,
    write_model,
    write_vectors,
)
from transforms.run import RunFolder
from transforms.training_data import load_training_data

RULE = {"surfaces": ["home", "search"], "actions": {"repin": 0, "closeup": 10}}
USERS, PINS = 60, 40


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("world"))
    rows = {number: make_rows(number, 300, USERS, PINS, seed=2) for number in range(3)}
    for number, content in rows.items():
        write_file(f"{folder}/logs", number, content)
    write_vectors(f"{folder}/pins", make_vectors(PINS))
    write_model(f"{folder}/model")
    with open(f"{folder}/rule.json", "w") as file:
        json.dump(RULE, file)
    return folder, rows


def run_job(folder: str, out: str, *flags: str) -> int:
    where = [f"--logs={folder}/logs", f"--pins={folder}/pins", f"--out={out}", "--buckets=3", "--pin-shards=2"]
    return main(["training-data", *where, f"--start={day(0)}", f"--end={day(2)}", "--quiet", *flags])


def plain_timelines(rows: dict[int, list], vectors: dict[int, np.ndarray], erased: set[int]) -> dict[int, list]:
    """user_id -> usable rows, each once, oldest first: the histories backwards."""
    users: dict[int, dict] = {}
    for number, content in rows.items():
        for row in content:
            if is_valid(row, number) and row["user_id"] not in erased:
                users.setdefault(row["user_id"], {})[order_of(row)] = row
    usable = {
        user: [
            distinct[key]
            for key in sorted(distinct, reverse=True)
            if distinct[key]["action"] in ACTIONS
            and distinct[key]["pin_id"] in vectors
            and vectors[distinct[key]["pin_id"]].any()
        ]
        for user, distinct in users.items()
    }
    return {user: events for user, events in usable.items() if events}


def is_positive(row: dict) -> bool:
    if row["surface"] not in RULE["surfaces"]:
        return False
    return row["action"] == "repin" or (row["action"] == "closeup" and (row["duration_s"] or 0) > 10)


def test_timelines_are_every_usable_row_of_every_user_oldest_first(world, tmp_path):
    folder, rows = world
    os.makedirs(tmp_path / "root")
    (tmp_path / "root" / "erased").write_text("3\n7\n")
    out = str(tmp_path / "out")
    flags = ["--model", f"{folder}/model", "--label-rule", f"{folder}/rule.json", "--evaluation-share=0.3"]
    assert run_job(folder, out, *flags, "--root", str(tmp_path / "root")) == 0
    vectors = make_vectors(PINS)
    expected = plain_timelines(rows, vectors, {3, 7})
    assert {3, 7} <= {row["user_id"] for row in rows[0]}
    seen = {}
    for split in ("train", "evaluation"):
        data = load_training_data(out, split)
        assert (np.diff(data.timelines.user_ids) > 0).all() and len(data.timelines) > 5
        for pin, vector in zip(data.pin_ids.tolist(), data.vectors, strict=True):
            np.testing.assert_array_equal(vector, vectors[pin])
        t = data.timelines
        for i, user in enumerate(t.user_ids.tolist()):
            assert (split == "evaluation") == (uniform_of(np.array([user]), 1)[0] < 0.3)
            events = range(t.offsets[i], t.offsets[i + 1])
            seen[user] = [
                {
                    "user_id": user,
                    "pin_id": int(data.pin_ids[t.pin_row[e]]),
                    "timestamp_ms": int(t.timestamp_ms[e]),
                    "action": ACTIONS[t.action[e]],
                    "surface": SURFACES[t.surface[e]],
                    "duration_s": None if np.isnan(t.duration_s[e]) else float(t.duration_s[e]),
                }
                for e in events
            ]
            assert [bool(t.positive[e]) for e in events] == [is_positive(row) for row in seen[user]]
    assert seen == expected
    ties = sum(
        a["timestamp_ms"] == b["timestamp_ms"]
        for events in expected.values()
        for a, b in zip(events, events[1:], strict=False)
    )
    assert ties > 5  # the order of ties is part of the case
    positives = sum(is_positive(row) for events in expected.values() for row in events)
    counts = data.description["counts"]
    assert counts["events"] == sum(map(len, expected.values())) and counts["positives"] == positives > 20
    assert counts["rows"] == counts["rows_erased"] + counts["rows_repeated"] + counts["rows_out_of_vocabulary"] + (
        counts["rows_without_vector"] + counts["events"]
    )


def test_without_a_model_the_logs_say_the_vocabularies_and_the_paper_the_rule(world, tmp_path, capsys):
    folder, _ = world
    out = str(tmp_path / "out")
    assert run_job(folder, out) == 1  # the paper's surface is `homefeed`, these logs have none
    said = capsys.readouterr().err
    assert "no positive engagement by the label rule" in said and "--label-rule" in said
    assert "on home" in said and "repin on" in said  # what there is, with counts
    assert not os.path.exists(f"{out}/timelines.json")
    assert run_job(folder, out, f"--label-rule={folder}/rule.json") == 0
    data = load_training_data(out, "train")
    assert data.description["action_vocabulary"] == sorted([*ACTIONS, "unheard_of"])
    assert data.description["label_rule"] == RULE and data.description["pinsage_version"] == "v1"


def files_under(folder: str) -> set[str]:
    return {os.path.relpath(f"{at}/{name}", folder) for at, folders, names in os.walk(folder) for name in names}


def named_by(out: str) -> set[str]:
    """The files that timelines consist of."""
    with open(f"{out}/timelines.json") as file:
        splits = json.load(file)["files"]
    matrix = {"timelines.json", "pins/pin_ids.npy", "pins/vectors.npy"}
    return matrix | {entry["path"] for entries in splits.values() for entry in entries}


def test_nothing_but_the_timelines_remains(world, tmp_path):
    folder, _ = world
    out = str(tmp_path / "out")
    for leftover in ("staging/training-data-of-a-killed-attempt/done", "train", "pins"):
        os.makedirs(f"{out}/{leftover}")
    theirs = {"train/part-00000-0a1b.snappy.parquet", "pins/notes.txt"}
    stale = {"train/part-00000-0123456789abcdef.parquet", "train/.tmp-1"}
    for name in theirs | stale | {"staging/training-data-of-a-killed-attempt/done/x.json"}:
        (tmp_path / "out" / name).write_text("x")
    assert run_job(folder, out, f"--label-rule={folder}/rule.json") == 0
    assert files_under(out) == named_by(out) | theirs and len(named_by(out)) > 5
    assert not os.path.exists(f"{out}/staging")


@pytest.mark.parametrize("broken", ["no positive", "after the matrix", "interrupted"])
def test_nothing_at_all_remains_of_a_failed_attempt(world, tmp_path, monkeypatch, broken):
    folder, _ = world
    out = str(tmp_path / "out")
    flags = [] if broken == "no positive" else [f"--label-rule={folder}/rule.json"]
    if broken == "after the matrix":  # the last write of the job
        write_json = Root.write_json

        def fail(self, relative, *arguments, **named):
            if relative == "timelines.json":
                raise StoreError("the disk is full")
            write_json(self, relative, *arguments, **named)

        monkeypatch.setattr(Root, "write_json", fail)
    if broken == "interrupted":
        run_pipeline = training_data.run_pipeline

        def interrupt(*arguments, **named):
            run_pipeline(*arguments, **named)
            os.remove(f"{out}/timelines.json")
            raise KeyboardInterrupt

        monkeypatch.setattr(training_data, "run_pipeline", interrupt)
    assert run_job(folder, out, *flags) == 1
    assert os.listdir(out) == []


def test_workers_find_what_the_launcher_left_in_its_root(world, tmp_path, monkeypatch):
    folder, _ = world
    out, checked = str(tmp_path / "out"), []
    check_root = RunFolder.check_root

    def check(run):
        check_root(run)
        checked.append(Root(out).read_bytes(f"{run.staging}/token").decode() == run.launch.root_sentinel != "")

    monkeypatch.setattr(RunFolder, "check_root", check)
    assert run_job(folder, out, f"--label-rule={folder}/rule.json") == 0
    assert len(checked) > 4 and all(checked)  # the DoFns' and the last step's


def test_it_never_writes_over_timelines(world, tmp_path, capsys):
    folder, _ = world
    out = str(tmp_path / "out")
    assert run_job(folder, out, f"--label-rule={folder}/rule.json") == 0
    assert run_job(folder, out, f"--label-rule={folder}/rule.json") == 2
    assert "holds timelines already" in capsys.readouterr().err


def test_what_cannot_be_used_is_named(world, tmp_path, capsys):
    folder, _ = world
    (tmp_path / "rule.json").write_text('{"surfaces": ["home"], "actions": {"repin": "long"}}')
    assert run_job(folder, str(tmp_path / "a"), f"--label-rule={tmp_path}/rule.json") == 1
    assert "action 'repin' needs a number of seconds" in capsys.readouterr().err
    assert run_job(folder, str(tmp_path / "a"), f"--end={day(-3)}") == 2
    assert "is before --start" in capsys.readouterr().err
    with pytest.raises(Exception, match="pinnerformer training-data"):
        load_training_data(str(tmp_path / "a"), "train")


def test_rows_that_have_no_vector_at_all_are_said(world, tmp_path, capsys):
    folder, _ = world
    vectors = {1_000_000: np.ones(256, np.float16)}
    write_vectors(str(tmp_path / "pins"), vectors)
    assert run_job(folder, str(tmp_path / "out"), f"--pins={tmp_path}/pins") == 1
    said = capsys.readouterr().err
    assert "no engagement to train on" in said and "without a pin vector" in said
    assert "invalid (negative_duration 3, negative_pin_id 3, null_user_id 3, timestamp_after_partition 3" in said


@pytest.mark.parametrize("job", ["training-data", "daily", "init-model"])
def test_a_word_that_is_not_utf8_is_of_a_row_of_a_file(world, tmp_path, job):
    """Parquet says `string` and holds other bytes: found where file and row are known, not in a later step."""
    folder, rows = world
    good = {"user_id": 3, "pin_id": 1, "timestamp_ms": midnight(0), "action": "repin", "surface": "homefeed"}
    path = write_file(str(tmp_path / "logs"), 0, [{**rows[0][0], **good, "duration_s": None}, *rows[0][1:]])
    table = pq.read_table(path)
    words = pa.array([b"\xf0(", *(word.encode() for word in table["action"].to_pylist()[1:])], pa.binary())
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", words.view(pa.string())), path)
    given = [f"--logs={tmp_path}/logs", f"--pins={folder}/pins"]
    model, rule = f"--model={folder}/model", f"--label-rule={folder}/rule.json"
    commands = {
        "training-data": [
            *given,
            model,
            rule,
            f"--out={tmp_path}/out",
            f"--start={day(0)}",
            f"--end={day(0)}",
            "--quiet",
        ],
        "daily": [*given, model, f"--root={tmp_path}/root", f"--date={day(0)}", f"--bootstrap-from={day(0)}"],
        "init-model": [*given, "--preset=tiny", f"--out={tmp_path}/made"],
    }
    more = ["--publish=none", "--quiet"] if job == "daily" else []
    assert main([job, *commands[job], *more]) == 0
    if job == "daily":
        manifest = read_current(Root(f"{tmp_path}/root"))
        assert manifest.counters["read_logs"]["dropped_text_not_utf8"] == 1
        letters = pq.read_table(f"{tmp_path}/root/releases/{manifest.release}/dead_letters").to_pylist()
        dead = [(letter["file"], letter["row"]) for letter in letters if letter["reason"] == "text_not_utf8"]
        assert dead == [(f"ds={day(0)}/{os.path.basename(path)}", 0)]
    elif job == "init-model":
        assert all("\ufffd" not in word for word in load_config(f"{tmp_path}/made").action_vocabulary)
