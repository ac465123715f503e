"""Log rows read, validated, partitioned, grouped, merged into histories: columnar against one row an element.

    .venv/bin/python -m benchmarks.ingest [--rows 3000000] [--users N] [--rowwise-rows 300000] [--rounds 3]

The columnar steps are measured with ids that are numbers and with the same ids as strings, which are hashed and whose
names become tables; `--rowwise-rows 0` leaves the third out. All run in one process on Beam's FnApiRunner, and merge a
day of logs into the histories of the days before. The row-wise job is the one Beam's documentation teaches:
ReadFromParquet, a key a row, CoGroupByKey, a sort a user, WriteToParquet. It gets a world a tenth of the size: it keeps
every row as a Python dict, several times over.
"""

import argparse
import datetime
import glob
import os
import pickle
import shutil
import statistics
import sys
import tempfile
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.parquetio import ReadFromParquet, WriteToParquet
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from benchmarks.measuring import alternate, median_ratio, wall
from benchmarks.records import record
from pinnerformer_model.config import preset
from pinnerformer_model.days import DAY_MS, midnight_ms
from pipelines.cli import main as pinnerformer
from pipelines.synthetic.world import ACTIONS, SURFACES
from stores.files import Root
from stores.layout import Layout, open_layout
from stores.logs import ColumnNames, describe_files
from stores.manifests import Manifest, write_manifest
from stores.tables import NAME_TABLES, TABLES
from transforms.histories import UpdateHistories
from transforms.named_rows import PIN_NAMES
from transforms.pin_names import NamePins
from transforms.read_logs import ReadLogs, row_groups
from transforms.report_outputs import REPORTS, MergeReports
from transforms.run import Instructions, Run
from transforms.step_reports import StepReport

START = datetime.date(2026, 11, 1)
HISTORY_LENGTH = 256
CONFIG = preset("tiny", action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="synth-1")
PLAIN = pa.schema(
    [
        ("user_id", pa.int64()),
        ("pin_id", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("action", pa.string()),
        ("surface", pa.string()),
        ("duration_s", pa.float32()),
    ]
)


def make_world(folder: str, rows: int, users: int | None = None) -> None:
    """Two days of about `rows` engagements each, of half of the users each; of a tenth as many users unless told."""
    each = 14 if users is None else 1.4 * rows / users
    users = max(100, rows // 10) if users is None else users
    flags = [f"--users={users}", "--pins=100000", f"--start={START}", "--days=2", "--seed=3", "--active-share=0.5"]
    code = pinnerformer(["synth", f"--out={folder}", *flags, f"--rows-per-active={each}"])
    if code:
        sys.exit(code)


def with_strings(world: str, folder: str) -> None:
    """The logs of a world with the ids as strings: `user-17`, `sku-4242`."""
    for path in glob.glob(f"{world}/logs/ds=*/*"):
        target = f"{folder}/{os.path.relpath(path, world)}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not path.endswith(".parquet"):
            shutil.copy(path, target)
            continue
        table = pq.read_table(path)
        for key, prefix in (("user_id", "user-"), ("pin_id", "sku-")):
            strings = pc.binary_join_element_wise(prefix, table[key].cast(pa.string()), "")
            table = table.set_column(table.schema.get_field_index(key), key, strings)
        pq.write_table(table, target, row_group_size=1 << 20)


def files_of(world: str, day: datetime.date) -> list:
    return describe_files(f"{world}/logs/ds={day}", day, ColumnNames.parse([]))


class Columnar:
    """Our steps; the first day's histories are made once, the second day is measured."""

    def __init__(self, world: str, folder: str, ids: str):
        self._world, self._folder = world, folder
        layout = open_layout(Root(folder), {"history_length": HISTORY_LENGTH, "user_ids": ids, "pin_ids": ids})
        made = self._merge(START, None, layout)
        tables: dict[str, Any] = {name: [] for name in (*TABLES, *(NAME_TABLES if layout.has_strings else ()))}
        for report in made.values():
            tables |= {name: entries for name, entries in report.files.items() if name in tables}
        first = Manifest(str(START), str(START), None, "", tables, [], {}, {}, [], {}, [])
        write_manifest(Root(folder), first)
        self._layout = layout

    def _merge(self, day: datetime.date, previous: str | None, layout: Layout) -> dict[str, StepReport]:
        instructions = Instructions(everyone_active=previous is None)
        run = Run(Root(self._folder), f"benchmark-{day}", day, str(day), previous, layout, instructions)
        reports = f"{self._folder}/reports"
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            groups = [group for file in files_of(self._world, day) for group in row_groups(file)]
            shards = layout.pin_shards if layout.has_strings else 0
            read = ReadLogs(run, ColumnNames.parse([]), layout.user_buckets, pin_shards=shards)
            rows, found = pipeline | beam.Create(groups) | "ReadLogs" >> read, []
            lost = None
            if shards:
                no_vectors = pipeline | "NoVectors" >> beam.Create([])
                named = rows[PIN_NAMES] | "NamePins" >> NamePins(run, no_vectors)
                lost, found = named.main, [named[REPORTS]]
            histories = rows.main | "UpdateHistories" >> UpdateHistories(run, CONFIG, lost_pins=lost)
            _ = (
                (rows[REPORTS], histories[REPORTS], *found)
                | beam.Flatten()
                | beam.CombineGlobally(MergeReports())
                | beam.Map(write_reports, path=reports)
            )
        return read_reports(reports)

    def once(self) -> float:
        day = START + datetime.timedelta(1)
        for table in ("histories", *NAME_TABLES):
            shutil.rmtree(f"{self._folder}/{table}/{day}", ignore_errors=True)
        rows = sum(file.rows for file in files_of(self._world, day))
        return rows / wall(lambda: self._merge(day, str(START), self._layout))


def write_reports(reports: dict[str, StepReport], path: str) -> None:
    with open(path, "wb") as file:
        pickle.dump(reports, file)


def read_reports(path: str) -> dict[str, StepReport]:
    with open(path, "rb") as file:
        return pickle.load(file)


def is_valid(row: dict[str, Any]) -> bool:
    """The job's own rules, for one row of the second day."""
    if row["user_id"] is None or row["pin_id"] is None or row["timestamp_ms"] is None:
        return False
    end = midnight_ms(START) + 2 * DAY_MS
    in_time = end - 367 * DAY_MS <= row["timestamp_ms"] < end
    return row["pin_id"] >= 0 and in_time and (row["duration_s"] is None or row["duration_s"] >= 0)


def newest(element: tuple[int, dict[str, list]]) -> list[dict[str, Any]]:
    """One user's rows -> those that stay in the history."""
    rows = {tuple(row.values()): row for kind in ("old", "new") for row in element[1][kind]}.values()

    def order(row: dict[str, Any]) -> tuple:
        duration = row["duration_s"]
        key = (-row["timestamp_ms"], row["pin_id"], row["action"], row["surface"])
        return (*key, duration is None, duration or 0.0)

    return sorted(rows, key=order)[:HISTORY_LENGTH]


class RowWise:
    """One row an element."""

    def __init__(self, world: str, folder: str):
        self._world, self._folder = world, folder
        self._columns = PLAIN.names

    def once(self) -> float:
        second = START + datetime.timedelta(1)
        rows = sum(file.rows for file in files_of(self._world, second))

        def work() -> None:
            with beam.Pipeline(runner=FnApiRunner()) as pipeline:
                old = (
                    pipeline
                    | "ReadOld" >> ReadFromParquet(f"{self._world}/logs/ds={START}/*.parquet", columns=self._columns)
                    | "KeyOld" >> beam.Map(lambda row: (row["user_id"], row))
                )
                new = (
                    pipeline
                    | "ReadNew" >> ReadFromParquet(f"{self._world}/logs/ds={second}/*.parquet", columns=self._columns)
                    | "Validate" >> beam.Filter(is_valid)
                    | "KeyNew" >> beam.Map(lambda row: (row["user_id"], row))
                )
                _ = (
                    {"old": old, "new": new}
                    | beam.CoGroupByKey()
                    | beam.FlatMap(newest)
                    | WriteToParquet(f"{self._folder}/histories", PLAIN)
                )

        return rows / wall(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000, help="a day, for the columnar steps")
    parser.add_argument("--rowwise-rows", type=int, default=300_000, help="a day, for one row an element; 0: none")
    parser.add_argument("--users", type=int, help="of the columnar steps (a tenth of the rows)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/rowwise")
        seconds = wall(lambda: make_world(f"{folder}/large", arguments.rows, arguments.users))
        made = sum(
            pq.read_metadata(file.path).num_rows
            for offset in range(2)
            for file in files_of(f"{folder}/large", START + datetime.timedelta(offset))
        )
        with_strings(f"{folder}/large", f"{folder}/strings")
        candidates = {
            "int64": Columnar(f"{folder}/large", f"{folder}/root", "int64").once,
            "string": Columnar(f"{folder}/strings", f"{folder}/named", "string").once,
        }
        if arguments.rowwise_rows:
            make_world(f"{folder}/small", arguments.rowwise_rows)
            candidates["row-wise"] = RowWise(f"{folder}/small", f"{folder}/rowwise").once
        print("rows/s:")
        figures = alternate(arguments.rounds, candidates)
    print(f"synth:    {made / seconds:,.0f} rows/s ({made:,} rows)")
    for name, found in figures.items():
        print(f"{name + ':':9} {statistics.median(found):,.0f} rows/s (median of {len(found)})")
    note = f"{statistics.median(figures['int64']):,.0f} rows/s with int64"
    record(
        "ingest", "rows/s with string ids / with int64", median_ratio(figures["string"], figures["int64"]), note=note
    )
    if arguments.rowwise_rows:
        ratio = median_ratio(figures["int64"], figures["row-wise"])
        record("ingest", "rows/s, columnar / one row an element", ratio)
    return 0


if __name__ == "__main__":
    sys.exit(main())
