"""Merges new engagements into the histories, and finds out whose history changed."""

import dataclasses
import time
from collections.abc import Collection, Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pinnerformer_model.config import ModelConfig
from stores.files import FileEntry
from stores.manifests import read_manifest
from stores.names import Counter, Step
from stores.schemas import ENGAGEMENTS
from stores.tables import USER_NAMES, part_stem, read_files, write_part, write_rows
from transforms.acts import write_acts
from transforms.batches import to_ipc
from transforms.engagements import Engagements, sorted_vocabulary, to_engagements, to_table
from transforms.id_names import Collided
from transforms.markers import CompletionMarker, write_marker
from transforms.report_outputs import REPORTS, tagged
from transforms.run import Run
from transforms.sorted_rows import merge_order, rank_within_groups
from transforms.step_reports import task_report
from transforms.user_names import BucketNames, by_source, keep_names, take_in, users_of

# A slice is what one worker embeds at a time; its rows make one or two shuffled values. Small enough that a bucket of
# many active users spreads over workers, large enough that batches are full: 512 users of 85 tokens are some forty.
SLICE_USERS = 512
SLICE_ROWS = 32_000


@dataclasses.dataclass(frozen=True)
class Merged:
    """A bucket's histories after the merge.

    Attributes:
        rows: Every kept row, in the order of the histories; None if nothing changed.
        changed: Sorted int64 ids of the users whose kept history changed.
        counters: rows_new, rows_repeated (equal to a row already there), rows_past_length (older than what is kept).
        added: The rows that are new in them, in their order.
    """

    rows: pa.Table | None
    changed: np.ndarray
    counters: dict[str, int]
    added: pa.Table = dataclasses.field(default_factory=ENGAGEMENTS.empty_table)


def merge_histories(old: pa.Table, new: pa.Table, history_length: int) -> Merged:
    """Merges new rows into histories; rows equal in every column count once; the newest `history_length` a user stay.

    Only the users that the new rows name are sorted again; everybody else's rows are copied in blocks.

    Args:
        old: Rows of schema `ENGAGEMENTS` in the order of the histories, at most `history_length` a user.
        new: Rows of the same schema in any order.
        history_length: > 0.
    """
    counters: dict[str, int] = {Counter.ROWS_NEW: new.num_rows, Counter.ROWS_REPEATED: 0, Counter.ROWS_PAST_LENGTH: 0}
    if not new.num_rows:
        return Merged(None, np.empty(0, np.int64), counters)
    # One vocabulary for both tables, sorted: then comparing codes is comparing strings, and no string is looked at per
    # row.
    actions = sorted_vocabulary([old["action"], new["action"]])
    surfaces = sorted_vocabulary([old["surface"], new["surface"]])
    before = to_engagements(old, actions, surfaces)
    added = to_engagements(new, actions, surfaces)

    # On a usual night few users of a bucket act. Sorting their rows alone, and copying the rest in blocks, is what
    # makes a merge cheaper than a sort of the bucket.
    touched = np.isin(before.user_id, np.unique(added.user_id))
    work = Engagements.concat([before.take(touched), added])  # old rows first: of two equal rows the old one stays
    is_new = np.arange(len(work)) >= touched.sum()
    order = work.order()
    work, is_new = work.take(order), is_new[order]

    # Equal rows stand side by side in a total order, so that a repeat is a row that equals the one before it. Logs are
    # delivered at least once: without this a row read twice would count twice.
    repeated = work.equals_previous()
    counters[Counter.ROWS_REPEATED] = int(repeated.sum())
    work, is_new = work.take(~repeated), is_new[~repeated]
    # Newest first: the rank within the user is the age rank, and the cut keeps the newest.
    kept = rank_within_groups(work.user_id) < history_length
    counters[Counter.ROWS_PAST_LENGTH] = int((~kept).sum())
    work, is_new = work.take(kept), is_new[kept]

    # Only a NEW row that is kept changes a history: a repeat, or a row older than all that is kept, makes nobody
    # active, and nobody is embedded for nothing.
    changed = np.unique(work.user_id[is_new])
    if not len(changed):
        return Merged(None, changed, counters)
    # No user is in both, so that a merge by user alone gives the order of the histories.
    rest = before.take(~touched)
    source = merge_order(rest.user_id, work.user_id)
    merged = to_table(Engagements.concat([rest, work]).take(source), actions, surfaces)
    return Merged(merged, changed, counters, to_table(work.take(is_new), actions, surfaces))


def drop_older(rows: pa.Table, oldest_ms: int) -> tuple[pa.Table, np.ndarray]:
    """Rows of schema `ENGAGEMENTS` from a moment on, in their order; and the sorted distinct ids of whom others were.

    The very same table if nothing is older.
    """
    old = rows["timestamp_ms"].to_numpy() < oldest_ms
    if not old.any():
        return rows, np.empty(0, np.int64)
    # Encoded again: a filter keeps words that no row uses any more, and equal rows must give equal bytes.
    left = rows.filter(pa.array(~old))
    actions, surfaces = sorted_vocabulary([left["action"]]), sorted_vocabulary([left["surface"]])
    users = np.unique(rows["user_id"].to_numpy()[old])
    return to_table(to_engagements(left, actions, surfaces), actions, surfaces), users


def cut_slices(rows: pa.Table, users: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts the histories of some users into slices of at most `SLICE_USERS` users and about `SLICE_ROWS` rows.

    A user is never cut; the cut depends on the users and their rows only.

    Args:
        rows: Histories, in their order.
        users: Sorted int64 ids, each of which has rows.

    Yields:
        (slice number, its rows in the order of the histories).
    """
    user_id = rows["user_id"].to_numpy()
    # Histories are sorted by user: two binary searches per user in place of a pass over all rows.
    begin = np.searchsorted(user_id, users, side="left")
    length = np.searchsorted(user_id, users, side="right") - begin
    total = np.r_[0, np.cumsum(length)]
    row = np.repeat(begin - total[:-1], length) + np.arange(total[-1])  # positions of all their rows
    chosen = rows.take(pa.array(row)).combine_chunks()
    # Greedy, in the order of ids: whoever cuts the same users again, in a resumed run or a backfill, gets the same
    # slices, and a finished slice is known by its number.
    start = number = 0
    while start < len(users):
        by_rows = int(np.searchsorted(total, total[start] + SLICE_ROWS, side="right")) - 1
        stop = min(start + SLICE_USERS, max(by_rows, start + 1), len(users))
        piece = chosen.slice(total[start], total[stop] - total[start]).to_batches()
        yield number, piece[0]
        start, number = stop, number + 1


@dataclasses.dataclass(frozen=True)
class UpdatedBucket:
    """A bucket with a night's rows in it.

    Attributes:
        rows: Its histories.
        entries: The files that hold them: new ones, or the old ones if nothing changed.
        active: Sorted int64 ids of the users to embed.
        counters: What happened.
        added: The night's rows that are new in its histories, in their order.
    """

    rows: pa.Table
    entries: list[FileEntry]
    active: np.ndarray
    counters: dict[str, int]
    added: pa.Table


def update_bucket(
    run: Run, bucket: int, old: pa.Table, entries: list[FileEntry], new: pa.Table, retry: np.ndarray
) -> UpdatedBucket:
    """Merges a night's rows into a bucket, drops those too old, writes it if it changed, and says who is active.

    Active are the users whose kept history changed, those to try again, and those whose vector is due by its age; not
    those who have been idle for too long.

    Args:
        old: Its histories before.
        entries: The files that hold them; none before the first night.
        new: The night's rows, in any order.
        retry: Sorted int64 ids to embed again whatever came in; those of other buckets do no harm.
    """
    oldest_ms = run.instructions.ageing.oldest_row_ms(run.date)
    came, before = new.num_rows, old.num_rows
    # Before the merge: a row that comes in too old must not make its user active, and must not push out a row that may
    # stay.
    (new, _), (old, shortened) = drop_older(new, oldest_ms), drop_older(old, oldest_ms)
    expired = came - new.num_rows + before - old.num_rows
    merged = merge_histories(old, new, run.layout.history_length)
    rows = old if merged.rows is None else merged.rows
    # An unchanged bucket keeps its file, under the date it was written: the manifest names it again, nothing is copied.
    if merged.rows is not None or len(shortened) or not entries:
        entries = [write_part(run.root, "histories", run.date, bucket, rows)]
    users, newest = np.unique(rows["user_id"].to_numpy(), return_index=True)
    due = users[run.instructions.ageing.is_due(users, run.after, run.date)]
    # Under a new model everybody is embedded: vectors of two models do not compare, so none may be carried over.
    active = users
    if not run.instructions.everyone_active:
        again = np.intersect1d(np.concatenate([retry, shortened]), users)
        active = np.unique(np.concatenate([merged.changed, again, due]))
    # Idle users lose their row of the snapshot in the same night: to embed them would be work thrown away.
    awake = users[rows["timestamp_ms"].to_numpy()[newest] >= run.instructions.ageing.oldest_action_ms(run.date)]
    active = np.intersect1d(active, awake)
    counters: dict[str, int] = {
        **merged.counters,
        Counter.ROWS_NEW: came,
        Counter.ROWS_EXPIRED: expired,
        Counter.ROWS_KEPT: rows.num_rows,
        Counter.USERS: len(users),
        Counter.USERS_CHANGED: len(merged.changed),
        Counter.USERS_DUE: len(due),
        Counter.USERS_ACTIVE: len(active),
    }
    return UpdatedBucket(rows, entries, active, counters, merged.added)


class UpdateBucket(beam.DoFn):
    """(bucket, IPC chunks) -> ((bucket, slice), (index, IPC chunk)) of active users' histories; writes the bucket."""

    def __init__(self, run: Run, config: ModelConfig):
        self._run = run
        self._config = config

    def setup(self):
        self._run.check_root()
        manifest = read_manifest(self._run.root, self._run.previous) if self._run.previous else None
        self._files = manifest.parts("histories") if manifest else {}
        self._names = manifest.parts(USER_NAMES) if manifest else {}
        self._snapshot = manifest.parts("user_embeddings") if manifest else {}
        self._repaired = self._run.repaired_users()
        self._retry = np.unique(np.array(manifest.retry_users if manifest else [], np.int64))

    def process(self, element: tuple[int, Iterable[bytes]], lost_pins: Iterable[Collided] = ()):
        started = time.perf_counter()
        bucket, chunks = element
        run, entries = self._run, self._files.get(bucket, [])
        # Verified, since it is carried on: a flipped bit would be written out again with a good checksum.
        old = read_files(run.root, entries, verify=True) if entries else ENGAGEMENTS.empty_table()
        before = BucketNames.read(run, self._names.get(bucket, []))
        came = take_in(run, chunks, before, by_source(lost_pins))
        dead, collided = came.report(run, bucket)
        repair = run.instructions.repair
        # A repair forgets what it can read again; rows from before the oldest partition exist nowhere else, and stay.
        if repair is not None and self._repaired is not None:
            kept = ~np.isin(old["user_id"].to_numpy(), self._repaired)
            kept |= old["timestamp_ms"].to_numpy() < repair.rebuilt_from_ms
            if not kept.all():
                old, entries = old.filter(pa.array(kept)), []  # written again whatever comes in
        updated = update_bucket(run, bucket, old, entries, came.rows, self._retry)
        names = keep_names(
            run,
            bucket,
            before,
            came.names,
            updated.rows,
            lambda: users_of(run.root, self._snapshot.get(bucket, [])),
        )
        slices = 0
        for number, piece in cut_slices(updated.rows, updated.active):
            slices += 1
            for index, chunk in enumerate(to_ipc(piece)):
                yield (bucket, number), (index, chunk)
        _, acts, counted = write_acts(run, bucket, updated.added, old, self._config)
        run.note_progress(Step.UPDATE_HISTORIES, len(updated.active))
        counters = {**updated.counters, **counted, **collided, Counter.SLICES: slices}
        files = {"histories": updated.entries, **names.files(), **acts, **dead}
        done = task_report(started, counters, files=files)
        # Who is active cannot be seen in the histories, and a run that goes on must cut the same slices from them.
        staged = [write_rows(run.root, f"{run.staging}/active", bucket, pa.table({"user_id": updated.active}))]
        write_marker(
            run.root,
            run.staging,
            Step.UPDATE_HISTORIES,
            part_stem(bucket),
            CompletionMarker({Step.UPDATE_HISTORIES: done}, staged),
        )
        yield tagged(Step.UPDATE_HISTORIES, done)


@dataclasses.dataclass(frozen=True)
class OpenBucket:
    """A bucket whose histories are up to date and some of whose active users have no embedding yet.

    Attributes:
        histories: Its files.
        active: One file: the `user_id` of its active users.
        finished: Numbers of the slices that are embedded.
    """

    bucket: int
    histories: list[FileEntry]
    active: FileEntry
    finished: frozenset[int]


class CutBucket(beam.DoFn):
    """OpenBucket -> ((bucket, slice), (index, IPC chunk)) of its slices that are not embedded."""

    def __init__(self, run: Run):
        self._run = run

    def setup(self):
        self._run.check_root()

    def process(self, element: OpenBucket):
        rows = read_files(self._run.root, element.histories, verify=True)
        active = read_files(self._run.root, [element.active], verify=True)["user_id"].to_numpy()
        for number, piece in cut_slices(rows, active):
            if number not in element.finished:
                for index, chunk in enumerate(to_ipc(piece)):
                    yield (element.bucket, number), (index, chunk)


@dataclasses.dataclass
class UpdateHistories(beam.PTransform):
    """Merges new rows into the histories, bucket by bucket, and hands on the histories of the active users.

    Every bucket is visited, also one without new rows: for users to retry, and for a new model.

    Input: (bucket, Arrow IPC bytes). Output: `main`, ((bucket, slice), (index, Arrow IPC bytes)), and `reports`.

    Attributes:
        config: Of the model.
        finished: Buckets that an earlier attempt of the run brought up to date.
        open: Those of them that have slices to embed.
        lost_pins: `Collided` strings of pins, whose rows are left out; None where pins are numbers.
    """

    run: Run
    config: ModelConfig
    finished: Collection[int] = ()
    open: Sequence[OpenBucket] = ()
    lost_pins: beam.PCollection[Collided] | None = None

    def expand(self, chunks: beam.PCollection[tuple[int, bytes]]):
        todo = [bucket for bucket in range(self.run.layout.user_buckets) if bucket not in set(self.finished)]
        # An empty chunk makes a group of a bucket that no row came to; `reshuffle=False`, because grouping follows at
        # once.
        every = chunks.pipeline | "EveryBucket" >> beam.Create([(bucket, b"") for bucket in todo], reshuffle=False)
        # All rows of a bucket in one group: at most 32 MB if the buckets are as many as `pinnerformer plan` advises
        # (docs/scale.md).
        lost = {} if self.lost_pins is None else {"lost_pins": beam.pvalue.AsList(self.lost_pins)}
        update = beam.ParDo(UpdateBucket(self.run, self.config), **lost)
        updated = (
            (chunks, every)
            | "WithEveryBucket" >> beam.Flatten()
            | "GroupByBucket" >> beam.GroupByKey()
            | "UpdateBucket" >> update.with_outputs(REPORTS, main="main")
        )
        # Beside, and not through, the group above: a finished bucket needs no rows, its slices are cut from its files.
        reopened = (
            chunks.pipeline
            | "OpenBuckets" >> beam.Create(list(self.open))
            | "CutBucket" >> beam.ParDo(CutBucket(self.run))
        )
        return {"main": (updated.main, reopened) | "AllSlices" >> beam.Flatten(), REPORTS: updated[REPORTS]}
