"""What a reader keeps open: once in memory, and worked out once."""

import dataclasses
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.serving.catalogue import Catalogue
from pipelines.serving.reader import Reader
from stores import retriever
from stores.files import Root
from stores.manifests import Manifest, read_manifest


@pytest.fixture
def items(made, tmp_path) -> str:
    path = str(tmp_path / "items.parquet")
    pq.write_table(pa.table({"pin_id": range(90), "part": [pin % 10 for pin in range(90)]}), path)
    return path


@pytest.fixture
def reader(made, items):
    found = Reader(made.root, made.kv, catalogue=items)
    yield found
    found.close()


def test_releases_of_the_same_pins_share_graphs_and_vectors(reader):
    served = reader.release()
    before = reader.release(dataclasses.replace(reader.current(), release=served.manifest.previous))
    assert before.name != served.name
    indexes, pins = (served.manifest.tables[name] for name in ("indexes", "pin_embeddings"))
    assert before.manifest.tables["indexes"] == indexes and before.manifest.tables["pin_embeddings"] == pins
    assert [shard.graph for shard in before.opened.shards] == [shard.graph for shard in served.opened.shards]
    assert before.vectors is served.vectors


def test_releases_that_are_searched_at_other_widths_share_no_graph(reader, monkeypatch):
    """One that is searched in a thread would have the width of the other."""
    served = reader.release()

    def with_other_width(root: Root, release: str) -> Manifest:
        manifest = read_manifest(root, release)
        index = {**manifest.settings["index"], "ef_search": served.opened.ef + 1}
        return dataclasses.replace(manifest, settings={**manifest.settings, "index": index})

    monkeypatch.setattr(retriever, "read_manifest", with_other_width)
    before = reader.release(dataclasses.replace(reader.current(), release=served.manifest.previous))
    assert before.opened.ef == served.opened.ef + 1
    assert not {shard.graph for shard in before.opened.shards} & {shard.graph for shard in served.opened.shards}


def test_what_a_filter_lets_through_is_worked_out_once_a_catalogue(reader, items, monkeypatch):
    asked = []
    matching = Catalogue.matching
    monkeypatch.setattr(Catalogue, "matching", lambda self, where: asked.append(where) or matching(self, where))
    user, there = reader._retriever.known_users(1).some, set(reader.release().vectors[0].tolist())
    for _ in range(3):
        (pins,) = reader.pins_of_users(user, 20, where="part=3")[2]
        assert set(pins.ids.tolist()) == there & set(range(3, 90, 10)) != set()
    assert asked == ["part=3"]
    pq.write_table(pa.table({"pin_id": [13, 15], "part": [3, 3]}), items + ".new")
    os.replace(items + ".new", items)
    reader.follow()
    (pins,) = reader.pins_of_users(user, 20, where="part=3")[2]
    assert set(pins.ids.tolist()) == {13, 15} and len(asked) == 2
