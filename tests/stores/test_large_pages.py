"""Graphs on large pages: that they lie there, and what is asked of the system."""

import os

import numpy as np
import pytest

from stores import large_pages
from stores.files import Root
from stores.hnsw import HnswGraph, IndexParameters
from stores.large_pages import on_large_pages
from tests.stores.test_indexes import unit_vectors

SWITCH = "/sys/kernel/mm/transparent_hugepage/enabled"


def large_bytes() -> int:
    """What of this process lies on large pages."""
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("AnonHugePages"))


@pytest.mark.skipif(
    not os.path.exists(SWITCH) or "[never]" in open(SWITCH).read(), reason="this system has no large pages to give"
)
def test_a_graph_that_is_built_or_read_lies_on_large_pages(tmp_path):
    # 1,152 numbers, 37 MB: from 32 on `malloc` never takes what it has lying about.
    ids, vectors = np.arange(8000), np.repeat(unit_vectors(8000), 36, axis=1) / 6
    before = large_bytes()
    built = HnswGraph.build(ids, vectors, ids, IndexParameters(4, 4))
    assert large_bytes() - before > 30 << 20
    root = Root(str(tmp_path))
    entry = root.write_named_by_content("indexes/a", "part-00000", ".hnsw", 0, len(ids), built.save)
    read = HnswGraph.load(root, entry, vectors.shape[1])
    assert large_bytes() - before > 64 << 20
    queries = vectors[:50].astype(np.float32)
    np.testing.assert_array_equal(read.search(queries, 5, 20, 1)[0], built.search(queries, 5, 20, 1)[0])


@pytest.mark.parametrize(
    ("span", "taken", "left"),
    [
        ((10, 50), [], [(10, 50)]),
        ((10, 50), [(10, 50)], []),
        ((10, 50), [(0, 5), (50, 60)], [(10, 50)]),
        ((10, 50), [(20, 30)], [(10, 20), (30, 50)]),
        ((10, 50), [(0, 20), (25, 30), (45, 90)], [(20, 25), (30, 45)]),
    ],
)
def test_memory_that_was_there_before_is_left_alone(span, taken, left):
    assert list(large_pages._left(span, taken)) == left


def test_where_the_system_tells_nothing_memory_stays_as_it_is(monkeypatch):
    asked = []
    monkeypatch.setattr(large_pages, "_advise", lambda *span: asked.append(span))
    with on_large_pages():
        kept = bytearray(64 << 20)
    assert sum(end - start for start, end in asked) >= len(kept)
    asked.clear()
    monkeypatch.setattr(large_pages, "_anonymous", list)
    with on_large_pages():
        kept = bytearray(64 << 20)
    assert asked == []
