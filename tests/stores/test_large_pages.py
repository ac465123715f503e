"""Graphs on large pages: what is asked of the system."""

import mmap
import os
import subprocess
import sys

import pytest

from stores import large_pages
from stores.large_pages import on_large_pages

SWITCH = "/sys/kernel/mm/transparent_hugepage/enabled"


# In a process of its own: in one that has let go of much memory a graph comes to lie there. 1,152 numbers make a graph
# of 37 MB.
BUILD_AND_READ = """
import numpy as np
from stores.files import Root
from stores.hnsw import HnswGraph, IndexParameters

def wished():
    total = size = 0
    for line in open("/proc/self/smaps"):
        if line.startswith("Size:"):
            size = int(line.split()[1]) << 10
        elif line.startswith("VmFlags:") and "hg" in line.split():
            total += size
    return total

ids, vectors = np.arange(8000), np.random.default_rng(1).random((8000, 1152))
before = wished()
built = HnswGraph.build(ids, vectors, ids, IndexParameters(4, 4))
print(wished() - before)
entry = Root(".").write_named_by_content("indexes/a", "part-00000", ".hnsw", 0, len(ids), built.save)
read = HnswGraph.load(Root("."), entry, 1152)
print(wished() - before)
queries = vectors[:50].astype(np.float32)
np.testing.assert_array_equal(read.search(queries, 5, 20, 1)[0], built.search(queries, 5, 20, 1)[0])
"""


@pytest.mark.skipif(not os.path.exists(SWITCH), reason="this system has no large pages")
def test_a_graph_that_is_built_or_read_asks_for_large_pages(tmp_path):
    """The system notes the wish; how much of it it can fulfil is its own affair, and changes by the hour."""
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    run = [sys.executable, "-c", BUILD_AND_READ]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built, both = map(int, done.stdout.split())
    assert built > 30 << 20 and both > 64 << 20


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

    def new() -> mmap.mmap:
        """What is mapped is new always; what comes by `malloc` can be what this process has let go of before."""
        return mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    with on_large_pages():
        first = new()
    assert sum(end - start for start, end in asked) >= len(first)
    asked.clear()
    monkeypatch.setattr(large_pages, "_anonymous", list)
    with on_large_pages():
        second = new()
    assert asked == [] and len(second) == len(first)
