"""The index of a release as files of other libraries: usearch, faiss."""

import dataclasses
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from stores.exports import Export
from stores.extras import load
from stores.hnsw import IndexParameters


def write_usearch(export: Export, path: str, parameters: IndexParameters) -> None:
    """Writes a usearch file: inner product, halves, keys are the ids inside.

    Raises:
        UsageError: usearch is not installed.
    """
    module = load("usearch.index", "usearch", "--format usearch")
    index = module.Index(
        ndim=export.dim,
        metric="ip",
        dtype="f16",
        connectivity=parameters.m,
        expansion_add=parameters.ef_construction,
    )
    for part in export.parts():
        if len(part.keys):
            # One thread: links depend on what is there already, and only so are equal inputs equal files.
            index.add(part.keys.astype("uint64"), part.vectors, threads=1)
    index.save(path)


def write_faiss(export: Export, path: str, parameters: IndexParameters) -> None:
    """Writes a faiss file: HNSW by inner product over whole floats, under the ids inside.

    Raises:
        UsageError: faiss is not installed.
    """
    faiss = load("faiss", "faiss", "--format faiss")
    faiss.omp_set_num_threads(1)
    graph = faiss.IndexHNSWFlat(export.dim, parameters.m, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = parameters.ef_construction
    index = faiss.IndexIDMap2(graph)
    for part in export.parts():
        if len(part.keys):
            index.add_with_ids(part.vectors, part.keys)
    faiss.write_index(index, path)


def write_keys(export: Export, path: str) -> None:
    """Writes which own id each key of an index is: `key`, and the ids as the logs have them."""
    schema = pa.schema([("key", pa.int64()), (export.kind.column, export.schema().field(0).type)])
    with pq.ParquetWriter(path, schema) as writer:
        for part in export.parts():
            writer.write_table(pa.table([pa.array(part.keys), part.ids], schema=schema))


WRITERS: dict[str, Callable[[Export, str, IndexParameters], None]] = {"usearch": write_usearch, "faiss": write_faiss}


def parameters_of(export: Export) -> IndexParameters:
    """With which the release's own index was built."""
    known = {field.name for field in dataclasses.fields(IndexParameters)}
    return IndexParameters(
        **{name: value for name, value in export.manifest.settings["index"].items() if name in known}
    )
