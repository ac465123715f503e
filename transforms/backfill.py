"""Replays every bucket through all days of a range, its histories and its snapshot in one worker's hands.

Buckets do not depend on one another, on no day. What is done to a bucket on a day is what the daily job does to it, by
the same functions; what is saved is everything between two days: start-up, barriers, and reading the state again.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.inference import UserEncoder
from stores.files import FileEntry
from stores.ids import bucket_of
from stores.manifests import Manifest
from stores.names import Counter, Step
from stores.row_pieces import read_pieces
from stores.schemas import ENGAGEMENTS, user_embeddings_schema
from stores.tables import USER_NAMES, part_stem, read_files
from transforms.acts import VECTORS, write_acts, write_vectors
from transforms.backfill_rows import Staged, of_day
from transforms.embed_users import embed_slice, slice_reports
from transforms.histories import cut_slices, update_bucket
from transforms.id_names import Collided
from transforms.markers import CompletionMarker, read_markers, write_marker
from transforms.model import ModelReference
from transforms.report_outputs import REPORTS, tagged
from transforms.run import Run
from transforms.sequences import LookUp, join_slice
from transforms.snapshots import merge_bucket
from transforms.step_reports import StepReport, task_report
from transforms.user_names import BucketNames, CameIn, by_source, keep_names, take_in
from transforms.vector_tables import SharedVectorTable


@dataclasses.dataclass(frozen=True)
class BucketState:
    """A bucket as a day left it.

    Attributes:
        histories, embeddings: Its files; none before the first day.
        retry: Sorted ids of its users whose inference failed.
        names: The files of its users' names, where they are strings.
    """

    histories: tuple[FileEntry, ...] = ()
    embeddings: tuple[FileEntry, ...] = ()
    retry: tuple[int, ...] = ()
    names: tuple[FileEntry, ...] = ()

    def task(self, bucket: int) -> str:
        """The name of what the next day makes of a bucket in this state: the same name only from the same state."""
        # Checksums, not paths: the same content under another date's folder is the same state.
        facts: list[Any] = [[e.checksum for e in self.histories], [e.checksum for e in self.embeddings], self.retry]
        if self.names:
            facts.append([e.checksum for e in self.names])
        return f"{part_stem(bucket)}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


@dataclasses.dataclass(frozen=True)
class BucketStart:
    """Where the replay of a bucket starts: the number of its first day, and the state before that day."""

    day: int
    state: BucketState


def initial_states(release: Manifest | None, buckets: int) -> dict[int, BucketState]:
    """Every bucket as a release left it; empty ones without a release."""
    if release is None:
        return {bucket: BucketState() for bucket in range(buckets)}
    files, embeddings = release.parts("histories"), release.parts("user_embeddings")
    names = release.parts(USER_NAMES)
    retry = np.unique(np.array(release.retry_users, np.int64))
    owner = bucket_of(retry, buckets)
    return {
        bucket: BucketState(
            tuple(files.get(bucket, ())),
            tuple(embeddings.get(bucket, ())),
            tuple(retry[owner == bucket].tolist()),
            tuple(names.get(bucket, ())),
        )
        for bucket in range(buckets)
    }


def state_after(marker: CompletionMarker) -> BucketState:
    """The state that a finished (bucket, day) left."""
    return BucketState(
        tuple(marker.reports[Step.UPDATE_HISTORIES].files["histories"]),
        tuple(marker.reports[Step.MERGE_SNAPSHOT].files["user_embeddings"]),
        tuple(sorted(user for user, _ in _failures(marker))),
        tuple(marker.reports[Step.UPDATE_HISTORIES].files.get(USER_NAMES, ())),
    )


def _failures(marker: CompletionMarker) -> list[tuple[int, str]]:
    """The users that could not be embedded, and why."""
    return marker.reports.get(Step.EMBED_USERS, StepReport()).failures


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What earlier attempts replayed already, found when the pipeline is built.

    Attributes:
        finished: (day, marker) of every finished (bucket, day) that this attempt builds on.
        starts: Where the other buckets go on.
    """

    finished: list[tuple[int, CompletionMarker]]
    starts: dict[int, BucketStart]

    def reports(self) -> list[tuple[int, tuple[Step, StepReport]]]:
        """(day, (step, report)) of what is finished."""
        return [(day, (step, report)) for day, marker in self.finished for step, report in marker.reports.items()]


def find_replayed(runs: Sequence[Run], states: Mapping[int, BucketState]) -> Replayed:
    """Follows the markers of every bucket from its first state on, day by day, as far as they go.

    A day with a user that failed does not count, nor do the days after it: what made them fail may be mended.

    Args:
        runs: One per day, in order.
        states: Every bucket before the first day.
    """
    markers = [read_markers(run.root, run.staging, Step.REPLAY_BUCKETS) for run in runs]
    finished, starts = [], {}
    for bucket, state in states.items():
        # As far as the chain of states holds: what a later day made from another state does not count, though its
        # marker is there.
        day = 0
        while day < len(runs):
            marker = markers[day].get(state.task(bucket))
            if marker is None or _failures(marker):
                starts[bucket] = BucketStart(day, state)
                break
            finished.append((day, marker))
            state, day = state_after(marker), day + 1
    return Replayed(finished, starts)


@dataclasses.dataclass
class BucketTables:
    """A bucket's rows: `histories`, `snapshot` and the `names` of its users, as its files have them."""

    histories: pa.Table
    snapshot: pa.Table
    names: BucketNames

    @classmethod
    def read(cls, run: Run, state: BucketState, dim: int) -> "BucketTables":
        """Reads what a state's files hold, each compared with its sha256: what is damaged would be carried on forever.

        Raises:
            StoreError: a file is missing or damaged.
        """
        root, old, vectors = run.root, list(state.histories), list(state.embeddings)
        return cls(
            read_files(root, old, verify=True) if old else ENGAGEMENTS.empty_table(),
            read_files(root, vectors, verify=True) if vectors else user_embeddings_schema(dim).empty_table(),
            BucketNames.read(run, state.names),
        )


@dataclasses.dataclass(frozen=True)
class EmbeddingContext:
    """What embedding takes: the model, and the vectors of the pins."""

    encoder: UserEncoder
    config: ModelConfig
    look_up: LookUp


def replay_day(
    run: Run, bucket: int, state: BucketState, hand: BucketTables, came: CameIn, context: EmbeddingContext
) -> dict[Step, StepReport]:
    """Takes a bucket through one day: histories, join, embeddings, snapshot; `hand` is brought up to date.

    Args:
        state: The bucket before.
        hand: Its rows.
        came: The day's log rows, as `take_in` gave them.

    Returns:
        Step -> what was done, as the daily job reports it.
    """
    started = time.perf_counter()
    retry = np.array(state.retry, np.int64)
    before = hand.histories
    updated = update_bucket(run, bucket, before, list(state.histories), came.rows, retry)
    with_vector = hand.snapshot["user_id"]
    hand.names = keep_names(run, bucket, hand.names, came.names, updated.rows, lambda: with_vector.to_numpy())
    dead, collided = came.report(run, bucket)
    # The whole saving of a backfill: tomorrow's `old` is in memory, and is not read, checked and decoded again.
    hand.histories = updated.rows
    slices = list(cut_slices(updated.rows, updated.active))
    acts, staged, counted = write_acts(run, bucket, updated.added, before, context.config)
    counters = {**updated.counters, **counted, **collided, Counter.SLICES: len(slices)}
    run.note_progress(Step.UPDATE_HISTORIES, len(updated.active))
    files = {"histories": updated.entries, **hand.names.files(), **staged, **dead}
    reports = {Step.UPDATE_HISTORIES: task_report(started, counters, files=files)}
    schema = user_embeddings_schema(context.config.embedding_dim)
    embedded = [schema.empty_table()]
    for number, piece in slices:
        started = time.perf_counter()
        rows = pa.Table.from_batches([piece])
        found = embed_slice(
            run, join_slice(run, (bucket, number), rows, context.config, context.look_up, started), context.encoder
        )
        embedded.append(found.to_rows(run.date))
        for step, report in slice_reports(found, run.layout.user_ids).items():
            reports.setdefault(step, StepReport()).add(report)
    # Under a new model yesterday's vectors lie in another space: none of them is carried over.
    old, entries = (
        (schema.empty_table(), []) if run.instructions.everyone_active else (hand.snapshot, list(state.embeddings))
    )
    merged = merge_bucket(run, bucket, old, entries, pa.concat_tables(embedded), hand.snapshot)
    merged.report.files[VECTORS] = [write_vectors(run, bucket, acts, hand.snapshot, merged.rows)]
    hand.snapshot = merged.rows
    reports[Step.MERGE_SNAPSHOT] = merged.report
    return reports


class ReplayBucket(beam.DoFn):
    """(bucket, its start and its staged files) -> (day, report) of every step and day."""

    def __init__(self, runs: Sequence[Run], model: ModelReference, config: ModelConfig, dtype: str, token_budget: int):
        self._runs = runs
        self._reference = model
        self._config = config
        self._token_budget = token_budget
        self._models, self._vectors = Shared(), SharedVectorTable(runs[0].root, dtype)

    def setup(self):
        self._runs[0].check_root()

        # Threads of one process share the weights; a copy each would be the model's size times the threads.
        def load() -> UserEncoder:
            return UserEncoder(self._reference.load().user_tower, self._token_budget, self._reference.device)

        self._encoder = self._models.acquire(load, tag=self._reference.digest)

    def process(
        self,
        element: tuple[int, dict[str, Iterable[Any]]],
        tables: list[FileEntry],
        lost_pins: Iterable[tuple[int, Collided]] = (),
    ):
        bucket, groups = element
        lost = {n: by_source(c for day, c in lost_pins if day == n) for n in {day for day, _ in lost_pins}}
        root = self._runs[0].root
        context = EmbeddingContext(self._encoder, self._config, self._vectors.open(tables).look_up)
        # Names only: the rows of a day are mapped when its turn comes, so the range's length takes no memory.
        files: dict[int, list[FileEntry]] = {}
        for day, entry in groups["staged"]:
            files.setdefault(day, []).append(entry)
        for start in groups["start"]:  # none if every day of the bucket is replayed already
            state = start.state
            hand = BucketTables.read(self._runs[0], state, self._config.embedding_dim)
            for day in range(start.day, len(self._runs)):
                run = self._runs[day]
                pieces = [piece for entry in files.get(day, ()) for piece in read_pieces(root, entry, bucket)]
                came = take_in(run, pieces, hand.names, lost.get(day, {}))
                marker = CompletionMarker(replay_day(run, bucket, state, hand, came, context))
                # Named by the state it started from: an attempt that starts from another does not find it.
                write_marker(root, run.staging, Step.REPLAY_BUCKETS, state.task(bucket), marker)
                run.note_progress(Step.REPLAY_BUCKETS, 1)
                state = state_after(marker)
                for step, report in marker.reports.items():
                    yield of_day(day, tagged(step, report))


@dataclasses.dataclass
class ReplayBuckets(beam.PTransform):
    """Replays buckets in parallel, the days of each in order.

    Input: (bucket, (day, file of staged rows)). Output: (day, (step, report)), which name the files.

    Attributes:
        runs: One per day, in order.
        starts: Where each bucket starts; one that is not named is not replayed.
        tables: The pin vector tables, one per shard.
        lost_pins: (day, `Collided` string) of pins, whose rows are left out; None where pins are numbers.
    """

    runs: Sequence[Run]
    starts: Mapping[int, BucketStart]
    model: ModelReference
    config: ModelConfig
    tables: beam.PCollection[FileEntry]
    dtype: str
    token_budget: int
    lost_pins: beam.PCollection[tuple[int, Collided]] | None = None

    def expand(self, staged: beam.PCollection[tuple[int, Staged]]):
        # Every bucket gets a start, also one without rows in the range: each day has all buckets.
        starts = staged.pipeline | "StartBuckets" >> beam.Create(list(self.starts.items()), reshuffle=False)
        # Grouping costs a few dozen kB per bucket and day, names and starts. The work after it cannot be split further:
        # a day needs the day before.
        replayed = (
            {"start": starts, "staged": staged}
            | "GroupByBucket" >> beam.CoGroupByKey()
            | "ReplayBucket"
            >> beam.ParDo(
                ReplayBucket(self.runs, self.model, self.config, self.dtype, self.token_budget),
                tables=beam.pvalue.AsList(self.tables),
                **({} if self.lost_pins is None else {"lost_pins": beam.pvalue.AsList(self.lost_pins)}),
            ).with_outputs(REPORTS)
        )
        return replayed[REPORTS]
