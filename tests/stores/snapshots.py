"""Snapshots drawn as dicts, written as releases."""

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from stores.files import FileEntry, Root
from stores.ids import bucket_of
from stores.manifests import Manifest, write_manifest
from stores.schemas import to_binary_column, user_embeddings_schema
from stores.tables import TABLES, write_part
from tests.worlds import FIRST

DIM, BUCKETS = 4, 3


IDS = st.integers(-5, 12)


SNAPSHOT = st.dictionaries(IDS, st.integers(0, 3), max_size=12)


def rows_of(snapshot: dict[int, int]) -> pa.Table:
    """A user's vector is one number repeated: two snapshots agree on a user if they agree on the number."""
    ids = sorted(snapshot)
    vectors = np.repeat(np.array([[snapshot[u]] for u in ids], np.float16).reshape(-1, 1), DIM, axis=1)
    columns = [pa.array(ids, pa.int64()), to_binary_column(vectors), pa.array([FIRST] * len(ids), pa.date32())]
    columns += [pa.array([0] * len(ids), pa.int64()), pa.array([False] * len(ids))]
    return pa.table(columns, schema=user_embeddings_schema(DIM))


def release(root: Root, name: str, snapshot: dict[int, int], model: str = "ab" * 32) -> Manifest:
    tables: dict[str, list[FileEntry]] = {table: [] for table in TABLES}
    for bucket in range(BUCKETS):
        mine = {u: v for u, v in snapshot.items() if bucket_of(np.array([u]), BUCKETS)[0] == bucket}
        if mine or bucket == 0:
            tables["user_embeddings"].append(write_part(root, "user_embeddings", FIRST, bucket, rows_of(mine)))
    layout = {"layout": {"user_buckets": BUCKETS, "pin_shards": 1}}
    manifest = Manifest(name, str(FIRST), None, model, tables, [], layout, {}, [], {}, [])
    write_manifest(root, manifest)
    return manifest
