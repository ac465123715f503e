"""The topics of a vector set: its optional column `topic`, text or numbers."""

import numpy as np
import pyarrow as pa

from stores import locations
from stores.column_names import OUR_NAMES, ColumnNames
from stores.errors import InputError
from stores.id_columns import inner_column
from stores.ids import find_sorted
from stores.pin_vectors import list_vector_files, open_vector_file


def read_topics(folder: str, pin_ids: np.ndarray, columns: ColumnNames = OUR_NAMES) -> np.ndarray | None:
    """A topic's number for every pin asked: int64 [P]; None if some file has no column `topic`.

    Pins without a topic, and pins that the vector set does not have, share one number of their own.

    Args:
        folder: Of the vector set.
        pin_ids: int64 [P].
        columns: The vectors' own column names.

    Raises:
        InputError: no such folder, or a file that cannot be read.
    """
    folder = locations.absolute(folder)
    listed = list_vector_files(folder)
    if not listed:
        raise InputError(f"--pins {folder}: no *.parquet file in it")
    tables = []
    for path in (file.path for file in listed):
        try:
            with open_vector_file(path) as file:
                theirs, _ = columns.of_vectors(file.schema_arrow.names)
                pins, topics = (len(file.schema_arrow.get_all_field_indices(name)) for name in (theirs, "topic"))
                if not topics:
                    return None
                if (pins, topics) != (1, 1):
                    raise ValueError(f"expected one column `{theirs}` and one column `topic`")
                table = file.read(columns=[theirs, "topic"])
            topic = table["topic"]
            if pa.types.is_dictionary(topic.type):
                topic = topic.cast(topic.type.value_type)
            tables.append(pa.table({"pin_id": inner_column(table[theirs]), "topic": topic.cast(pa.string())}))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path}: unreadable ({str(error).splitlines()[0]}); write it again") from None
    rows = pa.concat_tables(tables).sort_by("pin_id").combine_chunks()
    encoded = rows["topic"].combine_chunks().dictionary_encode()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy().astype(np.int64)
    at, found = find_sorted(rows["pin_id"].to_numpy(), pin_ids)
    out = np.full(len(pin_ids), len(encoded.dictionary), np.int64)
    out[found] = codes[at[found]]
    return out
