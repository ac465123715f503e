"""The vectors of pins as one sorted table a shard, which workers map into memory; kept while the vectors stay the same.

Tables lie under `sorted/` in a root, in a folder named by what they are made of: the vector files as they lay there,
and the number of shards. A task that is done there counts for every run with the same vectors, of the same night or a
later one. A release does not name them: they can be made again.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.errors import InputError
from stores.files import FileEntry, Root
from stores.ids import bucket_of
from stores.names import Counter, Step
from stores.pin_shards import are_sound
from stores.pin_vectors import (
    VectorFile,
    VectorSet,
    read_pin_names,
    read_table_names,
    read_vector_table,
    read_vectors,
    write_vector_table,
)
from stores.string_ids import STRING
from stores.tables import SORTED, part_stem
from transforms.dead_letters import dead_pins, write_dead
from transforms.id_names import merge_names, read_names
from transforms.markers import TASKS_VERSION, CompletionMarker, write_marker
from transforms.named_rows import Names
from transforms.pin_names import vector_names
from transforms.report_outputs import REPORTS, tagged
from transforms.run import RunFolder
from transforms.step_reports import StepReport, task_report


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
        piece = read_piece(group)
        shard = bucket_of(piece.ids, shards)
        written = []
        # A piece of every shard, an empty one too: which shards a group has rows of is then no question when a run goes
        # on.
        for s in range(shards):
            if s in self._finished:
                continue
            mine = piece.take(np.flatnonzero(shard == s))
            folder = f"{run.staging}/vector_pieces"
            written.append(write_vector_table(run.root, folder, part_stem(s), s, mine.ids, mine.vectors, mine.strings))
            yield s, written[-1]
        done = task_report(started, {})  # rows are counted where they are sorted
        write_marker(
            run.root, run.staging, Step.CUT_VECTORS, group.task, CompletionMarker({Step.SHARD_PINS: done}, written)
        )
        yield tagged(Step.SHARD_PINS, done)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some vectors of the set: pin_id int64 [N], vector [N, width], and the strings that the ids stand for [N]."""

    ids: np.ndarray
    vectors: np.ndarray
    strings: pa.Array | None

    def take(self, rows: np.ndarray) -> "Piece":
        """The rows at positions int64 [K]."""
        strings = None if self.strings is None else self.strings.take(pa.array(rows))
        return Piece(self.ids[rows], self.vectors[rows], strings)

    @property
    def names(self) -> Names:
        """Of a piece that has any."""
        assert self.strings is not None
        return Names(self.ids, self.strings)


def read_piece(group: VectorGroup) -> Piece:
    """All rows of a row group."""
    ids, vectors = read_vectors(group.file, group.index)
    return Piece(ids, vectors, read_pin_names(group.file, group.index) if group.file.pin_ids == STRING else None)


def concatenate(pieces: Sequence[Piece], vectors: VectorSet) -> Piece:
    """The rows of pieces of a set, one after the other."""
    strings = None
    if vectors.pin_ids == STRING:
        strings = pa.concat_arrays([pa.array([], pa.string()), *(piece.names.strings for piece in pieces)])
    return Piece(
        np.concatenate([np.empty(0, np.int64), *(piece.ids for piece in pieces)]),
        np.concatenate([np.empty((0, vectors.width), vectors.dtype), *(piece.vectors for piece in pieces)]),
        strings,
    )


class _WritesTables(beam.DoFn):
    """Sorts the vectors of a shard and writes its table.

    Args:
        names: Shard -> files of the pins' names in the release before; none where there is none.
    """

    def __init__(self, run: RunFolder, vectors: VectorSet, names: Mapping[int, list[FileEntry]]):
        self._run = run
        self._vectors = vectors
        self._names = names

    def setup(self):
        self._run.check_root()

    @property
    def _has_names(self) -> bool:
        return self._vectors.pin_ids == STRING

    def _write(
        self, started: float, shard: int, pieces: Iterable[Piece], counters: Mapping[str, int] | None = None
    ) -> Iterator[beam.pvalue.TaggedOutput | FileEntry]:
        """Yields what a task yields: its report, and the table.

        Args:
            started: When the task began.
            pieces: The shard's, in the order of their names: equal inputs give equal bytes.
            counters: Of the report, beside those of the rows.
        """
        run, usable, read = self._run, list[Piece](), 0
        for piece in pieces:
            read += len(piece.ids)
            # An all-zero vector has no direction: its pin counts as one without a vector.
            has_direction = piece.vectors.any(axis=1)
            usable.append(piece if has_direction.all() else piece.take(np.flatnonzero(has_direction)))
        found = concatenate(usable, self._vectors)
        counted: dict[str, int] = {Counter.VECTORS_READ: read, Counter.VECTORS_ZERO: read - len(found.ids)}
        lost = None
        if self._has_names:
            found, lost = drop_collided(run.root, usable, found, self._names.get(shard, []))
        order = np.argsort(found.ids, kind="stable")
        found = found.take(order)
        # Only here: two rows of one pin may lie in files that no other worker has seen.
        refuse_repeated(found.ids, "in this shard", found.strings)
        # Sorted and uncompressed: workers map it and find a pin by binary search, at no memory of their own.
        folder = f"{run.vectors_home}/vectors"
        stem = part_stem(shard)
        entry = write_vector_table(run.root, folder, stem, shard, found.ids, found.vectors, found.strings)
        run.note_progress(Step.SHARD_PINS, len(found.ids))
        counted[Counter.PINS] = len(found.ids)
        files = {}
        if lost is not None:
            counted[Counter.VECTORS_COLLIDED] = lost.num_rows
            files["dead_letters"] = [write_dead(run, f"vectors-{shard:05d}", lost)]
        done = task_report(started, {**counted, **(counters or {})}, files=files)
        marker = CompletionMarker({Step.SHARD_PINS: done}, [entry], run.name)
        write_marker(run.root, run.vectors_home, Step.SHARD_PINS, stem, marker)
        yield tagged(Step.SHARD_PINS, done)
        yield entry


class SortShard(_WritesTables):
    """(shard, its pieces) -> the shard's vector table, sorted by pin_id."""

    def process(self, element: tuple[int, Iterable[FileEntry]]):
        started, (shard, entries) = time.perf_counter(), element
        yield from self._write(started, shard, map(self._read, sorted(entries, key=lambda e: e.path)))

    def _read(self, entry: FileEntry) -> Piece:
        ids, vectors = read_vector_table(self._run.root, entry, self._vectors.dtype)
        names = read_table_names(self._run.root, entry) if self._has_names else None
        return Piece(ids, vectors, names[1] if names is not None else None)


class KeepTable(_WritesTables):
    """(vector table that is there, report of its task) -> the table, if it still stands; else it is made again.

    Nobody looks at a table later, and the vectors of users are made of it: a byte that the disk lost since would be
    served.
    """

    def __init__(self, run: RunFolder, shards: int, vectors: VectorSet, names: Mapping[int, list[FileEntry]]):
        super().__init__(run, vectors, names)
        self._shards = shards

    def process(self, element: tuple[FileEntry, StepReport]):
        started, (entry, report) = time.perf_counter(), element
        if not are_sound(self._run.root, [entry]):
            yield from self._write(started, entry.part, self._read(entry.part), {Counter.SHARDS_DAMAGED: 1})
        elif self._has_names and self._is_outdated(entry):
            yield from self._write(started, entry.part, self._read(entry.part))
        else:
            looked = task_report(started, {})
            looked.add(report)
            yield tagged(Step.SHARD_PINS, looked)
            yield entry

    def _is_outdated(self, entry: FileEntry) -> bool:
        """Whether one of its strings has the hash of one that came since."""
        known = read_names(self._run.root, self._names.get(entry.part, []), "pin_id")
        return bool(merge_names(known, vector_names(self._run.root, [entry])).collided)

    def _read(self, shard: int) -> Iterator[Piece]:
        """A shard's rows of every row group."""
        for group in vector_groups(self._vectors):
            piece = read_piece(group)
            yield piece.take(np.flatnonzero(bucket_of(piece.ids, self._shards) == shard))


def drop_collided(
    root: Root, pieces: Sequence[Piece], found: Piece, known: Sequence[FileEntry]
) -> tuple[Piece, pa.Table | None]:
    """A shard's vectors without those whose string has the id of another: of the names known, or of a piece before.

    Args:
        found: The pieces, one after the other.
        known: The files of the shard's names in the release before.

    Returns:
        What is left; the others as dead letters, None where there are none.
    """
    parts = [(f"{number:08d}", piece.names) for number, piece in enumerate(pieces)]
    collided = merge_names(read_names(root, known, "pin_id"), parts).collided
    if not collided:
        return found, None
    lost = pa.array([one.name for one in collided], pa.string())
    strings = found.names.strings
    bad = np.isin(found.ids, [one.id for one in collided]) & pc.is_in(strings, lost).to_numpy(zero_copy_only=False)
    dead = dead_pins(found.ids[bad], strings.filter(pa.array(bad)), "--pins")
    return found.take(np.flatnonzero(~bad)), dead


@dataclasses.dataclass
class ShardVectors(beam.PTransform):
    """Sorts the PinSage vectors into one table per shard, which workers map into memory.

    Output: `main`, one FileEntry per shard, and `reports`.

    Attributes:
        shards: How many there are.
        groups: What is to be cut.
        finished: The tables that are there, with the reports of their tasks.
        pieces: What an earlier attempt of the run cut for the others.
        names: Shard -> files of the pins' names in the release before; none where there is none.
    """

    run: RunFolder
    shards: int
    vectors: VectorSet
    groups: Sequence[VectorGroup]
    finished: Sequence[tuple[FileEntry, StepReport]] = ()
    pieces: Sequence[FileEntry] = ()
    names: Mapping[int, list[FileEntry]] = dataclasses.field(default_factory=dict)

    def expand(self, pipeline: beam.Pipeline):
        # Every vector is written and read twice, 2 bytes a number or 4. Shuffled in place of files, the local runner
        # would hold all of them in memory, four to eight times over.
        cut_vectors = CutVectors(self.run, self.shards, {entry.part for entry, _ in self.finished})
        groups = pipeline | "ListVectors" >> beam.Create(list(self.groups))
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
        kept = (
            pipeline
            | "FinishedTables" >> beam.Create(list(self.finished))
            | "SpreadTables" >> beam.Reshuffle()
            | "KeepTable"
            >> beam.ParDo(KeepTable(self.run, self.shards, self.vectors, self.names)).with_outputs(REPORTS, main="main")
        )
        return {
            "main": (ordered.main, kept.main) | "AllTables" >> beam.Flatten(),
            REPORTS: (cut[REPORTS], ordered[REPORTS], kept[REPORTS]) | "ShardReports" >> beam.Flatten(),
        }


def vectors_folder(vectors: VectorSet, shards: int) -> str:
    """Where the tables of a set of vectors lie, relative to the root, whichever run sorts them.

    Returns:
        "" where nothing says whether a file was written again: then each run sorts them for itself.
    """
    if not all(file.stamp for file in vectors.files):
        return ""
    files = [[os.path.basename(f.path), f.rows, f.version, f.stamp, repr(f.columns)] for f in vectors.files]
    facts = [TASKS_VERSION, shards, vectors.version, vectors.dtype, vectors.width, vectors.pin_ids, files]
    return f"{SORTED}/{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def remove_other_tables(run: RunFolder) -> None:
    """Removes the tables of other vectors than a run's, once its release is committed.

    Not before: a run that was handed to an engine holds no lease, and may be mapping them.
    """
    if run.vectors_folder:
        for name in run.root.list(SORTED):
            if f"{SORTED}/{name}" != run.vectors_folder:
                run.root.remove(f"{SORTED}/{name}")
