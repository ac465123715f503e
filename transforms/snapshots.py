"""Merges today's embeddings into yesterday's snapshot."""

import dataclasses
import time
from collections.abc import Collection, Iterable, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.files import FileEntry
from stores.ids import find_sorted
from stores.manifests import read_manifest
from stores.names import Counter, Step
from stores.schemas import user_embeddings_schema
from stores.tables import part_stem, read_files, write_part
from transforms.acts import ACTS, VECTORS, write_vectors
from transforms.gates.drift import HISTOGRAM, cosine_histogram
from transforms.markers import CompletionMarker, read_marker, write_marker
from transforms.report_outputs import REPORTS, tagged
from transforms.run import Run
from transforms.sorted_rows import merge_order
from transforms.step_reports import StepReport, task_report


def merge_snapshot(old: pa.Table, new: pa.Table) -> pa.Table:
    """Yesterday's bucket with today's vectors: newest wins, everybody else keeps the old row.

    Args:
        old: Rows of user_embeddings, sorted by user_id.
        new: Rows of the same schema in any order, each user once. A null embedding is that of a user whose inference
            failed: the old row stays, marked `stale`; without one the user has no row.

    Returns:
        The merged rows, sorted by user_id.

    Raises:
        ValueError: a user is there twice in `new`.
    """
    new = new.sort_by("user_id")
    # A slice that came twice must stop the job: the user would be in the snapshot twice, and be served either vector.
    ids = new["user_id"].to_numpy()
    if (ids[1:] == ids[:-1]).any():
        raise ValueError(f"user {ids[1:][ids[1:] == ids[:-1]][0]} was embedded twice")
    failed = pc.is_null(new["embedding"])
    if new["embedding"].null_count:
        again = np.isin(old["user_id"].to_numpy(), new.filter(failed)["user_id"].to_numpy())
        stale = pc.or_(old["stale"], pa.array(again))
        old = old.set_column(old.schema.get_field_index("stale"), "stale", stale)
        new = new.filter(pc.invert(failed))
    new_ids = new["user_id"].to_numpy()
    # Replaced rows leave first: then no key is in both and a merge of sorted rows is enough.
    kept = old.filter(pa.array(~np.isin(old["user_id"].to_numpy(), new_ids)))
    source = merge_order(kept["user_id"].to_numpy(), new_ids)
    return pa.concat_tables([kept, new]).combine_chunks().take(pa.array(source))


def rows_with_new_action(old: pa.Table, new: pa.Table) -> pa.Table:
    """The rows of `new` of users whose newest engagement is not the one of their row in `old`.

    Users embedded again by age alone would make a night look like no other to whoever compares how far vectors moved.
    """
    ids, before = old["user_id"].to_numpy(), old["last_action_ms"].to_numpy()
    at, there = find_sorted(ids, new["user_id"].to_numpy())
    same = np.zeros(new.num_rows, bool)
    same[there] = before[at[there]] == new["last_action_ms"].to_numpy()[there]
    return new.filter(pa.array(~same))


@dataclasses.dataclass(frozen=True)
class MergedBucket:
    """A bucket of the snapshot, the files that hold it, and what was done."""

    rows: pa.Table
    entries: list[FileEntry]
    report: StepReport


def merge_bucket(
    run: Run, bucket: int, old: pa.Table, entries: list[FileEntry], new: pa.Table, released: pa.Table | None = None
) -> MergedBucket:
    """Merges a night's embeddings into a bucket of the snapshot, lets idle users go, and writes it if it changed.

    Args:
        old: The bucket before.
        entries: The files that hold it; none before the first night and under a new model.
        new: The night's rows, in any order; as `merge_snapshot` takes them.
        released: The bucket in the release before, whatever its model; `old` where nothing else is said.
    """
    started = time.perf_counter()
    # Nothing new, nothing written: an unchanged bucket keeps yesterday's file and its name.
    rows = merge_snapshot(old, new) if new.num_rows or not entries else old
    idle = rows["last_action_ms"].to_numpy() < run.instructions.ageing.oldest_action_ms(run.date)
    if idle.any():
        rows = rows.filter(pa.array(~idle)).combine_chunks()
    if new.num_rows or idle.any() or not entries:
        entries = [write_part(run.root, "user_embeddings", run.date, bucket, rows)]
    embedded = new.num_rows - new["embedding"].null_count
    counters: dict[str, int] = {
        Counter.USERS: rows.num_rows,
        Counter.USERS_CARRIED_OVER: rows.num_rows - embedded,
        Counter.USERS_EXPIRED: int(idle.sum()),
        Counter.USERS_LOST: _count_lost(old if released is None else released, rows),
        Counter.USERS_STALE: pc.sum(rows["stale"]).as_py() or 0,
    }
    run.note_progress(Step.MERGE_SNAPSHOT, rows.num_rows)
    # Refreshed users barely move; counted in, they would hide a night on which everybody else's vector jumps.
    acted = rows_with_new_action(old, new) if run.instructions.ageing.refresh_days else new
    moved = {HISTOGRAM: cosine_histogram(old, acted)}
    report = task_report(started, counters, files={"user_embeddings": entries}, histograms=moved)
    return MergedBucket(rows, entries, report)


def _count_lost(before: pa.Table, after: pa.Table) -> int:
    """Users of a bucket of the release before that it has no more; both sorted by user_id."""
    _, there = find_sorted(after["user_id"].to_numpy(), before["user_id"].to_numpy())
    return int((~there).sum())


def acts_of(run: Run, bucket: int) -> list[FileEntry]:
    """The file of a bucket's acts: named by the bucket's marker, which was written before any of its slices went on.

    None where an older version of this code brought the bucket up to date.
    """
    marker = read_marker(run.root, run.staging, Step.UPDATE_HISTORIES, part_stem(bucket))
    return marker.reports[Step.UPDATE_HISTORIES].files.get(ACTS, []) if marker else []


class MergeBucket(beam.DoFn):
    """(bucket, files of today's rows, or None) -> a report that names the bucket's files."""

    def __init__(self, run: Run, dim: int):
        self._run = run
        self._schema = user_embeddings_schema(dim)

    def setup(self):
        self._run.check_root()
        run = self._run
        self._before = read_manifest(run.root, run.previous).parts("user_embeddings") if run.previous else {}
        # Under a new model yesterday's vectors lie in another space: none of them is carried over.
        self._files = {} if run.instructions.everyone_active else self._before
        self._repaired = run.repaired_users()

    def process(self, element: tuple[int, Iterable[FileEntry | None]]):
        bucket, slices = element
        run, entries = self._run, self._files.get(bucket, [])
        old = read_files(run.root, entries, verify=True) if entries else self._schema.empty_table()
        before = old if entries == self._before.get(bucket, []) else read_files(run.root, self._before[bucket])
        if self._repaired is not None:  # whoever has no row left has no vector either
            others = ~np.isin(old["user_id"].to_numpy(), self._repaired)
            if not others.all():
                old, entries = old.filter(pa.array(others)), []
        # Verified as the histories are: what a slice's file says is served from tomorrow on.
        written = [read_files(run.root, [entry], verify=True) for entry in slices if entry is not None]
        new = pa.concat_tables([self._schema.empty_table(), *written])
        merged = merge_bucket(run, bucket, old, entries, new, before)
        done = merged.report
        acts = acts_of(run, bucket)
        if acts:
            found = read_files(run.root, acts, verify=True)
            done.files[VECTORS] = [write_vectors(run, bucket, found, before, merged.rows)]
        write_marker(
            run.root, run.staging, Step.MERGE_SNAPSHOT, part_stem(bucket), CompletionMarker({Step.MERGE_SNAPSHOT: done})
        )
        yield tagged(Step.MERGE_SNAPSHOT, done)


@dataclasses.dataclass
class MergeSnapshot(beam.PTransform):
    """Writes today's snapshot, bucket by bucket; a bucket without new vectors keeps yesterday's file.

    Input: (bucket, file of rows of user_embeddings). Output: reports, which name the files.

    Attributes:
        finished: Buckets whose snapshot an earlier attempt of the run wrote.
        embedded: (bucket, file) of slices that it embedded, of the other buckets.
    """

    run: Run
    dim: int
    finished: Collection[int] = ()
    embedded: Sequence[tuple[int, FileEntry]] = ()

    def expand(self, slices: beam.PCollection[tuple[int, FileEntry]]):
        todo = [bucket for bucket in range(self.run.layout.user_buckets) if bucket not in set(self.finished)]
        # `None` makes a group of a bucket without a slice: it may still have idle users to let go.
        every = slices.pipeline | "EverySnapshotBucket" >> beam.Create(
            [*((bucket, None) for bucket in todo), *self.embedded], reshuffle=False
        )
        # What is shuffled are names of slices; the vectors are read where they are merged.
        merged = (
            (slices, every)
            | "WithEveryBucket" >> beam.Flatten()
            | "GroupByBucket" >> beam.GroupByKey()
            | "MergeBucket" >> beam.ParDo(MergeBucket(self.run, self.dim)).with_outputs(REPORTS)
        )
        return merged[REPORTS]
