"""What a reader keeps open: once in memory, and worked out once."""

import dataclasses
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.serving.catalogue import Catalogue
from pipelines.serving.reader import Reader


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
