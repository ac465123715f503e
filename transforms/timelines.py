"""Builds whole timelines, one row per user, from the log rows of a bucket."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pinnerformer_model.labels import find_positives
from pinnerformer_model.timelines import EVENT_COLUMNS, Timelines
from stores.files import FileEntry, Root
from stores.ids import uniform_of
from stores.names import Counter, Step
from stores.schemas import ENGAGEMENTS
from stores.timelines import SPLITS, write_timelines
from stores.user_lists import read_erased
from transforms.batches import from_ipc
from transforms.engagements import sorted_vocabulary, to_engagements
from transforms.report_outputs import REPORTS, report
from transforms.run import RunFolder
from transforms.sequences import token_columns
from transforms.vector_tables import SharedVectorTable


@dataclasses.dataclass(frozen=True)
class TimelineRules:
    """What makes an event of a row, and a split of a user.

    Attributes:
        action_vocabulary, surface_vocabulary: A row with another action or surface is left out.
        label_rule: Which events are positive; see `pinnerformer_model.labels`.
        evaluation_share: Of the users.
        split_salt: Another salt splits the users another way.
    """

    action_vocabulary: tuple[str, ...]
    surface_vocabulary: tuple[str, ...]
    label_rule: dict[str, Any]
    evaluation_share: float
    split_salt: int


def build_timelines(
    rows: pa.Table, rules: TimelineRules, rows_of: Callable[[np.ndarray], np.ndarray], erased: np.ndarray
) -> tuple[Timelines, dict[str, int]]:
    """The timelines of the users of some rows; rows equal in every column count once.

    Args:
        rows: Schema `ENGAGEMENTS`, every row of every one of their users, in any order.
        rows_of: pin_id int64 [N] -> row in the matrix of pin vectors int64 [N], -1 = no vector.
        erased: Sorted int64 ids of users to leave out.

    Returns:
        The timelines of the users with at least one event; counters.
    """
    counters: dict[str, int] = {Counter.ROWS: rows.num_rows}
    if len(erased):
        rows = rows.filter(pa.array(~np.isin(rows["user_id"].to_numpy(), erased)))
    counters[Counter.ROWS_ERASED] = counters[Counter.ROWS] - rows.num_rows
    actions, surfaces = sorted_vocabulary([rows["action"]]), sorted_vocabulary([rows["surface"]])
    engagements = to_engagements(rows, actions, surfaces)
    order = engagements.order()
    # The order of the histories, and repeats dropped as `merge_histories` drops them: training sees the tokens that
    # serving does.
    order = order[~engagements.take(order).equals_previous()]
    counters[Counter.ROWS_REPEATED] = rows.num_rows - len(order)
    order = order[::-1]  # the order of the histories backwards: oldest first, users descending

    columns, in_vocabulary = token_columns(rows, rules.action_vocabulary, rules.surface_vocabulary)
    known = in_vocabulary[order]
    pin_row = rows_of(engagements.pin_id[order])
    usable = np.flatnonzero(known & (pin_row >= 0))
    counters[Counter.ROWS_OUT_OF_VOCABULARY] = int((~known).sum())
    counters[Counter.ROWS_WITHOUT_VECTOR] = int(known.sum()) - len(usable)

    # Reversing put users in descending order; a stable sort by user mends that and keeps the events as they are.
    event = usable[np.argsort(engagements.user_id[order][usable], kind="stable")]
    user_ids, first = np.unique(engagements.user_id[order][event], return_index=True)
    offsets = np.append(first, len(event)).astype(np.int64)
    tokens = {name: column[order[event]] for name, column in columns.items()}
    positive = find_positives(
        rules.label_rule,
        rules.action_vocabulary,
        rules.surface_vocabulary,
        tokens["action"],
        tokens["surface"],
        tokens["duration_s"],
    )
    timelines = Timelines(
        user_ids=user_ids,
        offsets=offsets,
        pin_row=pin_row[event].astype(np.int32),
        **tokens,
        positive=positive,
    )
    counters |= {Counter.USERS: len(timelines), Counter.EVENTS: len(event), Counter.POSITIVES: int(positive.sum())}
    return timelines, counters


def count_kinds(timelines: Timelines, rules: TimelineRules) -> dict[str, int]:
    """How many events there are of every action on every surface: `repin on homefeed` -> number."""
    width = len(rules.surface_vocabulary)
    kinds = np.bincount(timelines.action.astype(np.int64) * width + timelines.surface)
    return {
        f"{rules.action_vocabulary[kind // width]} on {rules.surface_vocabulary[kind % width]}": int(kinds[kind])
        for kind in np.flatnonzero(kinds)
    }


class BuildTimelines(beam.DoFn):
    """(bucket, IPC chunks) -> reports that name the bucket's file in each split."""

    def __init__(self, run: RunFolder, rules: TimelineRules, dtype: str, erased_root: Root | None):
        self._run = run
        self._rules = rules
        self._erased_root = erased_root
        self._vectors = SharedVectorTable(run.root, dtype)

    def setup(self):
        self._run.check_root()
        self._erased = read_erased(self._erased_root) if self._erased_root else np.empty(0, np.int64)

    def process(self, element: tuple[int, Iterable[bytes]], tables: list[FileEntry]):
        started = time.perf_counter()
        bucket, chunks = element
        vectors = self._vectors.open(tables)
        rows = pa.Table.from_batches(from_ipc(chunks), ENGAGEMENTS)
        timelines, counters = build_timelines(rows, self._rules, vectors.rows, self._erased)
        # By a hash of the id, not by a draw: the same user is held out whatever range of days the timelines are made
        # of.
        held_out = uniform_of(timelines.user_ids, self._rules.split_salt) < self._rules.evaluation_share
        files = {}
        for split, chosen in zip(SPLITS, (~held_out, held_out), strict=True):
            part = timelines.users(chosen)
            counters |= {f"{split}_users": len(part), f"{split}_positives": int(part.positive.sum())}
            counters[f"{split}_events"] = int(part.offsets[-1])
            if len(part):
                events = {name: getattr(part, name) for name in EVENT_COLUMNS}
                files[split] = [write_timelines(self._run.root, split, bucket, part.user_ids, part.offsets, events)]
        kinds = {f"events {kind}": number for kind, number in count_kinds(timelines, self._rules).items()}
        self._run.note_progress(Step.BUILD_TIMELINES, len(timelines))
        yield report(Step.BUILD_TIMELINES, started, counters | kinds, files=files)


@dataclasses.dataclass
class MakeTimelines(beam.PTransform):
    """Builds the timelines of every user, bucket by bucket, and writes them.

    Input: (bucket, Arrow IPC bytes). Output: reports, which name the files.
    """

    run: RunFolder
    rules: TimelineRules
    tables: beam.PCollection[FileEntry]
    dtype: str
    erased_root: Root | None

    def expand(self, chunks: beam.PCollection[tuple[int, bytes]]):
        # Everything of a bucket's users in one group: a timeline cannot be built from a part of it. No marker, since no
        # attempt goes on from another.
        build = BuildTimelines(self.run, self.rules, self.dtype, self.erased_root)
        return (
            chunks
            | "GroupByBucket" >> beam.GroupByKey()
            | "BuildTimelines" >> beam.ParDo(build, tables=beam.pvalue.AsList(self.tables)).with_outputs(REPORTS)
        )[REPORTS]
