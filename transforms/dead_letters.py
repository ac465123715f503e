"""Rows that a run could not use, written into its folder: those that are unfit, and those of a string without an id."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.files import FileEntry
from stores.id_columns import find_empty, find_unusable
from stores.log_text import with_used_text
from stores.schemas import ENGAGEMENTS, NAME_COLUMNS, STRING_CODES
from transforms.run import RunFolder


def name_faults(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """Reason -> bool [N] of what can be wrong with strings that are ids; nothing where ids are numbers."""
    found: dict[str, np.ndarray] = {}
    for key, name in NAME_COLUMNS.items():
        if name in batch.schema.names:
            long, not_utf8 = find_unusable(batch[name])
            found["text_too_long"] = found.get("text_too_long", False) | long
            found["text_not_utf8"] = found.get("text_not_utf8", False) | not_utf8
            found[f"empty_{key}"] = find_empty(batch[name])
    return found


def constant(value: str, rows: int) -> pa.Array:
    """A string column of one value."""
    return pa.array([value], pa.string()).take(pa.array(np.zeros(rows, np.int32)))


def dead_pins(ids: np.ndarray, strings: pa.Array, source: str) -> pa.Table:
    """Pins of a vector set whose string has the id of another, as dead letters: nobody's engagements.

    Args:
        ids: int64 [N].
        strings: [N].
        source: The flag that named the vectors.
    """
    count = len(ids)
    rows = pa.table({field.name: pa.nulls(count, field.type) for field in ENGAGEMENTS}, schema=ENGAGEMENTS)
    rows = rows.set_column(1, ENGAGEMENTS.field("pin_id"), pa.array(ids))
    rows = rows.append_column(NAME_COLUMNS["user_id"], pa.nulls(count, STRING_CODES))
    rows = rows.append_column(NAME_COLUMNS["pin_id"], strings.dictionary_encode().cast(STRING_CODES))
    rows = rows.append_column("reason", constant("pin_id_collision", count).dictionary_encode())
    return rows.append_column("row", pa.nulls(count, pa.int64())).append_column("file", constant(source, count))


def write_dead(run: RunFolder, stem: str, rows: pa.Table) -> FileEntry:
    """Writes dropped rows into the run's folder, each with its `reason`, `row` and `file`.

    Of strings that are ids it keeps those of these rows alone, and not the words that others of the batch have: they
    would be found neither by who looks for a user here nor by an erasure.

    Args:
        stem: The first words of the file's name.
    """
    rows = with_used_text(rows, NAME_COLUMNS.values())
    return run.root.write_named_by_content(
        f"{run.staging}/dead_letters", stem, ".parquet", 0, rows.num_rows, lambda path: pq.write_table(rows, path)
    )
