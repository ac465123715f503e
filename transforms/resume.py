"""What of a run is done already: looked up when its pipeline is built, and left out of it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stores.files import FileEntry
from stores.names import Counter, Step
from stores.pin_vectors import VectorSet
from stores.string_ids import STRING
from transforms.embed_users import slice_key
from transforms.histories import OpenBucket
from transforms.markers import CompletionMarker, merge_reports, read_markers
from transforms.read_logs import RowGroup
from transforms.run import Run, RunFolder
from transforms.sort_vectors import VectorGroup, vector_groups
from transforms.step_reports import StepReport


@dataclasses.dataclass(frozen=True)
class CompletedPins:
    """The tasks of a run's pin branch that an earlier attempt finished, as far as this one builds on them.

    Attributes:
        cuts: Row groups of the vectors, by task.
        tables: By shard; those that an earlier night left are among them.
        pins, indexes: By shard.
        kept: How many of the tables an earlier night left.
    """

    cuts: dict[str, CompletionMarker]
    tables: dict[int, CompletionMarker]
    pins: dict[int, CompletionMarker]
    indexes: dict[int, CompletionMarker]
    kept: int = 0

    def markers(self) -> Iterator[CompletionMarker]:
        """All of them but the tables': whoever looks at those says what they are."""
        for found in (self.cuts, self.pins, self.indexes):
            yield from found.values()

    def reports(self) -> list[tuple[Step, StepReport]]:
        """What the finished tasks did, one report per step."""
        return merge_reports(self.markers())

    def vectors_to_cut(self, vectors: VectorSet, shards: int) -> list[VectorGroup]:
        """The row groups of the vectors that must be cut; none where every shard has its table."""
        if self.tables.keys() >= set(range(shards)):
            return []
        return [group for group in vector_groups(vectors) if group.task not in self.cuts]

    def pieces(self) -> list[FileEntry]:
        """What was cut for shards that have no table."""
        return [entry for marker in self.cuts.values() for entry in marker.staged if entry.part not in self.tables]

    def shard_tables(self) -> list[tuple[FileEntry, StepReport]]:
        """The vector tables that are there, with the reports of their tasks."""
        return [(marker.staged[0], marker.reports[Step.SHARD_PINS]) for marker in self.tables.values()]

    def unindexed(self) -> list[FileEntry]:
        """Files of pin_embeddings without an index."""
        return [
            entry
            for shard, marker in self.pins.items()
            if shard not in self.indexes
            for entry in marker.reports[Step.EMBED_PINS].files["pin_embeddings"]
        ]


@dataclasses.dataclass(frozen=True)
class CompletedWork:
    """The tasks of a run that an earlier attempt finished, as far as this one builds on them.

    A task counts only if the tasks that it was made from count too. A slice with a user that failed does not count:
    what made them fail may be mended.

    Attributes:
        logs: Row groups of the logs, by task; none unless every bucket's histories are done, since the rows of the
            other buckets must be read again.
        histories, slices, snapshots: By bucket; by (bucket, number); by bucket.
        pin_branch: Of the pins.
        pin_names: Of the pins' names, by shard; none unless the logs need not be read again.
    """

    logs: dict[str, CompletionMarker]
    histories: dict[int, CompletionMarker]
    slices: dict[tuple[int, int], CompletionMarker]
    snapshots: dict[int, CompletionMarker]
    pin_branch: CompletedPins
    pin_names: dict[int, CompletionMarker] = dataclasses.field(default_factory=dict)

    def reports(self) -> list[tuple[Step, StepReport]]:
        """What the finished tasks did, one report per step."""
        users = (self.logs, self.pin_names, self.histories, self.slices, self.snapshots)
        return merge_reports([*(r for found in users for r in found.values()), *self.pin_branch.markers()])

    def logs_to_read(self, groups: Sequence[RowGroup]) -> list[RowGroup]:
        """The row groups that must be read."""
        return [group for group in groups if group.task not in self.logs]

    def open_buckets(self) -> list[OpenBucket]:
        """Buckets whose histories are done and some of whose slices are not embedded."""
        found = []
        for bucket, marker in self.histories.items():
            numbers = frozenset(number for b, number in self.slices if b == bucket)
            if len(numbers) < _slices(marker):
                (active,) = marker.staged
                found.append(
                    OpenBucket(bucket, marker.reports[Step.UPDATE_HISTORIES].files["histories"], active, numbers)
                )
        return found

    def embedded(self) -> list[tuple[int, FileEntry]]:
        """(bucket, file) of the finished slices, of buckets without a snapshot."""
        return [
            (bucket, entry)
            for (bucket, _), marker in self.slices.items()
            if bucket not in self.snapshots
            for entry in marker.staged
        ]

    def describe(self) -> str:
        """What is taken over, in words; empty if nothing is."""
        counts = {
            "histories": len(self.histories),
            "embedded slices": len(self.slices),
            "snapshots": len(self.snapshots),
            "vector tables": len(self.pin_branch.tables) - self.pin_branch.kept,
            "shards of pins": len(self.pin_branch.pins),
            "indexes": len(self.pin_branch.indexes),
        }
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


NO_COMPLETED_WORK = CompletedWork({}, {}, {}, {}, CompletedPins({}, {}, {}, {}))


def _slices(bucket: CompletionMarker) -> int:
    return bucket.reports[Step.UPDATE_HISTORIES].counters[Counter.SLICES]


def _last_number(task: str) -> int:
    return int(task.rpartition("-")[2])


def _markers(run: RunFolder, step: str, key: Callable[[str], Any]) -> dict[Any, CompletionMarker]:
    """The finished tasks of a step, by what `key` makes of their names."""
    return {key(task): found for task, found in read_markers(run.root, run.staging, step).items()}


def find_completed_pins(run: RunFolder, shards: int) -> CompletedPins:
    """Reads the markers of a run's pin branch; on its first attempt there are none."""
    tables = _tables(run)
    # A cut counts if it still has a piece for every shard without a table; pieces of finished shards may be gone.
    open_shards = set(range(shards)) - tables.keys()
    cuts = {
        task: found
        for task, found in _markers(run, Step.CUT_VECTORS, str).items()
        if open_shards <= {entry.part for entry in found.staged}
    }
    embedded = _markers(run, Step.EMBED_PINS, _last_number)
    indexes = _markers(run, Step.BUILD_INDEXES, _last_number)
    # An index without its embeddings would be of vectors that the new attempt does not make.
    indexed = {shard: found for shard, found in indexes.items() if shard in embedded}
    return CompletedPins(cuts, tables, embedded, indexed, sum(marker.run != run.name for marker in tables.values()))


def _tables(run: RunFolder) -> dict[int, CompletionMarker]:
    """The vector tables that a run builds on, of its own and of runs before it with the same vectors."""
    found = {}
    for task, marker in read_markers(run.root, run.vectors_home, Step.SHARD_PINS).items():
        report = marker.reports.get(Step.SHARD_PINS)
        if report is None or len(marker.staged) != 1:
            continue
        if marker.run != run.name:
            # Which pins lost their id to another, and are dead letters of tonight too, depends on the night.
            if report.counters.get(Counter.VECTORS_COLLIDED):
                continue
            marker = dataclasses.replace(marker, reports={Step.SHARD_PINS: report.of_before()})
        found[_last_number(task)] = marker
    return found


def find_completed(run: Run) -> CompletedWork:
    """Reads the markers of a run; on its first attempt there are none."""
    buckets = _markers(run, Step.UPDATE_HISTORIES, _last_number)
    # A failed user is tried again: the whole slice, since batches are formed within it.
    slices = {
        key: found
        for key, found in _markers(run, Step.EMBED_USERS, slice_key).items()
        if key[0] in buckets and not found.reports[Step.EMBED_USERS].failures
    }
    whole = {bucket for bucket, marker in buckets.items() if all((bucket, n) in slices for n in range(_slices(marker)))}
    merged = {
        bucket: found for bucket, found in _markers(run, Step.MERGE_SNAPSHOT, _last_number).items() if bucket in whole
    }
    # Rows are not kept, only their groups' sums: a single open bucket needs every file read again.
    logs = _markers(run, Step.READ_LOGS, str) if len(buckets) == run.layout.user_buckets else {}
    # So it is with the names of pins: those of a single shard that is not named yet come from all files.
    names = _markers(run, Step.NAME_PINS, _last_number) if logs else {}
    if run.layout.pin_ids == STRING and len(names) < run.layout.pin_shards:
        logs, names = {}, {}
    return CompletedWork(logs, buckets, slices, merged, find_completed_pins(run, run.layout.pin_shards), names)
