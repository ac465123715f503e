"""Check-inputs: says before a night what the night would say, by the night's own checks, and touches nothing."""

import collections
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import daily_inference
from pipelines.checking import log_rows
from pipelines.checking.findings import Finding, Level, exit_code, share, yaml_lines
from pipelines.cli import main
from stores.errors import PinnerFormerError
from stores.files import Root
from stores.lease import hold_lease
from tests.pipelines.nights import PINS, ROWS, USERS, World, make_world
from tests.pipelines.test_plan import everything
from tests.worlds import FIRST, day, make_rows, midnight, write_file, write_vectors


class Started(PinnerFormerError):
    """In place of the night: it has come so far."""

    exit_code = 77


@pytest.fixture
def would_start(monkeypatch):
    """Runs `daily` up to the moment at which its work would begin; says whether it came so far."""

    def stop(*_, **__):
        raise Started("started")

    def run(flags: list[str]) -> bool:
        with monkeypatch.context() as patched:
            patched.setattr(daily_inference, "execute", stop)
            return main(["daily", *flags, "--quiet"]) == Started.exit_code

    return run


def report_of(flags: list[str], capsys) -> tuple[int, dict]:
    capsys.readouterr()
    code = main(["check-inputs", *flags, "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


def findings_of(report: dict) -> list[dict]:
    return [one for part in report.values() if isinstance(part, dict) for one in part["findings"]]


def stopping(report: dict) -> str:
    return "\n".join(one["text"] for one in findings_of(report) if one["level"] == "stops")


@pytest.fixture
def world(tmp_path) -> World:
    return make_world(str(tmp_path / "world"))


def flags_of(world: World, root: str) -> list[str]:
    return [f"--root={root}", *world.inputs, "--publish=none", f"--date={day(4)}", f"--bootstrap-from={FIRST}"]


def test_what_it_says_of_a_sound_world(world, tmp_path, would_start, capsys):
    flags = flags_of(world, str(tmp_path / "root"))
    before = everything(str(tmp_path))
    code, found = report_of(flags, capsys)
    assert everything(str(tmp_path)) == before  # not even the root
    assert code == 0 and found["would_start"] and found["yaml"] == ["max-clock-skew: 60"]
    rows = [row for number in range(5) for row in world.rows[number]]
    logs = found["logs"]
    assert (logs["days"], logs["files"], logs["rows"], logs["rows_looked_at"]) == (5, 10, len(rows), len(rows))
    dropped = {"null_user_id": 5, "negative_pin_id": 5, "negative_duration": 5}
    assert logs["dropped"] == dropped | {"timestamp_after_partition": 5, "timestamp_too_old": 5}
    good = len(rows) - 25
    assert sum(logs["action"].values()) == sum(logs["surface"].values()) == good
    assert logs["missing_days"] == [] == logs["incomplete_days"]
    vectors = found["vectors"]
    assert (vectors["pins"], vectors["width"], vectors["dtype"], vectors["zeros"]) == (81, 256, "float16", 1)
    assert vectors["of_logs"]["pins"] == PINS and vectors["of_logs"]["pins_with_vector"] == 80
    unknown = next(one for one in found["model"]["findings"] if "make no token" in one["text"])
    assert unknown["sample"][0].startswith("unheard_of ") and unknown["level"] == "loses"
    assert found["night"]["foretold"]["users to embed"].startswith("about")
    assert would_start(flags)


def test_rows_a_user_are_counted(world, capsys):
    _, found = report_of([f"--logs={world.folder}/logs"], capsys)
    counts: dict[int, int] = {}
    for number in range(5):
        for row in world.rows[number][:-5]:
            counts[row["user_id"]] = counts.get(row["user_id"], 0) + 1
    rows = sorted(counts.values())
    assert found["logs"]["user_id"]["distinct"] == len(rows) <= USERS
    assert found["logs"]["rows_per_user"]["most"] == rows[-1]
    assert found["logs"]["rows_per_user"]["p50"] == rows[(len(rows) - 1) // 2 if len(rows) % 2 else len(rows) // 2 - 1]


def without_a_day(world: World, root: str) -> list[str]:
    shutil.rmtree(f"{world.folder}/logs/ds={day(2)}")
    return []


def not_complete(world: World, root: str) -> list[str]:
    os.unlink(f"{world.folder}/logs/ds={day(3)}/_SUCCESS")
    return []


def other_column(world: World, root: str) -> list[str]:
    for number in range(5):
        for name in ("a.parquet", "b.parquet"):
            path = f"{world.folder}/logs/ds={day(number)}/{name}"
            rows = pq.read_table(path)
            pq.write_table(rows.rename_columns(["item_id" if n == "pin_id" else n for n in rows.column_names]), path)
    return []


def no_durations(world: World, root: str) -> list[str]:
    for number in range(5):
        for name in ("a.parquet", "b.parquet"):
            path = f"{world.folder}/logs/ds={day(number)}/{name}"
            pq.write_table(pq.read_table(path).drop_columns(["duration_s"]), path)
    return []


def other_vector_column(world: World, root: str) -> list[str]:
    path = f"{world.folder}/pins/vectors.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["pin_id", "embedding"]), path)
    return []


def other_width(world: World, root: str) -> list[str]:
    write_vectors(f"{world.folder}/pins", {pin: v[:128] for pin, v in world.vectors.items()}, width=128)
    return []


def beside_the_days(world: World, root: str) -> list[str]:
    write_file(world.folder, 0, world.rows[0])
    shutil.move(f"{world.folder}/ds={day(0)}/a.parquet", f"{world.folder}/logs/a.parquet")
    return []


def damaged(world: World, root: str) -> list[str]:
    with open(f"{world.folder}/logs/ds={day(1)}/a.parquet", "wb") as file:
        file.write(b"PAR1 and no more")
    return []


def other_space(world: World, root: str) -> list[str]:
    write_vectors(f"{world.folder}/pins", world.vectors, version="v2")
    return []


def no_version(world: World, root: str) -> list[str]:
    os.unlink(f"{world.folder}/pins/version.json")
    return []


def no_model(world: World, root: str) -> list[str]:
    os.unlink(f"{world.folder}/model/model.safetensors")
    return []


def short_histories(world: World, root: str) -> list[str]:
    return ["--history-length=8"]


def nowhere_to_publish(world: World, root: str) -> list[str]:
    return ["--publish=store"]


BROKEN = {
    without_a_day: "missing",
    not_complete: "not complete",
    other_column: "'item_id' looks like it",
    no_durations: "no column 'duration_s', and none that is called like it",
    other_vector_column: "no column 'vector'",
    other_width: "is 128 wide, the model's pin_vector_dim is 256",
    beside_the_days: "beside the ds=YYYY-MM-DD folders",
    damaged: "not a readable Parquet file",
    other_space: "PinSage version 'v2'",
    no_version: "version.json: missing",
    no_model: "model.safetensors",
    short_histories: "shorter than the model's",
    nowhere_to_publish: "--kv is missing",
}


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_what_daily_would_refuse_is_found_and_the_lines_mend_it(world, tmp_path, would_start, capsys, spoil):
    flags = [*flags_of(world, str(tmp_path / "root")), *spoil(world, str(tmp_path / "root"))]
    code, found = report_of(flags, capsys)
    assert code in (1, 2) and not found["would_start"]
    assert BROKEN[spoil] in stopping(found)
    assert not would_start(flags)
    lines = [line for one in findings_of(found) for line in one.get("commands", []) if not line.startswith("pinner")]
    for line in lines:
        assert os.system(line) == 0
    mending = [flag for one in findings_of(found) if one["level"] == "stops" for flag in one.get("flags", [])]
    if lines or mending:
        assert report_of([*flags, *mending], capsys)[0] == 0
        assert would_start([*flags, *mending])


def test_an_empty_root_is_told_where_to_begin(world, tmp_path, would_start, capsys):
    flags = [flag for flag in flags_of(world, str(tmp_path / "root")) if "bootstrap" not in flag]
    code, found = report_of(flags, capsys)
    assert code == 2 and found["yaml"] == ["max-clock-skew: 60", f"bootstrap-from: {FIRST}"]
    assert not would_start(flags) and would_start([*flags, f"--bootstrap-from={FIRST}"])


@pytest.mark.parametrize("flags", [[f"--date={day(2)}"], [f"--date={day(0)}"], [f"--date={day(2)}", "--pin-shards=9"]])
def test_a_root_with_releases_is_asked_as_daily_asks_it(kept_nights, tmp_path, would_start, capsys, flags):
    world, root = kept_nights.copy(2, str(tmp_path))
    flags = [f"--root={root}", *world.inputs, "--publish=none", *flags]
    before = everything(str(tmp_path))
    code, found = report_of(flags, capsys)
    assert everything(str(tmp_path)) == before
    assert (code == 0) == would_start(flags) == (f"--date={day(2)}" == flags[-1])
    assert found["root"]["release"] == str(day(1))


def test_a_held_root_and_one_with_a_run_on_it(kept_nights, tmp_path, would_start, capsys):
    world, root = kept_nights.copy(2, str(tmp_path))
    flags = [f"--root={root}", *world.inputs, "--publish=none", f"--date={day(2)}"]
    with hold_lease(Root(root), "a run"):
        code, found = report_of(flags, capsys)
        assert code == 1 and "a run holds this root" in stopping(found) and not would_start(flags)
    assert main(["rollback", f"--root={root}", "--reason=half a log", "--publish=none"]) == 0
    code, found = report_of([*flags[:-1], f"--date={day(1)}"], capsys)
    assert code == 1 and "held" in stopping(found)


def test_the_logs_alone(world, capsys):
    code, found = report_of([f"--logs={world.folder}/logs"], capsys)
    assert code == 2 and found["logs"]["days"] == 5
    (lead,) = found["vectors"]["findings"]
    assert "item-vectors" in lead["commands"][0] and f"--until {day(5)}" in lead["commands"][0]
    assert "--content" in lead["text"]
    asked = report_of([f"--logs={world.folder}/logs", f"--date={day(2)}"], capsys)[1]["vectors"]["findings"]
    assert f"--until {day(3)}" in asked[0]["commands"][0]  # nothing of what is later than the night
    assert "daily needs --root, --pins, --model" in stopping(found)


def test_the_screen_says_the_worst_first(world, tmp_path, capsys):
    flags = flags_of(world, str(tmp_path / "root"))
    other_column(world, "")
    assert main(["check-inputs", *flags, "--quiet"]) == 1
    said = capsys.readouterr().out
    assert said.index("stops") < said.index("loses")
    assert "in pinnerformer.yaml:\n  columns:\n    pin_id: item_id\n" in said and said.count("\n") < 80
    assert said.index("daily would not start") < said.index("columns:")


def shifted(world: World, by_ms: int, since: int = 0) -> None:
    """The rows of the days, moved in time."""
    for number in range(5):
        rows = [
            {**row, "timestamp_ms": row["timestamp_ms"] + by_ms} for row in make_rows(number, ROWS, USERS, PINS, 8)[:-5]
        ]
        write_file(f"{world.folder}/logs", number, [row for row in rows if row["timestamp_ms"] >= since])
        os.unlink(f"{world.folder}/logs/ds={day(number)}/b.parquet")


@pytest.mark.parametrize(
    ("hours", "flag"), [(5, "--day-offset=-5"), (8, "--day-offset=-8"), (1.87, "--max-clock-skew=180")]
)
def test_days_of_another_zone_and_fast_clocks_are_mended(world, tmp_path, capsys, hours, flag):
    # Of the rows of a day the first is at midnight, the last at 22:10.
    shifted(world, int(hours * 3_600_000))
    flags = flags_of(world, str(tmp_path / "root"))
    _, found = report_of(flags, capsys)
    late = next(one for one in found["logs"]["findings"] if "timestamp_after_partition" in one["text"])
    assert late["flags"] == [flag]
    _, mended = report_of([*flags, flag], capsys)
    assert not mended["logs"]["dropped"]


def test_times_in_seconds_close_a_gate(world, tmp_path, capsys):
    for number in range(5):
        rows = [{**row, "timestamp_ms": midnight(number) // 1000 + 60} for row in world.rows[number][:-5]]
        write_file(f"{world.folder}/logs", number, rows)
        os.unlink(f"{world.folder}/logs/ds={day(number)}/b.parquet")
    code, found = report_of(flags_of(world, str(tmp_path / "root")), capsys)
    assert code == 3  # daily would start, and be refused at the end
    assert any("look like seconds" in one["text"] for one in found["logs"]["findings"])
    assert any("rows_dropped_share" in one["text"] for one in found["logs"]["findings"])


def test_vectors_that_fail_a_night(world, tmp_path, capsys):
    flags = flags_of(world, str(tmp_path / "root"))
    path = f"{world.folder}/pins/vectors.parquet"
    rows = pq.read_table(path)
    pq.write_table(pa.concat_tables([rows, rows.slice(4, 2)]), path)
    code, found = report_of(flags, capsys)
    assert code == 1 and "occurs more than once (2 rows too many" in stopping(found)
    vectors = {pin: np.full(256, np.nan, np.float16) if pin == 5 else v for pin, v in world.vectors.items()}
    write_vectors(f"{world.folder}/pins", vectors)
    code, found = report_of(flags, capsys)
    assert code == 1 and "row 5 (pin_id 5): vector has NaN" in stopping(found)


def test_ids_of_two_kinds(world, tmp_path, capsys):
    write_vectors(f"{world.folder}/pins", {pin + 1_000_000: v for pin, v in world.vectors.items()})
    code, found = report_of(flags_of(world, str(tmp_path / "root")), capsys)
    assert code == 3 and found["vectors"]["of_logs"]["pins_with_vector"] == 0
    assert any("no pin of the logs has a vector" in one["text"] for one in found["vectors"]["findings"])


def into_words(world: World) -> None:
    """Makes the ids of logs and vectors strings."""
    for number in range(5):
        for name in ("a.parquet", "b.parquet"):
            path = f"{world.folder}/logs/ds={day(number)}/{name}"
            rows = pq.read_table(path)
            for place, stem in enumerate(("u-", "sku-")):
                words = [None if one is None else f"{stem}{one}" for one in rows.column(place).to_pylist()]
                rows = rows.set_column(place, rows.column_names[place], pa.array(words))
            pq.write_table(rows, path)
    path = f"{world.folder}/pins/vectors.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(0, "pin_id", pa.array([f"sku-{n}" for n in rows["pin_id"].to_pylist()])), path)


def test_ids_that_are_words_are_shown_as_they_are(world, tmp_path, capsys):
    into_words(world)
    code, found = report_of(flags_of(world, str(tmp_path / "root")), capsys)
    assert code == 0 and found["logs"]["user_id"]["type"] == "string"
    said = json.dumps(found["vectors"]["findings"])
    assert "pin sku-3" in said and "pin sku-9" in said  # all zeros; without a vector
    assert found["logs"]["user_id"]["seen"][0].startswith("u-")


def test_of_many_rows_a_sample_is_looked_at_and_said(world, tmp_path, capsys):
    flags = flags_of(world, str(tmp_path / "root"))
    code, found = report_of([*flags, "--rows=300"], capsys)
    total = sum(map(len, world.rows.values()))
    assert code == 0 and found["logs"]["rows"] == total and 0 < found["logs"]["rows_looked_at"] <= 300
    _, again = report_of([*flags, "--rows=300"], capsys)
    assert again == found  # the same sample
    assert main(["check-inputs", *flags, "--rows=300", "--quiet"]) == 0
    assert "of a sample" in capsys.readouterr().out
    # Rows of users are counted all the same, bad ones too: one column of so few more is little.
    counts = collections.Counter(row["user_id"] for rows in world.rows.values() for row in rows)
    del counts[None]
    assert found["logs"]["rows_per_user"]["most"] == max(counts.values())


def test_of_many_rows_of_words_no_more_than_the_users_are_read_beside_the_sample(world, tmp_path, capsys, monkeypatch):
    """Rows of nobody, by null and by an empty string, are not counted; bad ones are, as those of numbers."""
    into_words(world)
    path = f"{world.folder}/logs/ds={day(4)}/b.parquet"
    rows = pq.read_table(path)
    empty = rows.slice(0, 1).set_column(0, rows.column_names[0], pa.array([""]))
    pq.write_table(pa.concat_tables([rows, empty]), path)
    whole, users = [], []
    read_valid, read_row_group = log_rows.read_valid, log_rows.read_row_group
    monkeypatch.setattr(log_rows, "read_valid", lambda group, *more: whole.append(group) or read_valid(group, *more))

    def read(path, index, columns, wanted, **named):
        users.append(tuple(wanted))
        return read_row_group(path, index, columns, wanted, **named)

    monkeypatch.setattr(log_rows, "read_row_group", read)
    code, found = report_of([*flags_of(world, str(tmp_path / "root")), "--rows=300"], capsys)
    assert code == 0 and set(users) == {("user_id",)} and 0 < len(whole) < len(users)
    counts = collections.Counter(row["user_id"] for rows in world.rows.values() for row in rows)
    del counts[None]
    by_user = found["logs"]["rows_per_user"]
    assert (by_user["most"], found["logs"]["user_id"]["type"]) == (max(counts.values()), "string")


def test_what_is_not_all_is_never_100_percent():
    assert [share(n, 1000) for n in (0, 3, 50, 120, 994, 997, 1000)] == [
        *("0 %", "0.30 %", "5.0 %", "12 %", "99 %", "99.7 %", "100 %")
    ]
    assert share(99_996, 100_000) == "over 99.99 %" and share(99_990, 100_000) == "99.99 %"


def test_exit_codes():
    def code(*levels: tuple[Level, int]) -> int:
        return exit_code(Finding(level, "", exit_code=number) for level, number in levels)

    assert code() == code((Level.LOSES, 1), (Level.NOTE, 1)) == 0
    assert code((Level.CLOSES, 1)) == 3
    assert code((Level.CLOSES, 1), (Level.STOPS, 2)) == 2
    assert code((Level.STOPS, 2), (Level.STOPS, 1)) == 1


def test_lines_of_a_file():
    flags = [("column", "pin_id=item_id"), ("day-offset", "-8"), ("column", "user_id=who"), ("absent", "surface")]
    assert yaml_lines(flags) == [
        "columns:",
        "  pin_id: item_id",
        "  user_id: who",
        'day-offset: "-8"',
        "absent: [surface]",
    ]
