"""The pin branch: vectors sorted by shard, embedded by the pin tower, indexed."""

import dataclasses
import datetime
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pinnerformer_model.checkpoint import LoadedModel
from pinnerformer_model.inference import encode_pins
from stores.errors import InputError
from stores.files import FileEntry, Root
from stores.ids import bucket_of
from stores.indexes import IndexParameters
from stores.names import Counter, Step
from stores.pin_shards import ShardBefore, are_sound, built_with, date_of, index_facts
from stores.pin_vectors import (
    VectorFile,
    VectorSet,
    map_vector_table,
    read_pin_names,
    read_table_names,
    read_vector_table,
    read_vectors,
    write_vector_table,
)
from stores.row_digests import digest_rows
from stores.schemas import pin_embeddings_schema, to_binary_column
from stores.string_ids import STRING
from stores.tables import part_stem, write_part
from transforms.dead_letters import dead_pins, write_dead
from transforms.embed_users import norm_range
from transforms.grow_index import index_shard
from transforms.id_names import merge_names, read_names
from transforms.markers import CompletionMarker, write_marker
from transforms.model import ModelReference
from transforms.named_rows import Names
from transforms.pin_reuse import KnownPins, embed_changed, nothing_known, read_known
from transforms.report_outputs import REPORTS, tagged
from transforms.run import RunFolder
from transforms.step_reports import task_report


@dataclasses.dataclass(frozen=True)
class VectorGroup:
    """The unit that a worker cuts up: one row group of a vector file."""

    file: VectorFile
    index: int

    @property
    def task(self) -> str:
        """Its name as a task of a run."""
        return f"{os.path.basename(self.file.path)}+{self.index:05d}"


def vector_groups(vectors: VectorSet) -> list[VectorGroup]:
    """Every row group of a vector set, in a fixed order."""
    return [VectorGroup(file, index) for file in vectors.files for index in range(file.row_groups)]


def refuse_repeated(ids: np.ndarray, where: str, names: pa.Array | None = None) -> None:
    """Refuses a pin that has two vectors.

    Args:
        ids: Sorted int64 ids.
        where: What they are the ids of, in words.
        names: Of the pins, where they have any.

    Raises:
        InputError: names the first, and says how many rows there are too many.
    """
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if len(repeated):
        one = repeated[0] if names is None else names[int(np.searchsorted(ids, repeated[0]))].as_py()
        raise InputError(
            f"--pins: pin_id {one} occurs more than once ({len(repeated)} rows too many {where}); write every pin once"
        )


class CutVectors(beam.DoFn):
    """VectorGroup -> (shard, piece): the group's rows of one shard, staged as a file of their own.

    Only names are shuffled: vectors are the largest thing the job moves.
    """

    def __init__(self, run: RunFolder, shards: int, finished: Collection[int]):
        self._run = run
        self._shards = shards
        self._finished = frozenset(finished)

    def setup(self):
        self._run.check_root()

    def process(self, group: VectorGroup):
        started = time.perf_counter()
        run, shards = self._run, self._shards
        ids, vectors = read_vectors(group.file, group.index)
        names = read_pin_names(group.file, group.index) if group.file.pin_ids == STRING else None
        usable = vectors.any(axis=1)  # an all-zero vector has no direction: its pin counts as one without a vector
        shard = bucket_of(ids, shards)
        pieces = []
        # A piece of every shard, an empty one too: which shards a group has rows of is then no question when a run goes
        # on.
        for s in range(shards):
            if s in self._finished:
                continue
            mine = np.flatnonzero(usable & (shard == s))
            folder = f"{run.staging}/vector_pieces"
            named = None if names is None else names.take(pa.array(mine))
            pieces.append(write_vector_table(run.root, folder, part_stem(s), s, ids[mine], vectors[mine], named))
            yield s, pieces[-1]
        done = task_report(started, {Counter.VECTORS_READ: len(ids), Counter.VECTORS_ZERO: int((~usable).sum())})
        write_marker(
            run.root, run.staging, Step.CUT_VECTORS, group.task, CompletionMarker({Step.SHARD_PINS: done}, pieces)
        )
        yield tagged(Step.SHARD_PINS, done)


class SortShard(beam.DoFn):
    """(shard, its pieces) -> the shard's vector table, sorted by pin_id."""

    def __init__(self, run: RunFolder, vectors: VectorSet, names: Mapping[int, list[FileEntry]]):
        self._run = run
        self._dtype, self._width = vectors.dtype, vectors.width
        self._named = vectors.pin_ids == STRING
        self._names = names

    def setup(self):
        self._run.check_root()

    def process(self, element: tuple[int, Iterable[FileEntry]]):
        started = time.perf_counter()
        run, (shard, entries) = self._run, element
        # By name, not by arrival: equal inputs give equal bytes.
        entries = sorted(entries, key=lambda e: e.path)
        pieces = [read_vector_table(run.root, e, self._dtype) for e in entries]
        ids = np.concatenate([np.empty(0, np.int64), *(i for i, _ in pieces)])
        vectors = np.concatenate([np.empty((0, self._width), self._dtype), *(v for _, v in pieces)])
        names, lost = None, None
        if self._named:
            ids, vectors, names, lost = drop_collided(run.root, ids, vectors, entries, self._names.get(shard, []))
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        # Only here: two rows of one pin may lie in files that no other worker has seen.
        named = None if names is None else names.take(pa.array(order))
        refuse_repeated(ids, "in this shard", named)
        # Sorted and uncompressed: workers map it and find a pin by binary search, at no memory of their own.
        folder = f"{run.staging}/vectors"
        entry = write_vector_table(run.root, folder, part_stem(shard), shard, ids, vectors[order], named)
        run.note_progress(Step.SHARD_PINS, len(ids))
        counters: dict[str, int] = {Counter.PINS: len(ids)}
        files = {}
        if lost is not None:
            counters[Counter.VECTORS_COLLIDED] = lost.num_rows
            files["dead_letters"] = [write_dead(run, f"vectors-{shard:05d}", lost)]
        done = task_report(started, counters, files=files)
        write_marker(
            run.root, run.staging, Step.SHARD_PINS, part_stem(shard), CompletionMarker({Step.SHARD_PINS: done}, [entry])
        )
        yield tagged(Step.SHARD_PINS, done)
        yield entry


def drop_collided(
    root: Root, ids: np.ndarray, vectors: np.ndarray, pieces: Sequence[FileEntry], known: Sequence[FileEntry]
) -> tuple[np.ndarray, np.ndarray, pa.Array, pa.Table | None]:
    """A shard's vectors without those whose string has the id of another: of the names known, or of a piece before.

    Args:
        ids: int64 [N], of the pieces, one after the other.
        vectors: [N, 256], likewise.
        known: The files of the shard's names in the release before.

    Returns:
        What is left of ids and vectors, and their strings; the others as dead letters, None where there are none.
    """
    parts = []
    for number, piece in enumerate(pieces):
        named = read_table_names(root, piece)
        if named is not None:
            parts.append((f"{number:08d}", Names(*named)))
    strings = pa.concat_arrays([pa.array([], pa.string()), *(names.strings for _, names in parts)])
    collided = merge_names(read_names(root, known, "pin_id"), parts).collided
    if not collided:
        return ids, vectors, strings, None
    lost = pa.array([one.name for one in collided], pa.string())
    bad = np.isin(ids, [one.id for one in collided]) & pc.is_in(strings, lost).to_numpy(zero_copy_only=False)
    dead = dead_pins(ids[bad], strings.filter(pa.array(bad)), "--pins")
    return ids[~bad], vectors[~bad], strings.filter(pa.array(~bad)), dead


@dataclasses.dataclass
class ShardVectors(beam.PTransform):
    """Sorts the PinSage vectors into one table per shard, which workers map into memory.

    Input: VectorGroup. Output: `main`, one FileEntry per shard, and `reports`.

    Attributes:
        shards: How many there are.
        finished: The tables that an earlier attempt of the run wrote.
        pieces: What it cut for the others.
        names: Shard -> files of the pins' names in the release before; none where there is none.
    """

    run: RunFolder
    shards: int
    vectors: VectorSet
    finished: Sequence[FileEntry] = ()
    pieces: Sequence[FileEntry] = ()
    names: Mapping[int, list[FileEntry]] = dataclasses.field(default_factory=dict)

    def expand(self, groups: beam.PCollection[VectorGroup]):
        pipeline = groups.pipeline
        # Every vector is written and read twice, 2 bytes a number or 4. Shuffled in place of files, the local runner
        # would hold all of them in memory, four to eight times over.
        cut_vectors = CutVectors(self.run, self.shards, {entry.part for entry in self.finished})
        cut = groups | "CutVectors" >> beam.ParDo(cut_vectors).with_outputs(REPORTS, main="main")
        found = pipeline | "FinishedPieces" >> beam.Create([(piece.part, piece) for piece in self.pieces])
        # One shard's rows in memory at a time; shards bound what a worker holds.
        ordered = (
            (cut.main, found)
            | "AllPieces" >> beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "SortShard"
            >> beam.ParDo(SortShard(self.run, self.vectors, self.names)).with_outputs(REPORTS, main="main")
        )
        tables = pipeline | "FinishedTables" >> beam.Create(list(self.finished))
        return {
            "main": (ordered.main, tables) | "AllTables" >> beam.Flatten(),
            REPORTS: (cut[REPORTS], ordered[REPORTS]) | "ShardReports" >> beam.Flatten(),
        }


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
