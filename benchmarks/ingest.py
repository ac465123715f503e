"""Log rows read, validated, partitioned, grouped, merged into histories: columnar against one row an element.

    .venv/bin/python -m benchmarks.ingest [--rows 3000000] [--rowwise-rows 300000] [--rounds 3]

Both run in one process on Beam's FnApiRunner, and merge a day of logs into the histories of the days before. The
row-wise job is the one Beam's documentation teaches: ReadFromParquet, a key a row, CoGroupByKey, a sort a user,
WriteToParquet. It gets a world a tenth of the size: it keeps every row as a Python dict, several times over.
"""

import argparse
import datetime
import os
import pickle
import shutil
import statistics
import sys
import tempfile
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.parquetio import ReadFromParquet, WriteToParquet
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from benchmarks.measuring import alternate, median_ratio, wall
from pinnerformer_model.days import DAY_MS, midnight_ms
from pipelines.cli import main as pinnerformer
from stores.files import Root
from stores.layout import Layout, open_layout
from stores.logs import ColumnNames, describe_files
from stores.manifests import Manifest, write_manifest
from stores.names import Step
from stores.tables import TABLES
from transforms.histories import UpdateHistories
from transforms.read_logs import ReadLogs, row_groups
from transforms.report_outputs import REPORTS, MergeReports
from transforms.run import Instructions, Run
from transforms.step_reports import StepReport

START = datetime.date(2026, 11, 1)
HISTORY_LENGTH = 256
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


def make_world(folder: str, rows: int) -> None:
    """Two days of about `rows` engagements each."""
    users = max(100, rows // 10)
    flags = [f"--users={users}", "--pins=100000", f"--start={START}", "--days=2", "--seed=3", "--active-share=0.5"]
    code = pinnerformer(["synth", f"--out={folder}", *flags, "--rows-per-active=14"])
    if code:
        sys.exit(code)


def files_of(world: str, day: datetime.date) -> list:
    return describe_files(f"{world}/logs/ds={day}", day, ColumnNames.parse([]))


class Columnar:
    """Our steps; the first day's histories are made once, the second day is measured."""

    def __init__(self, world: str, folder: str):
        self._world, self._folder = world, folder
        layout = open_layout(Root(folder), {"history_length": HISTORY_LENGTH})
        entries = self._merge(START, None, layout)[Step.UPDATE_HISTORIES].files["histories"]
        tables: dict[str, Any] = {**{name: [] for name in TABLES}, "histories": entries}
        first = Manifest(str(START), str(START), None, "", tables, [], {}, {}, [], {}, [])
        write_manifest(Root(folder), first)
        self._layout = layout

    def _merge(self, day: datetime.date, previous: str | None, layout: Layout) -> dict[str, StepReport]:
        instructions = Instructions(everyone_active=previous is None)
        run = Run(Root(self._folder), f"benchmark-{day}", day, str(day), previous, layout, instructions)
        reports = f"{self._folder}/reports"
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            groups = [group for file in files_of(self._world, day) for group in row_groups(file)]
            rows = (
                pipeline | beam.Create(groups) | "ReadLogs" >> ReadLogs(run, ColumnNames.parse([]), layout.user_buckets)
            )
            histories = rows.main | "UpdateHistories" >> UpdateHistories(run)
            _ = (
                (rows[REPORTS], histories[REPORTS])
                | beam.Flatten()
                | beam.CombineGlobally(MergeReports())
                | beam.Map(write_reports, path=reports)
            )
        return read_reports(reports)

    def once(self) -> float:
        day = START + datetime.timedelta(1)
        shutil.rmtree(f"{self._folder}/histories/{day}", ignore_errors=True)
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
    parser.add_argument("--rowwise-rows", type=int, default=300_000, help="a day, for one row an element")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/rowwise")
        seconds = wall(lambda: make_world(f"{folder}/large", arguments.rows))
        made = sum(
            pq.read_metadata(file.path).num_rows
            for offset in range(2)
            for file in files_of(f"{folder}/large", START + datetime.timedelta(offset))
        )
        make_world(f"{folder}/small", arguments.rowwise_rows)
        columnar = Columnar(f"{folder}/large", f"{folder}/root")
        rowwise = RowWise(f"{folder}/small", f"{folder}/rowwise")
        print("rows/s:")
        figures = alternate(arguments.rounds, {"columnar": columnar.once, "row-wise": rowwise.once})
    print(f"synth:    {made / seconds:,.0f} rows/s ({made:,} rows)")
    for name, found in figures.items():
        print(f"{name + ':':9} {statistics.median(found):,.0f} rows/s (median of {len(found)})")
    print(f"columnar / row-wise: {median_ratio(figures['columnar'], figures['row-wise']):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
