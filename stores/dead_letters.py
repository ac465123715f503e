"""Dead letters: the log rows that a run could not use, in `<folder>/dead_letters/*.parquet`, each with its reason."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.files import Root
from stores.id_names import quoted
from stores.schemas import NAME_COLUMNS

FILES_LOOKED_AT = 200  # for examples; the counts are those of the whole run


def find_first(root: Root, folder: str) -> dict[str, tuple[str, int | None]]:
    """Reason -> (log file, number of the row in it) of its first dead letter, by name and number.

    Args:
        folder: Of the dead letters, relative to the root; of many files the first `FILES_LOOKED_AT` are read.

    Returns:
        The row is None in dead letters of an older version, which did not keep it.
    """
    return {reason: (row["file"], row.get("row")) for reason, row in _first_rows(root, folder).items()}


def _first_rows(root: Root, folder: str) -> dict[str, dict[str, Any]]:
    """Reason -> its first dead letter: file, row, and the names of its user and pin where ids are strings."""
    found: dict[str, dict[str, Any]] = {}
    wanted = ("reason", "file", "row", *NAME_COLUMNS.values())
    for name in root.list(folder)[:FILES_LOOKED_AT]:
        try:
            with root.open_input(f"{folder}/{name}") as source, pq.ParquetFile(source) as file:
                columns = [column for column in wanted if column in file.schema_arrow.names]
                rows = file.read(columns=columns)
        except (pa.ArrowException, OSError):
            continue  # they are shown to help: what cannot be read stops no refusal
        reasons = rows["reason"].cast(pa.string()).to_numpy()
        for index in np.unique(reasons, return_index=True)[1].tolist():  # the rows of a file stand in its order
            row = rows.slice(index, 1).to_pylist()[0]
            if row["reason"] not in found or _place(row) < _place(found[row["reason"]]):
                found[row["reason"]] = row
    return found


def _place(row: dict[str, Any]) -> tuple[str, int]:
    return row["file"], -1 if row.get("row") is None else row["row"]


def describe_collisions(root: Root, folder: str) -> list[str]:
    """A line on users, and one on pins, of whom some have a string whose hash is another's; who was first of them.

    Args:
        folder: Of the dead letters, relative to the root.
    """
    lines = []
    for reason, row in sorted(_first_rows(root, folder).items()):
        named = _named(reason, row)
        if named:
            lines.append(f"{reason}{named}, and its rows are left out; the first in {row['file']}")
    return lines


def describe_dead_letters(root: Root, folder: str, counters: Mapping[str, int]) -> list[str]:
    """What was dropped and why, for a person: a line on where it lies, then one per reason, the most frequent first.

    Args:
        folder: Of the dead letters, relative to the root.
        counters: Of the reading, `dropped_<reason>` among them.
    """
    counts = {name.removeprefix("dropped_"): n for name, n in counters.items() if name.startswith("dropped_") and n}
    if not counts:
        return []
    first = _first_rows(root, folder)
    lines = [
        f"The {sum(counts.values()):,} rows that were dropped, each with its file, row and reason: {root.path(folder)}"
    ]
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        example = first.get(reason, {})
        where = f", the first in {example['file']}" if example else ""
        row = "" if example.get("row") is None else f", row {example['row']}"
        lines.append(f"  {count:,} {reason}{where}{row}{_named(reason, example)}")
    return lines


def _named(reason: str, example: Mapping[str, Any]) -> str:
    """Whose id it was, of a reason that is about an id: a string that nobody else may have the hash of."""
    for key, column in NAME_COLUMNS.items():
        if reason == f"{key}_collision" and example.get(column) is not None:
            return f": {key} {quoted(example[column])} has the hash of another"
    return ""
