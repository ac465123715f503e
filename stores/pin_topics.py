"""The topics of a vector set: its optional column `topic`, text or numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.errors import InputError
from stores.pin_vectors import find_sorted


def read_topics(folder: str, pin_ids: np.ndarray) -> np.ndarray | None:
    """A topic's number for every pin asked: int64 [P]; None if some file has no column `topic`.

    Pins without a topic, and pins that the vector set does not have, share one number of their own.

    Args:
        folder: Of the vector set.
        pin_ids: int64 [P].

    Raises:
        InputError: no such folder, or a file that cannot be read.
    """
    try:
        names = [n for n in locations.list_names(folder) if n.endswith(".parquet") and not n.startswith((".", "_"))]
    except OSError as error:
        raise InputError(f"--pins {folder}: {error.strerror}; expected a folder of Parquet files") from None
    if not names:
        raise InputError(f"--pins {folder}: no *.parquet file in it")
    tables = []
    for name in names:
        path = locations.join(folder, name)
        try:
            if "topic" not in pq.read_schema(locations.open_input(path)).names:
                return None
            table = pq.read_table(locations.open_input(path), columns=["pin_id", "topic"], partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: unreadable ({str(error).splitlines()[0]}); write it again") from None
        topic = table["topic"]
        if pa.types.is_dictionary(topic.type):
            topic = topic.cast(topic.type.value_type)
        tables.append(pa.table({"pin_id": table["pin_id"].cast(pa.int64()), "topic": topic.cast(pa.string())}))
    rows = pa.concat_tables(tables).sort_by("pin_id").combine_chunks()
    encoded = rows["topic"].combine_chunks().dictionary_encode()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy().astype(np.int64)
    at, found = find_sorted(rows["pin_id"].to_numpy(), pin_ids)
    out = np.full(len(pin_ids), len(encoded.dictionary), np.int64)
    out[found] = codes[at[found]]
    return out
