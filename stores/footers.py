"""Parquet footers, held against what they can be before anything is allocated by what they say."""

import pyarrow.parquet as pq

MAX_VALUES = 1 << 30  # of a column in a row group: 8 GiB of int64, more than a worker should be handed at once


def check_footer(metadata: pq.FileMetaData, values_a_row: int = 1) -> None:
    """Refuses a footer of impossible counts: a reader makes room for as many rows as it is told of.

    What a footer says of single columns is left to the reader: asked for a damaged column's, pyarrow ends the process.

    Args:
        values_a_row: Of the widest column.

    Raises:
        ValueError: rows that do not add up, or more in a row group than anybody writes at once.
    """
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise ValueError(f"its footer says {metadata.num_rows:,} rows, its row groups {sum(rows):,}")
    most = MAX_VALUES // values_a_row
    if max(rows, default=0) > most:
        raise ValueError(f"its footer says {max(rows):,} rows in one row group, at most {most:,} are read at once")
