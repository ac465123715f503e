"""The pin branch behind its vector tables: pins embedded by the pin tower, and indexed."""

import dataclasses
import datetime
import time
from collections.abc import Collection, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pinnerformer_model.checkpoint import LoadedModel
from pinnerformer_model.inference import encode_pins
from stores.files import FileEntry
from stores.indexes import IndexParameters
from stores.names import Counter, Step
from stores.pin_shards import ShardBefore, are_sound, built_with, date_of, index_facts
from stores.pin_vectors import (
    map_vector_table,
)
from stores.row_digests import digest_rows
from stores.schemas import pin_embeddings_schema, to_binary_column
from stores.tables import part_stem, write_part
from transforms.embed_users import norm_range
from transforms.grow_index import index_shard
from transforms.markers import CompletionMarker, write_marker
from transforms.model import ModelReference
from transforms.pin_reuse import KnownPins, embed_changed, nothing_known, read_known
from transforms.report_outputs import REPORTS, tagged
from transforms.run import RunFolder
from transforms.step_reports import task_report


class EmbedShard(beam.DoFn):
    """A shard's vector table -> its file of pin_embeddings; that of the release before, where the vectors are its."""

    def __init__(
        self,
        run: RunFolder,
        date: datetime.date,
        model: ModelReference,
        dtype: str,
        before: Mapping[int, ShardBefore],
    ):
        self._run = run
        self._date = date
        self._reference = model
        self._dtype = dtype
        self._before = before
        self._model: LoadedModel | None = None

    def setup(self):
        self._run.check_root()

    def process(self, entry: FileEntry):
        started = time.perf_counter()
        run, before = self._run, self._before.get(entry.part)
        counters: dict[str, int] = dict.fromkeys((Counter.PINS_EMBEDDED, Counter.PINS_REUSED), 0)
        lowest: dict[str, float] = {}
        highest: dict[str, float] = {}
        same = before is not None and before.vectors == entry.checksum
        if before is not None and same and are_sound(run.root, [before.embeddings]):
            written = before.embeddings
            counters |= {Counter.PINS_REUSED: written.rows, Counter.SHARDS_REUSED: 1}
        else:
            # Of a shard whose file is damaged nothing is copied: every row is made again.
            known = read_known(run.root, before.embeddings) if before is not None and not same else None
            damaged = before is not None and known is None
            # What is made again in place of a damaged file goes to its folder: of the same content it has the same
            # name, and the release before is whole again.
            date = date_of(before.embeddings) if before is not None and damaged else self._date
            written, found, (lowest, highest) = self._embed(entry, known, date)
            counters |= found | {Counter.SHARDS_DAMAGED: int(damaged)}
        run.note_progress(Step.EMBED_PINS, entry.rows)
        facts = {str(entry.part): {"vectors": entry.checksum}}
        files = {"pin_embeddings": [written]}
        done = task_report(started, counters, files=files, lowest=lowest, highest=highest, facts=facts)
        write_marker(
            run.root, run.staging, Step.EMBED_PINS, part_stem(entry.part), CompletionMarker({Step.EMBED_PINS: done})
        )
        yield tagged(Step.EMBED_PINS, done)
        yield written

    def _embed(
        self, entry: FileEntry, known: KnownPins | None, date: datetime.date
    ) -> tuple[FileEntry, dict[str, int], tuple[dict[str, float], dict[str, float]]]:
        """Makes the embeddings that are not known; returns their file, counters, and the norms of what was made."""
        # Once, and not at all where every shard is as it was.
        self._model = model = self._model or self._reference.load()
        ids, vectors = map_vector_table(self._run.root, entry, self._dtype)
        digests = digest_rows(vectors)
        known = nothing_known(model.config.embedding_dim) if known is None else known
        embeddings, made = embed_changed(
            ids, digests, known, lambda rows: encode_pins(model.pin_tower, np.take(vectors, rows, axis=0))
        )
        rows = pa.table(
            [ids, to_binary_column(embeddings), digests], schema=pin_embeddings_schema(model.config.embedding_dim)
        )
        written = write_part(self._run.root, "pin_embeddings", date, entry.part, rows)
        lowest, highest, not_finite, constant = norm_range(embeddings[made])
        counters: dict[str, int] = {
            Counter.PINS_EMBEDDED: len(made),
            Counter.PINS_REUSED: len(ids) - len(made),
            Counter.PINS_NOT_FINITE: not_finite,
            Counter.PINS_CONSTANT: constant,
        }
        return written, counters, (lowest, highest)


class BuildIndex(beam.DoFn):
    """A shard's file of pin_embeddings -> its HNSW file; that of the release before, where the embeddings are its."""

    def __init__(
        self, run: RunFolder, date: datetime.date, parameters: IndexParameters, before: Mapping[int, ShardBefore]
    ):
        self._run = run
        self._date = date
        self._parameters = parameters
        self._before = before

    def setup(self):
        self._run.check_root()
        self._built = built_with(self._parameters)

    def process(self, entry: FileEntry):
        started = time.perf_counter()
        run, before = self._run, self._before.get(entry.part)
        shard = index_shard(run.root, self._date, entry, before, self._parameters, self._built)
        run.note_progress(Step.BUILD_INDEXES, entry.rows)
        counters: dict[str, int] = {
            **shard.counters(entry.rows),
            Counter.PINS_REUSED: shard.reused,
            Counter.SHARDS_REUSED: int(shard.whole),
            Counter.SHARDS_GROWN: int(shard.grown),
            Counter.SHARDS_DAMAGED: int(shard.damaged),
        }
        facts = {str(entry.part): index_facts(self._built, shard.graphs)}
        # The width of search that finds every pin of every shard is the highest of theirs.
        highest = {"find_ef": shard.find_ef}
        done = task_report(started, counters, files={"indexes": shard.files}, highest=highest, facts=facts)
        write_marker(
            run.root,
            run.staging,
            Step.BUILD_INDEXES,
            part_stem(entry.part),
            CompletionMarker({Step.BUILD_INDEXES: done}),
        )
        yield tagged(Step.BUILD_INDEXES, done)


@dataclasses.dataclass
class EmbedPins(beam.PTransform):
    """Embeds every pin and builds one index per shard, shards in parallel.

    Input: one vector table per shard. Output: reports, which name the files.

    Attributes:
        date: Of the release; files that are made lie in the folder of its name.
        before: The shards of the release before, as far as they may be kept.
        finished: Shards whose pins an earlier attempt of the run embedded.
        unindexed: Their files of pin_embeddings, as far as they have no index yet.
    """

    run: RunFolder
    date: datetime.date
    model: ModelReference
    dtype: str
    parameters: IndexParameters
    before: Mapping[int, ShardBefore] = dataclasses.field(default_factory=dict)
    finished: Collection[int] = ()
    unindexed: Sequence[FileEntry] = ()

    def expand(self, tables: beam.PCollection[FileEntry]):
        finished = frozenset(self.finished)
        embed = EmbedShard(self.run, self.date, self.model, self.dtype, self.before)
        # `Reshuffle` parts the steps: fused, a worker would embed every shard that it happened to sort.
        embedded = (
            tables
            | "ShardsToEmbed" >> beam.Filter(lambda entry: entry.part not in finished)
            | "SpreadShards" >> beam.Reshuffle()
            | "EmbedShard" >> beam.ParDo(embed).with_outputs(REPORTS, main="main")
        )
        found = tables.pipeline | "EmbeddedShards" >> beam.Create(list(self.unindexed))
        # An index is one thread, and the longest single piece of a night (docs/scale.md): shards are spread once more,
        # so that none waits behind another on the worker that embedded both.
        indexed = (
            (embedded.main, found)
            | "ShardsToIndex" >> beam.Flatten()
            | "SpreadEmbedded" >> beam.Reshuffle()
            | "BuildIndex"
            >> beam.ParDo(BuildIndex(self.run, self.date, self.parameters, self.before)).with_outputs(REPORTS)
        )
        return (embedded[REPORTS], indexed[REPORTS]) | "PinReports" >> beam.Flatten()
