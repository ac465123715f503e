"""`pinnerformer import`: real files of every kind, read to the last row, and what is asked and refused."""

import csv
import datetime
import glob
import gzip
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.importing import events as import_events
from stores.import_folder import ImportFolder
from stores.logs import ColumnNames, open_log_file
from stores.partitions import check_complete, list_data_files, list_partitions

COLUMNS = ("user_id", "pin_id", "timestamp_ms", "action", "surface", "duration_s")
FLAGS = ["--user-id=customer", "--pin-id=sku", "--time=created_at", "--action=event", "--surface=page"]
FLAGS += ["--duration=seconds", "--quiet"]
HEADER = ["customer", "sku", "created_at", "event", "page", "seconds", "note"]
NINE = 1793523600000  # 2026-11-01 09:00 UTC
DAY_MS = 86_400_000

# Two days with one between them that has no rows; zones of three kinds, ids with zeros in front and with commas.
ROWS: list[list[Any]] = [
    ["u-1", "0017", "2026-11-01T10:00:00+01:00", "buy", "home", 1.5, "plain"],
    ["u,2", "SKU-9", "2026-11-01T09:00:01Z", "view", "home", None, 'with "quotes",\na line end'],
    ["u-1", "SKU-9", "2026-11-03T05:30:00+05:30", "view", "search", 2.0, "\n\n"],
    ["ü 3", "0017", "2026-11-03 00:00:00.25+00", "buy", "home", 0.0, ""],
]
WANTED = [
    ("u-1", "0017", NINE, "buy", "home", 1.5),
    ("u,2", "SKU-9", NINE + 1000, "view", "home", None),
    ("u-1", "SKU-9", 1793664000000, "view", "search", 2.0),
    ("ü 3", "0017", 1793664000250, "buy", "home", 0.0),
]


def run(*words: str) -> int:
    return main(["import", *words])


def refused(capsys: pytest.CaptureFixture, *words: str, code: int = 1) -> str:
    assert run(*words) == code
    return capsys.readouterr().err


def read(logs: str) -> list[tuple]:
    """The rows of all partitions, day after day, each day complete and as the job reads it."""
    rows: list[tuple] = []
    for _, folder in sorted(list_partitions(logs).items()):
        files = list_data_files(folder)
        check_complete(folder, files, 1e9)
        for file in files:
            open_text = pq.read_table(file.path)
            rows += [tuple(row[name] for name in COLUMNS) for row in open_text.to_pylist()]
    return rows


def days_of(logs: str) -> list[str]:
    return [str(day) for day in sorted(list_partitions(logs))]


def write_csv(path: str, rows: list[list[Any]] = ROWS, header: list[str] = HEADER, delimiter: str = ",") -> str:
    opened: Callable = gzip.open if path.endswith(".gz") else open
    with opened(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def write_jsonl(path: str, rows: list[list[Any]] = ROWS) -> str:
    with open(path, "w") as file:
        for row in rows:
            found = dict(zip(HEADER, row, strict=True))
            file.write(json.dumps({**found, "who": {"customer": found["customer"]}}) + "\n")
    return path


def as_table(rows: list[list[Any]] = ROWS) -> pa.Table:
    columns = dict(zip(HEADER, map(list, zip(*rows, strict=True)), strict=True))
    return pa.table({**columns, "seconds": pa.array(columns["seconds"], pa.float64())})


def write_duckdb(path: str, tables: dict[str, pa.Table]) -> str:
    import duckdb

    with duckdb.connect(path) as connection:
        for name, table in tables.items():
            connection.register("given", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
    return path


def write_sqlite(path: str, rows: list[list[Any]] = ROWS) -> str:
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE purchases ({', '.join(HEADER)})")
        connection.executemany(f"INSERT INTO purchases VALUES ({', '.join('?' * len(HEADER))})", rows)
    return path


def write_delta(path: str) -> str:
    import deltalake

    deltalake.write_deltalake(path, as_table(ROWS[:1] * 3))
    deltalake.write_deltalake(path, as_table(), mode="overwrite")  # the first version's files stay in the folder
    return path


def write_iceberg(path: str) -> str:
    from pyiceberg.catalog.sql import SqlCatalog

    os.makedirs(path)
    catalog = SqlCatalog("test", uri=f"sqlite:///{path}/catalog.db", warehouse=f"file://{path}")
    catalog.create_namespace("shop")
    table = catalog.create_table("shop.events", schema=as_table().schema)
    table.append(as_table(ROWS[:1]))
    table.overwrite(as_table())
    return os.path.join(path, "shop", "events")


def write_hive(path: str) -> str:
    """Parquet in folders of a column's values, with files that have no suffix, and an empty marker."""
    table = as_table()
    for event in ("buy", "view"):
        folder = os.path.join(path, f"event={event}")
        os.makedirs(folder)
        mine = table.filter(pa.compute.equal(table["event"], event)).drop_columns(["event"])
        pq.write_table(mine, os.path.join(folder, "000000_0"))
        open(os.path.join(folder, "_SUCCESS"), "w").close()
    return path


KINDS: dict[str, Callable[[str], str]] = {
    "csv": lambda path: write_csv(f"{path}.csv"),
    "csv.gz": lambda path: write_csv(f"{path}.csv.gz"),
    "tsv": lambda path: write_csv(f"{path}.tsv", delimiter="\t"),
    "semicolons": lambda path: write_csv(f"{path}.txt", delimiter=";"),
    "jsonl": lambda path: write_jsonl(f"{path}.jsonl"),
    "parquet": lambda path: pq.write_table(as_table(), f"{path}.parquet") or f"{path}.parquet",
    "no suffix": lambda path: pq.write_table(as_table(), path) or path,
    "duckdb": lambda path: write_duckdb(f"{path}.duckdb", {"purchases": as_table()}),
    "sqlite": lambda path: write_sqlite(f"{path}.db"),
    "delta": lambda path: write_delta(path),
    "iceberg": lambda path: write_iceberg(path),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_partitions(kind, tmp_path):
    source, logs = KINDS[kind](f"{tmp_path}/events"), f"{tmp_path}/logs"
    assert run(f"--events={source}", f"--logs={logs}", *FLAGS) == 0
    assert read(logs) == WANTED
    assert days_of(logs) == ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert sorted(os.listdir(f"{logs}/_import")) == ["last.json", "lock"]


def test_a_folder_of_files_whose_names_are_columns(tmp_path):
    source, logs = write_hive(f"{tmp_path}/events"), f"{tmp_path}/logs"
    assert run(f"--events={source}", "--format=parquet", f"--logs={logs}", *FLAGS) == 0
    assert sorted(read(logs), key=str) == sorted(WANTED, key=str)


def test_a_query_and_a_query_over_the_tables_of_a_file(tmp_path):
    parquet = KINDS["parquet"](f"{tmp_path}/events")
    names = pa.table({"sku": ["0017", "SKU-9"], "own": ["A", "B"]})
    base = write_duckdb(f"{tmp_path}/shop.duckdb", {"p": as_table(), "names": names})
    joined = "SELECT p.* REPLACE (own AS sku) FROM p JOIN names USING (sku) ORDER BY created_at"
    assert run(f"--sql=SELECT * FROM read_parquet('{parquet}');", f"--logs={tmp_path}/a", *FLAGS) == 0
    assert run(f"--events={base}", f"--sql={joined}", f"--logs={tmp_path}/b", *FLAGS) == 0
    assert read(f"{tmp_path}/a") == WANTED
    assert {row[1] for row in read(f"{tmp_path}/b")} == {"A", "B"}


def test_nested_keys_and_columns(tmp_path, capsys):
    lines = write_jsonl(f"{tmp_path}/events.jsonl")
    table = as_table().append_column("who", pa.array([{"customer": row[0]} for row in ROWS]))
    pq.write_table(table, f"{tmp_path}/events.parquet")
    for source, name in ((lines, "a"), (f"{tmp_path}/events.parquet", "b")):
        assert run(f"--events={source}", f"--logs={tmp_path}/{name}", *FLAGS, "--user-id=who.customer") == 0
        assert read(f"{tmp_path}/{name}") == WANTED
    said = refused(capsys, f"--events={tmp_path}/events.parquet", f"--logs={tmp_path}/c", "--quiet")
    assert "; a field of who is who.NAME); say --user-id NAME" in said
    with open(f"{tmp_path}/nested.jsonl", "w") as file:
        file.write('{"who": {"customer": "u-1"}, "sku": "a"}\n')
    said = refused(capsys, f"--events={tmp_path}/nested.jsonl", f"--logs={tmp_path}/c", "--quiet")
    assert "; a field of who is who.NAME); say --user-id NAME" in said


def test_the_longest_duration_is_said_and_one_that_is_none_told_the_flag(tmp_path, capsys):
    for seconds, unit, said in (
        (30_000, "s", "the longest 30,000.0 s (8.3 h): if"),
        (30_000, "ms", "the longest 30.0 s"),
    ):
        source = write_csv(f"{tmp_path}/events.csv", [[*ROWS[0][:5], seconds, *ROWS[0][6:]]])
        words = [one for one in FLAGS if one != "--quiet"]
        assert run(f"--events={source}", f"--logs={tmp_path}/{unit}", *words, f"--duration-unit={unit}") == 0
        lines = capsys.readouterr().out.splitlines()
        (line,) = [one for one in lines if "duration_s" in one]
        assert said in line and ("--duration-unit" in line) == (unit == "s")


def test_ids_are_what_the_column_has_unless_a_flag_says_otherwise(tmp_path):
    def kinds(source: str, name: str, *more: str) -> tuple:
        assert run(f"--events={source}", f"--logs={tmp_path}/{name}", *FLAGS, *more) == 0
        return tuple(read(f"{tmp_path}/{name}")[0][:2])

    rows = [[17, 42, *ROWS[0][2:]], [-18, 43, *ROWS[1][2:]]]
    table = pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in rows])
    pq.write_table(table, f"{tmp_path}/whole.parquet")
    floats = table.set_column(0, "customer", table["customer"].cast(pa.float64()))  # of pandas, beside a missing one
    pq.write_table(floats, f"{tmp_path}/floats.parquet")
    texts = write_csv(f"{tmp_path}/whole.csv", rows)
    lines = write_jsonl(f"{tmp_path}/whole.jsonl", rows)
    assert kinds(f"{tmp_path}/whole.parquet", "a") == (17, 42)
    assert kinds(f"{tmp_path}/floats.parquet", "b") == (17, 42)
    assert kinds(texts, "c") == ("17", "42")  # a CSV has no types
    assert kinds(texts, "d", "--user-ids=int64") == (17, "42")
    assert kinds(lines, "e") == (17, 42)
    assert kinds(f"{tmp_path}/whole.parquet", "f", "--pin-ids=string") == (17, "42")


def test_numbers_need_a_unit_and_the_likely_one_is_named(tmp_path, capsys):
    for value, unit, day in ((1793523600, "s", "2026-11-01"), (1793523600000000, "us", "2026-11-01")):
        source = write_csv(f"{tmp_path}/{unit}.csv", [[*ROWS[0][:2], value, *ROWS[0][3:]]])
        words = (f"--events={source}", f"--logs={tmp_path}/{unit}", *FLAGS)
        said = refused(capsys, *words)
        assert "column 'created_at' has numbers" in said and f"as {unit} it is {day}: --time-unit {unit}" in said
        assert f"say --time-unit {unit}" in refused(capsys, *words, "--time-unit=ms")
        assert run(*words, f"--time-unit={unit}") == 0
        assert read(f"{tmp_path}/{unit}")[0][2] == NINE
    table = pa.table({**as_table(ROWS[:1]).to_pydict(), "created_at": pa.array([NINE * 1_000_000 + 7], pa.int64())})
    pq.write_table(table, f"{tmp_path}/ns.parquet")
    words = (f"--events={tmp_path}/ns.parquet", f"--logs={tmp_path}/ns", *FLAGS)
    assert "--time-unit ns" in refused(capsys, *words)
    assert run(*words, "--time-unit=ns") == 0 and read(f"{tmp_path}/ns")[0][2] == NINE


def test_times_without_a_zone_are_refused_and_summer_time_is_kept(tmp_path, capsys):
    # Berlin: 02:30 is there twice on 2025-10-26, and never on 2025-03-30.
    local = ["2025-03-30 01:59:59", "2025-03-30 02:30:00", "2025-03-30 03:00", "2025-07-01", "2025-10-26 01:59:59"]
    local += ["2025-10-26 02:30:00", "2025-10-26T03:00:00"]
    utc = ["2025-03-30T00:59:59", "2025-03-30T01:30:00", "2025-03-30T01:00:00", "2025-06-30T22:00:00"]
    utc += ["2025-10-25T23:59:59", "2025-10-26T01:30:00", "2025-10-26T02:00:00"]
    wanted = sorted(int(datetime.datetime.fromisoformat(f"{text}+00:00").timestamp() * 1000) for text in utc)
    texts = write_csv(f"{tmp_path}/local.csv", [[*ROWS[0][:2], text, *ROWS[0][3:]] for text in local])
    moments = [datetime.datetime.fromisoformat(text) for text in local]
    columns = {**as_table(ROWS[:1] * len(local)).to_pydict(), "created_at": pa.array(moments, pa.timestamp("ns"))}
    pq.write_table(pa.table(columns), f"{tmp_path}/local.parquet")
    for source in (texts, f"{tmp_path}/local.parquet"):
        logs = f"{source}.logs"
        assert "without a zone" in (said := refused(capsys, f"--events={source}", f"--logs={logs}", *FLAGS))
        assert "--timezone UTC or --timezone Europe/Berlin" in said
        assert run(f"--events={source}", f"--logs={logs}", *FLAGS, "--timezone=Europe/Berlin") == 0
        assert sorted(row[2] for row in read(logs)) == wanted
    said = refused(capsys, f"--events={texts}", f"--logs={tmp_path}/x", *FLAGS, "--timezone=Europe/Berlim", code=2)
    assert "did you mean Europe/Berlin?" in said


def test_other_formats_of_texts(tmp_path, capsys):
    source = write_csv(f"{tmp_path}/a.csv", [[*ROWS[0][:2], "01.11.2026 10:00", *ROWS[0][3:]]])
    words = (f"--events={source}", f"--logs={tmp_path}/logs", *FLAGS, "--timezone=Europe/Berlin")
    assert "no times that are known, but like '01.11.2026 10:00'; say --time-format" in refused(capsys, *words)
    assert run(*words, "--time-format=%d.%m.%Y %H:%M") == 0
    assert read(f"{tmp_path}/logs")[0][2] == NINE


def test_days_of_another_zone(tmp_path):
    source, logs = KINDS["csv"](f"{tmp_path}/events"), f"{tmp_path}/logs"
    assert run(f"--events={source}", f"--logs={logs}", *FLAGS, "--day-offset=-8") == 0
    assert days_of(logs) == ["2026-11-01", "2026-11-02"]  # 00:00 UTC is the evening before


def test_every_dropped_row_has_a_reason_and_is_shown(tmp_path, capsys):
    good = ROWS[0]
    bad = {
        "null_user_id": ["", *good[1:]],  # an empty cell of a CSV is a missing one
        "null_timestamp": [*good[:2], "", *good[3:]],
        "timestamp_not_understood": [*good[:2], "2026-13-01T10:00:00Z", *good[3:]],
        "timestamp_before_start": [*good[:2], "1970-01-01T00:00:00Z", *good[3:]],
        "timestamp_in_future": [*good[:2], "2999-01-01T00:00:00Z", *good[3:]],
        "null_action": [*good[:3], "  ", *good[4:]],
        "null_surface": [*good[:4], "", *good[5:]],
        "negative_duration": [*good[:5], -2, good[6]],
        "broken": good[:4],
    }
    source = write_csv(f"{tmp_path}/a.csv", [*ROWS, *bad.values(), [*good[:5], "soon", "x"]])
    with open(source, "ab") as file:
        file.write(b'u-1,\xff,2026-11-01T10:00:00Z,buy,home,1,x\r\n"no end,0017')
    words = (f"--events={source}", f"--logs={tmp_path}/logs", *FLAGS)
    said = refused(capsys, *words)
    assert "11 of 16 rows would be dropped, more than --max-dropped 0.1; nothing was imported:" in said
    assert f"    {source}, row 5: customer=null, sku=0017, created_at=2026-11-01T10:00:00+01:00" in said
    assert not os.path.exists(f"{tmp_path}/logs/ds=2026-11-01")
    assert run(*words[:-1], "--max-dropped=0.9", "--json") == 0
    report = json.loads(capsys.readouterr().out)["events"]
    assert report["dropped"] == {"broken": 3, **{reason: 1 for reason in sorted(bad) if reason != "broken"}}
    assert (report["rows_in"], report["rows_out"], report["durations_unknown"]) == (16, 5, 1)
    assert read(f"{tmp_path}/logs")[2] == (*WANTED[0][:5], None)


def test_a_quote_that_swallows_rows_and_lines_that_end_in_two_ways_are_refused(tmp_path, capsys):
    words = (f"--events={tmp_path}/a.csv", f"--logs={tmp_path}/logs", *FLAGS)
    write_csv(f"{tmp_path}/a.csv")
    with open(f"{tmp_path}/a.csv", "rb") as file:
        data = file.read()
    with open(f"{tmp_path}/a.csv", "wb") as file:
        file.write(data + b'u-1,"0017,2026-11-01T10:00:00Z,buy,home,1,x\r\n' + data)
    assert "row 5: a quote opens in it and does not end" in refused(capsys, *words, "--max-dropped=0.9")
    with open(f"{tmp_path}/a.csv", "wb") as file:
        file.write(data + data[data.index(b"\r\n") + 2 :].replace(b"\r\n", b"\n"))
    assert "its lines end in different ways" in refused(capsys, *words)


def test_lines_that_are_no_json_and_ids_that_are_no_numbers(tmp_path, capsys):
    path = write_jsonl(f"{tmp_path}/a.jsonl", [[1, -4, *ROWS[0][2:]], [2, 5, *ROWS[0][2:]]])
    with open(path, "a") as file:
        file.write('\n{"customer": 3, "sku": 4\n{"customer": "x3", "sku": 1, "created_at": "2026-11-01T00:00Z"}\n')
    words = ("--user-ids=int64", "--max-dropped=0.9", "--json")
    assert run(f"--events={path}", f"--logs={tmp_path}/logs", *FLAGS[:-1], *words) == 0
    report = json.loads(capsys.readouterr().out)["events"]
    assert report["dropped"] == {"broken": 1, "negative_pin_id": 1, "user_id_not_int64": 1}
    assert '{"customer": 3, "sku": 4' in report["samples"]["broken"][0]
    with open(f"{tmp_path}/array.json", "w") as file:
        json.dump([{"customer": 1}], file)
    assert "one JSON array" in refused(capsys, f"--events={tmp_path}/array.json", f"--logs={tmp_path}/l", *FLAGS)


def test_columns_that_are_not_there_are_refused_with_the_flags_that_allow_it(tmp_path, capsys):
    source = write_csv(f"{tmp_path}/a.csv", [row[:4] for row in ROWS], HEADER[:4])
    words = (f"--events={source}", f"--logs={tmp_path}/logs", *FLAGS[:3], "--quiet")
    said = refused(capsys, *words)
    assert "no column 'action', 'surface', 'duration_s' (it has customer, sku, created_at, event); say " in said
    assert "--action NAME or --absent action, --surface NAME or --absent surface" in said
    words = (*words, "--action=event", "--absent=surface=web", "--absent=duration_s", "--value=action:buy=purchase")
    assert run(*words) == 0
    found = read(f"{tmp_path}/logs")
    assert [row[3:] for row in found[:2]] == [("purchase", "web", None), ("view", "web", None)]
    assert "--pin-id NAME" in refused(capsys, *words[:2], "--user-id=customer", "--time=created_at", *words[4:])
    for more in ("--absent=pin_id", "--absent=duration_s=3", "--value=event:a=b", "--value=action:buy"):
        assert more.partition("=")[0] in refused(capsys, *words, more, code=2)


def test_days_that_are_there_are_refused_appended_to_or_replaced(tmp_path, capsys):
    source, logs = KINDS["csv"](f"{tmp_path}/events"), f"{tmp_path}/logs"
    words = (f"--logs={logs}", *FLAGS)
    assert run(f"--events={source}", *words) == 0
    other = write_csv(f"{tmp_path}/other.csv", [["u-9", *ROWS[0][1:]]])
    said = refused(capsys, f"--events={other}", *words, code=2)
    assert "there are partitions of 1 of these days, ds=2026-11-01 to ds=2026-11-01; --replace puts" in said
    assert run(f"--events={other}", *words, "--append") == 0
    (file,) = [one for one in glob.glob(f"{logs}/ds=2026-11-01/*.parquet") if "u-9" in str(pq.read_table(one))]
    os.utime(file, (1, 1))
    os.utime(other, (2, 2))  # not as imported already: it is read again
    assert run(f"--events={other}", *words, "--append") == 0  # the same rows are not there twice
    assert os.stat(file).st_mtime == 1  # nor is their file a rewritten one
    added = ("u-9", *WANTED[0][1:])
    assert sorted(read(logs), key=str) == sorted([*WANTED, added], key=str)
    assert run(f"--events={other}", *words, "--replace") == 0  # as imported already: nothing changes
    os.utime(other, (1, 1))
    assert run(f"--events={other}", *words, "--replace") == 0
    assert sorted(read(logs), key=str) == sorted([*WANTED[2:], added], key=str)
    whole = write_csv(f"{tmp_path}/whole.csv", [[7, 8, *ROWS[0][2:]]])
    said = refused(capsys, f"--events={whole}", *words, "--append", "--user-ids=int64")
    assert "user_id is string there and would be int64 here" in said


def test_a_range_of_days_is_made_whole_and_what_is_outside_dropped(tmp_path):
    source, logs = KINDS["csv"](f"{tmp_path}/events"), f"{tmp_path}/logs"
    words = ("--start=2026-10-31", "--end=2026-11-01", "--max-dropped=0.6")
    assert run(f"--events={source}", f"--logs={logs}", *FLAGS, *words) == 0
    assert days_of(logs) == ["2026-10-31", "2026-11-01"] and read(logs) == WANTED[:2]


class Killed(BaseException):
    """What a kill leaves: no clean-up of ours has run."""


@pytest.mark.parametrize("mode", ["new", "append", "replace"])
def test_a_killed_import_leaves_no_day_by_half_and_is_finished_by_the_next(mode, tmp_path, monkeypatch):
    logs = f"{tmp_path}/logs"
    source = write_csv(f"{tmp_path}/a.csv")
    if mode != "new":
        other = write_csv(f"{tmp_path}/other.csv", [["u-9", *row[1:]] for row in ROWS])
        assert run(f"--events={other}", f"--logs={logs}", *FLAGS) == 0
    before = read(logs) if mode != "new" else []
    words = (f"--events={source}", f"--logs={logs}", *FLAGS, *([f"--{mode}"] if mode != "new" else []))
    moves = []
    real = ImportFolder._move_day

    def killed_at(number: int) -> Callable:
        def move(self: ImportFolder, name: str, how: str) -> None:
            if len(moves) == number:
                raise Killed
            moves.append(name)
            real(self, name, how)

        return move

    monkeypatch.setattr(import_events.EventsImport, "_write_days", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(*words)
    monkeypatch.undo()
    assert (read(logs) if before else []) == before  # killed while it read: nothing has changed
    for number in (0, 1, 2):
        monkeypatch.setattr(ImportFolder, "_move_day", killed_at(number))
        moves.clear()
        with pytest.raises(Killed):
            run(*words)
        monkeypatch.undo()
    assert run(*words) == 0
    wanted = sorted([*WANTED, *(before if mode == "append" else [])], key=str)
    assert sorted(read(logs), key=str) == wanted
    assert sorted(os.listdir(f"{logs}/_import")) == ["last.json", "lock"]


def test_rows_in_no_order_and_more_than_a_run_holds(tmp_path, monkeypatch):
    random = np.random.default_rng(1)
    rows = [[f"u{n}", f"s{n}", int(NINE + random.integers(-20, 20) * DAY_MS), "buy", "home", None] for n in range(999)]
    source = write_csv(f"{tmp_path}/a.csv", rows, HEADER[:6])
    monkeypatch.setattr(import_events.DayRuns.__init__, "__defaults__", (97,))
    assert run(f"--events={source}", f"--logs={tmp_path}/logs", *FLAGS, "--time-unit=ms", "--end=2027-01-01") == 0
    wanted = [(*row[:2], row[2], "buy", "home", None) for row in rows if row[2] < _tomorrow_ms()]
    by_day = sorted(wanted, key=lambda row: row[2] // DAY_MS)  # stable: in a day the order of the file
    assert read(f"{tmp_path}/logs") == by_day


def _tomorrow_ms() -> int:
    return (datetime.datetime.now(datetime.UTC).date() - datetime.date(1970, 1, 1)).days * DAY_MS + DAY_MS


def test_the_job_reads_what_was_imported(tmp_path):
    source, logs = KINDS["csv"](f"{tmp_path}/events"), f"{tmp_path}/logs"
    assert run(f"--events={source}", f"--logs={logs}", *FLAGS, "--value=action:buy=repin") == 0
    (file,) = list_data_files(f"{logs}/ds=2026-11-01")
    schema = pq.read_schema(file.path)
    assert schema.field("timestamp_ms").type == pa.int64() and schema.field("duration_s").type == pa.float32()
    whole = write_csv(f"{tmp_path}/whole.csv", [[7, 8, *ROWS[0][2:]]])
    words = ("--user-ids=int64", "--pin-ids=int64")
    assert run(f"--events={whole}", f"--logs={tmp_path}/whole", *FLAGS, *words) == 0
    (file,) = list_data_files(f"{tmp_path}/whole/ds=2026-11-01")
    assert open_log_file(file.path, ColumnNames()).metadata.num_rows == 1


def test_what_cannot_be_read_is_refused_by_name(tmp_path, capsys):
    logs = f"--logs={tmp_path}/logs"
    two = write_duckdb(f"{tmp_path}/two.duckdb", {"a": as_table(), "b": as_table()})
    with open(f"{tmp_path}/damaged.parquet", "wb") as file:
        file.write(b"PAR1 and nothing else")
    for words, said in (
        (["--events=/no/such.csv", logs], "--events /no/such.csv: no such file or folder"),
        (["--events=s3://a/b.csv", logs], "only local files are imported"),
        ([f"--events={two}", logs], "which table? Say --table NAME, of: a, b"),
        ([f"--events={tmp_path}/damaged.parquet", logs], "damaged.parquet: cannot be read ("),
        (["--sql=SELECT 1; SELECT 2", logs], "--sql: expected one SELECT"),
        (["--sql=SELECT * FROM sqlite_scan('a', 'b')", logs], "it needs DuckDB's extension sqlite"),
        (["--sql=SELECT * FROM 's3://a/b.parquet'", logs], "it needs DuckDB's extension httpfs"),
        ([logs], "nothing to import: say --events FILE, --vectors FILE, or both"),
        ([f"--events={two}", "--table=a"], "--logs is missing"),
    ):
        assert said in refused_any(capsys, *words, *FLAGS)


def refused_any(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert run(*words) in (1, 2)
    return capsys.readouterr().err


def test_a_file_without_a_header_is_read_by_a_query_alone(tmp_path, capsys):
    file = tmp_path / "visits.tsv"
    file.write_text("7\tcafe-1\t2026-11-01T10:00:00Z\n8\tbar-2\t2026-11-01T11:00:00Z\n")
    flags = [f"--logs={tmp_path}/logs", "--absent=action", "--absent=surface", "--absent=duration_s", "--quiet"]
    said = refused(capsys, f"--events={file}", *flags)
    assert "it has 7, cafe-1, 2026-11-01T10:00:00Z" in said
    assert f"if its first line is a row already: --sql \"SELECT * FROM read_csv('{file}', header = false)\"" in said
    query = f"--sql=SELECT * FROM read_csv('{file}', header = false)"
    said = refused(capsys, query, f"--events={file}", *flags, code=2)
    assert f"--events {file}: a query names its files itself, FROM '{file}'; leave --events out" in said
    assert run(query, "--user-id=column0", "--pin-id=column1", "--time=column2", *flags) == 0
    assert [row[:2] for row in read(f"{tmp_path}/logs")] == [(7, "cafe-1"), (8, "bar-2")]


def test_rows_that_start_and_end_leave_out_are_no_loss(tmp_path, capsys):
    """Neither of the rows dropped nor of those read: one of two that are left is half, and so is one in a thousand."""
    row = ["u-1", "0017", "2026-11-01T10:00:00Z", "buy", "home", 1, "x"]
    rows = [[*row[:2], f"2026-{month:02d}-0{1 + n % 9}T10:00:00Z", *row[3:]] for month in (9, 12) for n in range(40)]
    rows += [row, row]
    words = (f"--events={write_csv(f'{tmp_path}/a.csv', rows)}", f"--logs={tmp_path}/logs", *FLAGS)
    assert run(*words, "--start=2026-11-01", "--end=2026-11-02") == 0
    assert [one[0] for one in read(f"{tmp_path}/logs")] == ["u-1", "u-1"]
    assert sorted(list_partitions(f"{tmp_path}/logs")) == [datetime.date(2026, 11, 1), datetime.date(2026, 11, 2)]
    rows[-1] = [None, *row[1:]]
    words = (f"--events={write_csv(f'{tmp_path}/b.csv', rows)}", f"--logs={tmp_path}/other", *FLAGS)
    said = refused(capsys, *words, "--start=2026-11-01", "--end=2026-11-02")
    assert "1 of 2 rows would be dropped (beside 80 that --start or --end leaves out), more than --max-dropped" in said
    # A time before 1990 is a loss where nobody asked for it.
    rows = [row] * 4 + [[*row[:2], "1970-01-01T00:00:00Z", *row[3:]]]
    words = (f"--events={write_csv(f'{tmp_path}/c.csv', rows)}", f"--logs={tmp_path}/other", *FLAGS)
    assert "1 of 5 rows would be dropped, more than" in refused(capsys, *words, "--end=2026-11-02")


@pytest.mark.parametrize("flag", ["--memory=1XB", "--memory=", "--delimiter=ab", "--delimiter=", "--width=-3"])
def test_flags_that_are_wrong_by_themselves_are_wrong_use(tmp_path, capsys, flag):
    source = write_csv(f"{tmp_path}/a.csv", ROWS)
    said = refused(capsys, f"--events={source}", f"--logs={tmp_path}/logs", *FLAGS, flag, code=2)
    assert flag.partition("=")[0] in said and not os.path.exists(f"{tmp_path}/logs")


def test_what_no_flag_says_of_a_table_is_its_fault(tmp_path, capsys):
    """As a zone or a column that is missing: exit code 1."""
    shutil.copy(write_csv(f"{tmp_path}/a.csv", ROWS), f"{tmp_path}/a.unheard-of")
    flags = (f"--logs={tmp_path}/logs", *FLAGS)
    assert "say --format KIND" in refused(capsys, f"--events={tmp_path}/a.unheard-of", *flags)
    with sqlite3.connect(f"{tmp_path}/a.db") as database:
        for name in ("one", "two"):
            database.execute(f"CREATE TABLE {name} (customer TEXT)")
    database.close()
    assert "which table? Say --table NAME, of: one, two" in refused(capsys, f"--events={tmp_path}/a.db", *flags)
