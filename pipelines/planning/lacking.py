"""Columns that logs lack: said once a run, in words."""

import sys
from collections.abc import Sequence

from stores.column_names import ColumnNames
from stores.logs import LogFile


def describe_lacking(files: Sequence[LogFile], columns: ColumnNames) -> list[tuple[str, str, str]]:
    """(column, how many files lack it, what every row of them has instead) of each column that some do not have."""
    lines = []
    for ours, value in columns.absent:
        count = sum(ours in file.lacking for file in files)
        if count:
            instead = "not measured in any row of them" if value is None else f"{value!r} in every row of them"
            lines.append((ours, f"not in {count:,} of {len(files):,} log files", instead))
    return lines


def say_lacking(files: Sequence[LogFile], columns: ColumnNames) -> None:
    """Prints it, for a person."""
    for column, where, instead in describe_lacking(files, columns):
        print(f"{column}: {where}; {instead}", file=sys.stderr)
