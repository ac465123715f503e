"""Snapshots drawn as dicts, written as releases."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from stores.files import FileEntry, Root
from stores.id_names import PINS, USERS
from stores.ids import bucket_of
from stores.layout import open_layout
from stores.manifests import Manifest, write_manifest
from stores.schemas import to_binary_column, user_embeddings_schema
from stores.string_ids import STRING, hash_text
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
    open_layout(root, {"user_buckets": BUCKETS, "pin_shards": 1})
    tables: dict[str, list[FileEntry]] = {table: [] for table in TABLES}
    for bucket in range(BUCKETS):
        mine = {u: v for u, v in snapshot.items() if bucket_of(np.array([u]), BUCKETS)[0] == bucket}
        if mine or bucket == 0:
            tables["user_embeddings"].append(write_part(root, "user_embeddings", FIRST, bucket, rows_of(mine)))
    layout = {"layout": {"user_buckets": BUCKETS, "pin_shards": 1}}
    manifest = Manifest(name, str(FIRST), None, model, tables, [], layout, {}, [], {}, [])
    write_manifest(root, manifest)
    return manifest


def named_release(root: Root, users: Sequence[str], pins: Sequence[str], name: str = "2026-11-01") -> Manifest:
    """A release of users and pins whose ids are strings, and whose vectors are 1."""
    manifest = release(root, name, {hash_text(user): 1 for user in users})
    ids = {"user_ids": STRING, "pin_ids": STRING, "id_scheme": "xxh64-63"}
    tables = dict(manifest.tables)
    for of, words, parts in ((USERS, users, BUCKETS), (PINS, pins, 1)):
        by_id = {hash_text(word): word for word in words}
        tables[of.table] = []
        for part in range(parts):
            mine = [one for one in sorted(by_id) if bucket_of(np.array([one]), parts)[0] == part]
            rows = {of.column: pa.array(mine, pa.int64()), "name": pa.array([by_id[one] for one in mine], pa.string())}
            tables[of.table].append(write_part(root, of.table, FIRST, part, pa.table(rows)))
    layout = {**manifest.settings["layout"], **ids}
    manifest = dataclasses.replace(manifest, tables=tables, settings={**manifest.settings, "layout": layout})
    write_manifest(root, manifest)
    return manifest
