"""The pin branch: vectors sorted by shard, embedded by the pin tower, indexed."""

import dataclasses
import time
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pinnerformer_model.inference import encode_pins
from stores.errors import InputError
from stores.files import FileEntry
from stores.ids import bucket_of
from stores.indexes import IndexParameters, build_findable_index, write_shard
from stores.pin_vectors import WIDTH, VectorFile, VectorSet, map_vector_table, read_vectors, write_vector_table
from stores.schemas import from_binary_column, pin_embeddings_schema, to_binary_column
from stores.tables import part_stem, read_files, write_part
from transforms.embed_users import norm_range
from transforms.model import ModelReference
from transforms.run import REPORTS, Run, report

SHARD_STAGE, EMBED_STAGE, INDEX_STAGE = "shard_pins", "embed_pins", "build_indexes"


class CutVectors(beam.DoFn):
    """(vector file, row group) -> (shard, piece): the file's rows of one shard, staged as a file of their own.

    Only names are shuffled: vectors are the largest thing the job moves.
    """

    def __init__(self, run: Run):
        self._run = run

    def process(self, element: tuple[VectorFile, int]):
        started = time.perf_counter()
        run, shards = self._run, self._run.layout.pin_shards
        ids, vectors = read_vectors(*element)
        usable = vectors.any(axis=1)  # an all-zero vector has no direction: its pin counts as one without a vector
        shard = bucket_of(ids, shards)
        for s in range(shards):
            mine = np.flatnonzero(usable & (shard == s))
            folder = f"{run.staging}/vector_pieces"
            yield s, write_vector_table(run.root, folder, part_stem(s), s, ids[mine], vectors[mine])
        yield report(SHARD_STAGE, started, {"vectors_read": len(ids), "vectors_zero": int((~usable).sum())})


class SortShard(beam.DoFn):
    """(shard, its pieces) -> the shard's vector table, sorted by pin_id."""

    def __init__(self, run: Run, vectors: VectorSet):
        self._run = run
        self._dtype = vectors.dtype

    def process(self, element: tuple[int, Iterable[FileEntry]]):
        started = time.perf_counter()
        shard, entries = element
        # By name, not by arrival: equal inputs give equal bytes.
        pieces = [map_vector_table(self._run.root, e, self._dtype) for e in sorted(entries, key=lambda e: e.path)]
        ids = np.concatenate([np.empty(0, np.int64), *(i for i, _ in pieces)])
        vectors = np.concatenate([np.empty((0, WIDTH), self._dtype), *(v for _, v in pieces)])
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if len(repeated):
            raise InputError(
                f"--pins: pin_id {repeated[0]} occurs more than once ({len(repeated)} rows too many in this shard); "
                "write every pin once"
            )
        folder = f"{self._run.staging}/vectors"
        entry = write_vector_table(self._run.root, folder, part_stem(shard), shard, ids, vectors[order])
        self._run.note_progress(SHARD_STAGE, len(ids))
        yield report(SHARD_STAGE, started, {"pins": len(ids)})
        yield entry


@dataclasses.dataclass
class ShardVectors(beam.PTransform):
    """Sorts the PinSage vectors into one table a shard, which workers map into memory.

    Input: (vector file, row group). Output: `main`, one FileEntry a shard, and `reports`.
    """

    run: Run
    vectors: VectorSet

    def expand(self, groups: beam.PCollection[tuple[VectorFile, int]]):
        cut = groups | "CutVectors" >> beam.ParDo(CutVectors(self.run)).with_outputs(REPORTS, main="main")
        ordered = (
            cut.main
            | "GroupByShard" >> beam.GroupByKey()
            | "SortShard" >> beam.ParDo(SortShard(self.run, self.vectors)).with_outputs(REPORTS, main="main")
        )
        return {"main": ordered.main, REPORTS: (cut[REPORTS], ordered[REPORTS]) | "ShardReports" >> beam.Flatten()}


class EmbedShard(beam.DoFn):
    """A shard's vector table -> its file of pin_embeddings."""

    def __init__(self, run: Run, model: ModelReference, dtype: str):
        self._run = run
        self._reference = model
        self._dtype = dtype

    def setup(self):
        self._model = self._reference.load()

    def process(self, entry: FileEntry):
        started = time.perf_counter()
        run, config = self._run, self._model.config
        ids, vectors = map_vector_table(run.root, entry, self._dtype)
        embeddings = encode_pins(self._model.pin_tower, vectors)
        rows = pa.table([ids, to_binary_column(embeddings)], schema=pin_embeddings_schema(config.embedding_dim))
        written = write_part(run.root, "pin_embeddings", run.date, entry.part, rows)
        lowest, highest, not_finite = norm_range(embeddings)
        run.note_progress(EMBED_STAGE, len(ids))
        counters = {"pins_embedded": len(ids), "pins_not_finite": not_finite}
        yield report(
            EMBED_STAGE, started, counters, files={"pin_embeddings": [written]}, lowest=lowest, highest=highest
        )
        yield written


class BuildIndex(beam.DoFn):
    """A shard's file of pin_embeddings -> its HNSW file."""

    def __init__(self, run: Run, parameters: IndexParameters):
        self._run = run
        self._parameters = parameters

    def process(self, entry: FileEntry):
        started = time.perf_counter()
        rows = read_files(self._run.root, [entry])
        ids, embeddings = rows["pin_id"].to_numpy(), from_binary_column(rows["embedding"])
        shard, built = build_findable_index(ids, embeddings, self._parameters)
        written = write_shard(self._run.root, self._run.date, entry.part, shard)
        self._run.note_progress(INDEX_STAGE, len(ids))
        counters = {
            "pins_indexed": len(shard),
            "twins": len(shard.twins.pin_id),
            "pins_unfindable": built.unfindable,
            "rebuilds": built.rebuilds,
        }
        # The width of search that finds every pin of every shard is the highest of theirs.
        yield report(INDEX_STAGE, started, counters, files={"indexes": written}, highest={"find_ef": built.find_ef})


@dataclasses.dataclass
class EmbedPins(beam.PTransform):
    """Embeds every pin and builds one index a shard, shards in parallel.

    Input: one vector table a shard. Output: reports, which name the files.
    """

    run: Run
    model: ModelReference
    dtype: str
    parameters: IndexParameters

    def expand(self, tables: beam.PCollection[FileEntry]):
        embedded = (
            tables
            | "SpreadShards" >> beam.Reshuffle()
            | "EmbedShard"
            >> beam.ParDo(EmbedShard(self.run, self.model, self.dtype)).with_outputs(REPORTS, main="main")
        )
        indexed = (
            embedded.main
            | "SpreadEmbedded" >> beam.Reshuffle()
            | "BuildIndex" >> beam.ParDo(BuildIndex(self.run, self.parameters)).with_outputs(REPORTS)
        )
        return (embedded[REPORTS], indexed[REPORTS]) | "PinReports" >> beam.Flatten()
