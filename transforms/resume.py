"""What of a run is done already: looked up when its pipeline is built, and left out of it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stores.files import FileEntry
from stores.names import Counter, Step
from stores.pin_vectors import VectorSet
from transforms.embed_users import slice_key
from transforms.histories import OpenBucket
from transforms.pins import VectorGroup, vector_groups
from transforms.read_logs import RowGroup
from transforms.receipts import Receipt, merge_reports, read_receipts
from transforms.run import Run, RunFolder
from transforms.step_reports import StageReport


@dataclasses.dataclass(frozen=True)
class CompletedPins:
    """The tasks of a run's pin branch that an earlier attempt finished, as far as this one builds on them.

    Attributes:
        cuts: Row groups of the vectors, by task.
        tables, pins, indexes: By shard.
    """

    cuts: dict[str, Receipt]
    tables: dict[int, Receipt]
    pins: dict[int, Receipt]
    indexes: dict[int, Receipt]

    def receipts(self) -> Iterator[Receipt]:
        """All of them."""
        for found in (self.cuts, self.tables, self.pins, self.indexes):
            yield from found.values()

    def reports(self) -> list[tuple[Step, StageReport]]:
        """What the finished tasks did, one report per step."""
        return merge_reports(self.receipts())

    def vectors_to_cut(self, vectors: VectorSet) -> list[VectorGroup]:
        """The row groups of the vectors that must be cut."""
        return [group for group in vector_groups(vectors) if group.part not in self.cuts]

    def pieces(self) -> list[FileEntry]:
        """What was cut for shards that have no table."""
        return [entry for receipt in self.cuts.values() for entry in receipt.staged if entry.part not in self.tables]

    def shard_tables(self) -> list[FileEntry]:
        """The vector tables that are there."""
        return [entry for receipt in self.tables.values() for entry in receipt.staged]

    def unindexed(self) -> list[FileEntry]:
        """Files of pin_embeddings without an index."""
        return [
            entry
            for shard, receipt in self.pins.items()
            if shard not in self.indexes
            for entry in receipt.reports[Step.EMBED_PINS].files["pin_embeddings"]
        ]


@dataclasses.dataclass(frozen=True)
class Finished:
    """The tasks of a run that an earlier attempt finished, as far as this one builds on them.

    A task counts only if the tasks that it was made from count too. A slice with a user that failed does not count:
    what made them fail may be mended.

    Attributes:
        logs: Row groups of the logs, by task; none unless every bucket's histories are done, since the rows of the
            other buckets must be read again.
        histories, slices, snapshots: By bucket; by (bucket, number); by bucket.
        pin_branch: Of the pins.
    """

    logs: dict[str, Receipt]
    histories: dict[int, Receipt]
    slices: dict[tuple[int, int], Receipt]
    snapshots: dict[int, Receipt]
    pin_branch: CompletedPins

    def reports(self) -> list[tuple[Step, StageReport]]:
        """What the finished tasks did, one report per step."""
        users = (self.logs, self.histories, self.slices, self.snapshots)
        return merge_reports([*(r for found in users for r in found.values()), *self.pin_branch.receipts()])

    def logs_to_read(self, groups: Sequence[RowGroup]) -> list[RowGroup]:
        """The row groups that must be read."""
        return [group for group in groups if group.part not in self.logs]

    def open_buckets(self) -> list[OpenBucket]:
        """Buckets whose histories are done and some of whose slices are not embedded."""
        found = []
        for bucket, receipt in self.histories.items():
            numbers = frozenset(number for b, number in self.slices if b == bucket)
            if len(numbers) < _slices(receipt):
                (active,) = receipt.staged
                found.append(
                    OpenBucket(bucket, receipt.reports[Step.UPDATE_HISTORIES].files["histories"], active, numbers)
                )
        return found

    def embedded(self) -> list[tuple[int, FileEntry]]:
        """(bucket, file) of the finished slices, of buckets without a snapshot."""
        return [
            (bucket, entry)
            for (bucket, _), receipt in self.slices.items()
            if bucket not in self.snapshots
            for entry in receipt.staged
        ]

    def describe(self) -> str:
        """What is taken over, in words; empty if nothing is."""
        counts = {
            "histories": len(self.histories),
            "embedded slices": len(self.slices),
            "snapshots": len(self.snapshots),
            "vector tables": len(self.pin_branch.tables),
            "shards of pins": len(self.pin_branch.pins),
            "indexes": len(self.pin_branch.indexes),
        }
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


NOTHING = Finished({}, {}, {}, {}, CompletedPins({}, {}, {}, {}))


def _slices(bucket: Receipt) -> int:
    return bucket.reports[Step.UPDATE_HISTORIES].counters[Counter.SLICES]


def _last_number(part: str) -> int:
    return int(part.rpartition("-")[2])


def _receipts(run: RunFolder, stage: str, key: Callable[[str], Any]) -> dict[Any, Receipt]:
    """The finished tasks of a step, by what `key` makes of their names."""
    return {key(part): found for part, found in read_receipts(run.root, run.staging, stage).items()}


def find_completed_pins(run: RunFolder, shards: int) -> CompletedPins:
    """Reads the receipts of a run's pin branch; on its first attempt there are none."""
    tables = _receipts(run, Step.SHARD_PINS, _last_number)
    open_shards = set(range(shards)) - tables.keys()
    cuts = {
        part: found
        for part, found in _receipts(run, Step.CUT_VECTORS, str).items()
        if open_shards <= {entry.part for entry in found.staged}
    }
    embedded = _receipts(run, Step.EMBED_PINS, _last_number)
    indexes = _receipts(run, Step.BUILD_INDEXES, _last_number)
    indexed = {shard: found for shard, found in indexes.items() if shard in embedded}
    return CompletedPins(cuts, tables, embedded, indexed)


def find_finished(run: Run) -> Finished:
    """Reads the receipts of a run; on its first attempt there are none."""
    buckets = _receipts(run, Step.UPDATE_HISTORIES, _last_number)
    slices = {
        key: found
        for key, found in _receipts(run, Step.EMBED_USERS, slice_key).items()
        if key[0] in buckets and not found.reports[Step.EMBED_USERS].failures
    }
    whole = {
        bucket for bucket, receipt in buckets.items() if all((bucket, n) in slices for n in range(_slices(receipt)))
    }
    merged = {
        bucket: found for bucket, found in _receipts(run, Step.MERGE_SNAPSHOT, _last_number).items() if bucket in whole
    }
    logs = _receipts(run, Step.READ_LOGS, str) if len(buckets) == run.layout.user_buckets else {}
    return Finished(logs, buckets, slices, merged, find_completed_pins(run, run.layout.pin_shards))
