"""Rows in any order, of any number of days, as one Parquet file a day: a merge on the disk, so that memory is bounded.

A run holds up to `RUN_ROWS` rows sorted by day, as an Arrow file that is mapped later; which of its rows a day has is
kept in memory. A day's file is its slices of all runs, one after the other: in the order in which the rows came.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RUN_ROWS = 1 << 20
GROUP_ROWS = 1 << 18  # of a row group of a day's file


@dataclasses.dataclass(frozen=True)
class Run:
    """A file of rows sorted by day.

    Attributes:
        days: int64 [D], days since 1970 that have rows, sorted.
        edges: int64 [D + 1]: day n has the rows `edges[n]` to `edges[n + 1]`.
    """

    path: str
    days: np.ndarray
    edges: np.ndarray


class DayRuns:
    """Takes rows of all days and gives them back by day.

    Args:
        folder: Where runs are written; nobody else's.
        schema: Of the rows.
        run_rows: How many are in memory at a time.
    """

    def __init__(self, folder: str, schema: pa.Schema, run_rows: int = RUN_ROWS):
        self._folder, self._schema, self._run_rows = folder, schema, run_rows
        self._batches: list[pa.RecordBatch] = []
        self._day_numbers: list[np.ndarray] = []
        self._waiting = 0
        self._runs: list[Run] = []

    @property
    def empty(self) -> bool:
        """Whether no row has come yet."""
        return not self._waiting and not self._runs

    def add(self, rows: pa.RecordBatch, day: np.ndarray) -> None:
        """Takes rows.

        Args:
            day: int64 [N]: days since 1970.
        """
        start = 0
        while start < rows.num_rows:  # runs of a fixed size: what is written does not depend on how rows come in
            taken = min(self._run_rows - self._waiting, rows.num_rows - start)
            self._batches.append(rows.slice(start, taken))
            self._day_numbers.append(day[start : start + taken])
            self._waiting += taken
            start += taken
            if self._waiting == self._run_rows:
                self._write_run()

    def _write_run(self) -> None:
        if not self._waiting:
            return
        day = np.concatenate(self._day_numbers)
        order = np.argsort(day, kind="stable")
        table = pa.Table.from_batches(self._batches, self._schema).unify_dictionaries()
        sorted_rows = table.take(pa.array(order)).combine_chunks()
        days, first = np.unique(day[order], return_index=True)
        path = os.path.join(self._folder, f"run-{len(self._runs):06d}.arrow")
        os.makedirs(self._folder, exist_ok=True)
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, self._schema) as writer:
            writer.write_table(sorted_rows)
        self._runs.append(Run(path, days, np.append(first, len(day))))
        self._batches, self._day_numbers, self._waiting = [], [], 0

    def days(self) -> np.ndarray:
        """int64: the days that have rows so far, sorted; days since 1970."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *self._day_numbers, *(run.days for run in self._runs)]))

    def write_day(self, day: int, path: str) -> None:
        """Writes the rows of a day, in the order in which they came."""
        with pq.ParquetWriter(path, self._schema) as writer:
            for piece in self._pieces(day):
                writer.write_table(piece, row_group_size=GROUP_ROWS)

    def _pieces(self, day: int) -> Iterator[pa.Table]:
        """A day's rows, `GROUP_ROWS` or a run's at a time."""
        self._write_run()
        waiting: list[pa.Table] = []
        for run in self._runs:
            at = int(np.searchsorted(run.days, day))
            if at == len(run.days) or run.days[at] != day:
                continue
            with pa.memory_map(run.path) as source:
                table = pa.ipc.open_file(source).read_all()
            start, end = run.edges[at : at + 2].tolist()
            waiting.append(table.slice(start, end - start))
            if sum(piece.num_rows for piece in waiting) >= GROUP_ROWS:
                yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()
