"""A release pushed into Qdrant or Milvus by what Beam itself ships (`apache_beam.ml.rag.ingestion`).

Each release gets a collection of its own, `NAME_2026_11_05`; the alias NAME moves to it once it is full, so that
whoever searches sees one release or the other. Older collections stay until somebody drops them.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
from apache_beam.ml.rag.ingestion.base import VectorDatabaseWriteConfig, VectorDatabaseWriteTransform
from apache_beam.ml.rag.types import Content, EmbeddableItem, Embedding

from pipelines.exporting.request import Database
from stores.errors import StoreError, UsageError
from stores.exports import Export
from stores.extras import load
from stores.hnsw import IndexParameters
from stores.index_exports import parameters_of


class Client(Protocol):
    """What is asked of a database beside Beam's writing."""

    def make(self, collection: str, export: Export, parameters: IndexParameters) -> None: ...

    def config(self, collection: str, column: str) -> VectorDatabaseWriteConfig: ...

    def count(self, collection: str) -> int: ...

    def move_alias(self, alias: str, collection: str) -> None: ...


def push(exports: list[Export], database: Database) -> dict[str, Any]:
    """Fills the collection of a release and moves the alias to it; may be run again.

    Raises:
        UsageError: the client's extra is missing.
        StoreError: the database cannot be reached, or holds another number of vectors afterwards.
    """
    (export,) = exports
    client = _CLIENTS[database.kind](database)
    collection = re.sub(r"\W", "_", f"{database.collection}_{export.manifest.release}")
    try:
        client.make(collection, export, parameters_of(export))
        # Of this process, whatever the default: a local database has one writer.
        with beam.Pipeline(runner="DirectRunner", options=_one_worker()) as pipeline:
            (
                pipeline
                | "Parts" >> beam.Create(export.part_numbers())
                | "ReadPart" >> beam.FlatMap(read_items, export=export, unsigned=database.kind == "qdrant")
                | "Write" >> VectorDatabaseWriteTransform(client.config(collection, export.kind.column))
            )
        found = client.count(collection)
    except Exception as error:  # of three libraries, which share no class
        if isinstance(error, UsageError | StoreError):
            raise
        raise StoreError(
            f"--{database.kind} {database.where}: {str(error).strip().splitlines()[0]}; the alias "
            f"{database.collection} has not moved, run the same command again"
        ) from error
    if found != export.rows:
        raise StoreError(
            f"--{database.kind} {database.where}: {collection} holds {found:,} vectors, the release has "
            f"{export.rows:,}; the alias {database.collection} has not moved, run the same command again"
        )
    client.move_alias(database.collection, collection)
    facts = {
        "release": export.manifest.release,
        "dim": export.dim,
        export.kind.name: {"rows": export.rows, "ids": "string" if export.string_ids else "int64"},
    }
    return {**facts, "collection": collection, "where": f"{database.where}, {database.collection}"}


def _one_worker() -> beam.options.pipeline_options.PipelineOptions:
    return beam.options.pipeline_options.PipelineOptions(["--direct_num_workers=1", "--direct_running_mode=in_memory"])


def read_items(number: int, export: Export, unsigned: bool) -> Iterator[EmbeddableItem]:
    """A part as what Beam's writers take: an object a vector, its own id beside it.

    Args:
        unsigned: Whether the database knows no negative id: of one, the 64 bits are taken.
    """
    part = export.read_part(number)
    keys = part.keys.astype(np.uint64) if unsigned else part.keys
    for key, own, vector in zip(keys.tolist(), part.ids.to_pylist(), part.vectors.tolist(), strict=True):
        item = EmbeddableItem(content=Content(), id=str(key), metadata={export.kind.column: own})
        item.embedding = Embedding(dense_embedding=vector)
        yield item


def _key_of(database: Database) -> str | None:
    if database.key is None:
        return None
    name = database.key.removeprefix("env:")
    if name not in os.environ:
        raise UsageError(f"--api-key {database.key}: the environment has no {name}")
    return os.environ[name]


@dataclasses.dataclass(frozen=True)
class QdrantDatabase:
    """Qdrant: a point a vector, its id the one inside, its own id in the payload; scored by inner product."""

    database: Database

    def _client(self) -> Any:
        module = load("qdrant_client", "qdrant", "--qdrant")
        where = self.database.where
        if "://" in where:
            return module.QdrantClient(url=where, api_key=_key_of(self.database))
        return module.QdrantClient(path=where)

    def make(self, collection: str, export: Export, parameters: IndexParameters) -> None:
        """Makes the collection empty."""
        models = load("qdrant_client.models", "qdrant", "--qdrant")
        client = self._client()
        client.delete_collection(collection)
        client.create_collection(
            collection,
            vectors_config={"dense": models.VectorParams(size=export.dim, distance=models.Distance.DOT)},
            hnsw_config=models.HnswConfigDiff(m=parameters.m, ef_construct=parameters.ef_construction),
        )
        client.close()  # a local one is open once

    def config(self, collection: str, column: str) -> VectorDatabaseWriteConfig:
        from apache_beam.ml.rag.ingestion.qdrant import QdrantConnectionParameters, QdrantWriteConfig

        where = self.database.where
        connection = (
            QdrantConnectionParameters.for_url(where, api_key=_key_of(self.database))
            if "://" in where
            else QdrantConnectionParameters.local(where)
        )
        return QdrantWriteConfig(connection, collection)

    def count(self, collection: str) -> int:
        client = self._client()
        found = client.count(collection, exact=True).count
        client.close()
        return found

    def move_alias(self, alias: str, collection: str) -> None:
        models = load("qdrant_client.models", "qdrant", "--qdrant")
        client = self._client()
        steps = [
            models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=alias))
        ]
        if any(found.alias_name == alias for found in client.get_aliases().aliases):
            steps.insert(0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        client.update_collection_aliases(steps)  # one request: nobody finds no alias
        client.close()


@dataclasses.dataclass(frozen=True)
class MilvusDatabase:
    """Milvus: `id` is the one inside, the own id a field beside it, `embedding` scored by inner product."""

    database: Database

    def _client(self) -> Any:
        module = load("pymilvus", "milvus", "--milvus")
        if "://" not in self.database.where:
            # Milvus Lite serves from this process, and logs a trace for each call that it does not have; none matters.
            logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
        return module.MilvusClient(uri=self.database.where, token=_key_of(self.database) or "")

    def make(self, collection: str, export: Export, parameters: IndexParameters) -> None:
        """Makes the collection empty."""
        kinds = load("pymilvus", "milvus", "--milvus").DataType
        client = self._client()
        if client.has_collection(collection):
            client.drop_collection(collection)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=export.dim)
        own = {"datatype": kinds.VARCHAR, "max_length": 65_535} if export.string_ids else {"datatype": kinds.INT64}
        schema.add_field(export.kind.column, **own)
        index = client.prepare_index_params()
        build = {"M": parameters.m, "efConstruction": parameters.ef_construction}
        index.add_index("embedding", index_type="HNSW", metric_type="IP", params=build)
        client.create_collection(collection, schema=schema, index_params=index)
        client.close()

    def config(self, collection: str, column: str) -> VectorDatabaseWriteConfig:
        from apache_beam.ml.rag.ingestion.milvus_search import MilvusVectorWriterConfig, MilvusWriteConfig
        from apache_beam.ml.rag.utils import MilvusConnectionParameters

        connection = MilvusConnectionParameters(uri=self.database.where, token=_key_of(self.database) or "")
        return MilvusVectorWriterConfig(connection, MilvusWriteConfig(collection), _milvus_columns(column))

    def count(self, collection: str) -> int:
        client = self._client()
        client.flush(collection)
        client.load_collection(collection)
        found = client.query(collection, filter="", output_fields=["count(*)"])[0]["count(*)"]
        client.close()
        return int(found)

    def move_alias(self, alias: str, collection: str) -> None:
        client = self._client()
        known = [name for held in client.list_collections() for name in client.list_aliases(held)["aliases"]]
        (client.alter_alias if alias in known else client.create_alias)(collection, alias)
        client.close()


def _milvus_columns(own: str) -> list[Any]:
    """How Beam's writer makes a record of an item."""
    from apache_beam.ml.rag.ingestion.postgres_common import ColumnSpec

    return [
        ColumnSpec("id", int, lambda item: int(item.id)),
        ColumnSpec("embedding", list, lambda item: item.embedding.dense_embedding),
        ColumnSpec(own, str, lambda item: item.metadata[own]),
    ]


_CLIENTS: dict[str, type[QdrantDatabase] | type[MilvusDatabase]] = {"qdrant": QdrantDatabase, "milvus": MilvusDatabase}
