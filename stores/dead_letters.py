"""Dead letters: the log rows that a run could not use, in `<folder>/dead_letters/*.parquet`, each with its reason."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.files import Root

FILES_LOOKED_AT = 200  # for examples; the counts are those of the whole run


def find_first(root: Root, folder: str) -> dict[str, tuple[str, int | None]]:
    """Reason -> (log file, number of the row in it) of its first dead letter, by name and number.

    Args:
        folder: Of the dead letters, relative to the root; of many files the first `FILES_LOOKED_AT` are read.

    Returns:
        The row is None in dead letters of an older version, which did not keep it.
    """
    found: dict[str, tuple[str, int | None]] = {}
    for name in root.list(folder)[:FILES_LOOKED_AT]:
        try:
            with root.open_input(f"{folder}/{name}") as source, pq.ParquetFile(source) as file:
                columns = [column for column in ("reason", "file", "row") if column in file.schema_arrow.names]
                rows = file.read(columns=columns)
        except (pa.ArrowException, OSError):
            continue  # they are shown to help: what cannot be read stops no refusal
        reasons = rows["reason"].cast(pa.string()).to_numpy()
        for index in np.unique(reasons, return_index=True)[1].tolist():  # the rows of a file stand in its order
            row = rows.slice(index, 1).to_pylist()[0]
            first = (row["file"], row.get("row"))
            if row["reason"] not in found or _place(first) < _place(found[row["reason"]]):
                found[row["reason"]] = first
    return found


def _place(example: tuple[str, int | None]) -> tuple[str, int]:
    return example[0], -1 if example[1] is None else example[1]


def describe_dead_letters(root: Root, folder: str, counters: Mapping[str, int]) -> list[str]:
    """What was dropped and why, for a person: a line on where it lies, then one per reason, the most frequent first.

    Args:
        folder: Of the dead letters, relative to the root.
        counters: Of the reading, `dropped_<reason>` among them.
    """
    counts = {name.removeprefix("dropped_"): n for name, n in counters.items() if name.startswith("dropped_") and n}
    if not counts:
        return []
    first = find_first(root, folder)
    lines = [
        f"The {sum(counts.values()):,} rows that were dropped, each with its file, row and reason: {root.path(folder)}"
    ]
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        file, row = first.get(reason, (None, None))
        where = f", the first in {file}" if file else ""
        lines.append(f"  {count:,} {reason}{where}" + ("" if row is None else f", row {row}"))
    return lines
