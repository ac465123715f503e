"""A shard night after night, of which the graph misses a few pins from the first on."""

import dataclasses

import numpy as np
import pyarrow as pa

from stores.files import FileEntry, Root
from stores.hnsw import IndexParameters
from stores.index_files import count_indexed, read_masked
from stores.indexes import load_changed, load_shards, search_shards
from stores.pin_shards import ShardBefore, built_with
from stores.row_digests import digest_rows
from stores.schemas import pin_embeddings_schema, to_binary_column
from stores.tables import write_part
from tests.stores.test_indexes import clustered
from tests.worlds import day
from transforms.grow_index import IndexedShard, index_shard

PARAMETERS = IndexParameters(4, 8)
BUILT = built_with(PARAMETERS)


def embedded(root: Root, number: int, ids: np.ndarray, vectors: np.ndarray) -> FileEntry:
    rows = pa.table([ids, to_binary_column(vectors), digest_rows(vectors)], schema=pin_embeddings_schema(32))
    return write_part(root, "pin_embeddings", day(number), 0, rows)


def kept(entry: FileEntry, shard: IndexedShard) -> ShardBefore:
    return ShardBefore("", entry, tuple(shard.files), BUILT, shard.graphs)


def assert_all_found(root: Root, shard: IndexedShard, ids: np.ndarray, vectors: np.ndarray) -> None:
    assert count_indexed(shard.files) == len(ids)
    found = search_shards(load_shards(root, shard.files, 32), vectors.astype(np.float32), 1, shard.find_ef)
    np.testing.assert_array_equal(found.pin_ids[:, 0], ids)


def test_pins_that_the_graph_misses_stay_apart_while_few_others_change(tmp_path):
    root, vectors, ids = Root(str(tmp_path)), clustered(1500, 300, 0.1), np.arange(1500) * 3
    first = embedded(root, 0, ids, vectors)
    shard = index_shard(root, day(0), first, None, PARAMETERS, BUILT)
    lost = read_masked(root, shard.files)
    assert 2 < len(lost) < 15 and shard.rebuilds == 0 and not shard.grown and shard.find_ef == 256
    assert_all_found(root, shard, ids, vectors)

    # Nothing changed: the same files.
    again = index_shard(root, day(1), first, kept(first, shard), PARAMETERS, BUILT)
    assert again.whole and again.files == shard.files

    # Ten others changed: the graph stays, and what it misses is still served by the small one.
    others = np.setdiff1d(np.arange(1500), lost // 3)[::150]
    changed = vectors.copy()
    changed[others] = clustered(1500, 7, 0.5)[: len(others)]
    second = embedded(root, 1, ids, changed)
    grown = index_shard(root, day(1), second, kept(first, shard), PARAMETERS, BUILT)
    assert grown.grown and grown.rebuilds == 0 and grown.files[0] == shard.files[0]
    small = load_changed(root, grown.files, 32)
    np.testing.assert_array_equal(small.pin_ids(), np.union1d(lost, ids[others]))
    assert_all_found(root, grown, ids, changed)

    # A file of it is damaged: made again where it was, with the bytes that it had.
    path = tmp_path / shard.files[1].path
    before = path.read_bytes()
    path.write_bytes(b"")
    mended = index_shard(root, day(2), first, kept(first, shard), PARAMETERS, BUILT)
    assert mended.damaged and mended.files == shard.files and path.read_bytes() == before
    assert dataclasses.replace(mended, damaged=False) == shard
