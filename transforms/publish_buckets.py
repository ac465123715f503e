"""The users of a release, bucket by bucket, on their way into a store: what differs, and as a value."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from stores.files import FileEntry, Root
from stores.kv.base import Batch, UploadResult
from stores.kv.codec import encode_values
from stores.kv.parts import PartedStore, Upload
from stores.manifests import Manifest, read_manifest
from stores.schemas import from_binary_column
from stores.tables import read_files
from stores.user_lists import read_erased

EMBEDDINGS = "user_embeddings"


def values_of(rows: pa.Table, manifest: Manifest) -> list[bytes]:
    """What the store holds for each row of a snapshot."""
    day = rows["embedding_date"].cast(pa.int32()).to_numpy()
    return encode_values(from_binary_column(rows["embedding"]), day, manifest.model_digest)


@dataclasses.dataclass(frozen=True)
class Compared:
    """A snapshot beside those that may be in a store: bucket -> files.

    Attributes:
        before: Of what may be there, one model's; one without a bucket where everything is new.
        after: Of the snapshot.
    """

    before: list[dict[int, list[FileEntry]]]
    after: dict[int, list[FileEntry]]

    @staticmethod
    def of(bases: Sequence[Manifest], new: Manifest) -> "Compared":
        return Compared([base.parts(EMBEDDINGS) for base in bases] or [{}], new.parts(EMBEDDINGS))

    def buckets(self) -> list[int]:
        """Those that not all have in the same files."""
        every = sorted(set(self.after).union(*self.before))
        return [bucket for bucket in every if any(one.get(bucket) != self.after.get(bucket) for one in self.before)]

    def changed_rows(self, root: Root, bucket: int) -> tuple[np.ndarray, pa.Table]:
        """Compares one of `buckets`.

        Returns:
            user_id int64 of the users that some base has and the snapshot has not; the rows of the snapshot that one of
            the bases lacks or has with another vector or day.
        """
        held, mine = [one.get(bucket) for one in self.before], self.after.get(bucket)
        shape = mine or next(entries for entries in held if entries)
        rows = read_files(root, shape, verify=True)
        rows = rows if mine is not None else rows.slice(0, 0)
        ids = rows["user_id"].to_numpy()
        same, gone = np.ones(len(ids), bool), np.empty(0, np.int64)
        for entries in held:
            if entries == mine:
                continue
            stored = read_files(root, entries, verify=True) if entries else rows.slice(0, 0)
            same &= _is_same(rows, stored)
            old = stored["user_id"].to_numpy()
            gone = np.union1d(gone, old[~np.isin(old, ids)])
        return gone, rows.filter(pa.array(~same))


def _is_same(rows: pa.Table, stored: pa.Table) -> np.ndarray:
    """bool [N]: whether `stored` has a row's user with the same vector and day."""
    ids, old_ids = rows["user_id"].to_numpy(), stored["user_id"].to_numpy()
    _, at, old_at = np.intersect1d(ids, old_ids, assume_unique=True, return_indices=True)
    same = np.zeros(len(ids), bool)
    vectors, old_vectors = from_binary_column(rows["embedding"]), from_binary_column(stored["embedding"])
    days, old_days = rows["embedding_date"].to_numpy(), stored["embedding_date"].to_numpy()
    same[at] = (vectors[at].view(np.uint16) == old_vectors[old_at].view(np.uint16)).all(axis=1)
    same[at] &= days[at] == old_days[old_at]
    return same


def split_erased(gone: np.ndarray, rows: pa.Table, erased: np.ndarray) -> tuple[np.ndarray, pa.Table]:
    """Nobody in ROOT/erased is sent, though an erasure that was cut off may not have come to this release yet.

    Returns:
        The users to delete, the rows to send.
    """
    hit = np.isin(rows["user_id"].to_numpy(), erased)
    return np.concatenate([gone, rows["user_id"].to_numpy()[hit]]), rows.filter(pa.array(~hit))


def batches(
    root: Root, manifest: Manifest, compared: Compared, buckets: Iterable[int], gone: list[np.ndarray]
) -> Iterator[Batch]:
    """Users of some buckets to send and their values; users to delete are added to `gone`."""
    erased = read_erased(root)
    for bucket in buckets:
        deleted, rows = split_erased(*compared.changed_rows(root, bucket), erased)
        gone.append(deleted)
        if rows.num_rows:
            yield rows["user_id"].to_numpy(), values_of(rows, manifest)


@dataclasses.dataclass(frozen=True)
class Difference:
    """What is brought to a store, as whoever writes a bucket knows it; small and picklable.

    Attributes:
        release: That is published.
        bases: Releases of which the store may hold any value; users that differ from any of them are sent.
        upload: Under way.
    """

    release: str
    bases: tuple[str, ...]
    upload: Upload


class BucketWriter:
    """Writes buckets of one difference; any number of writers may share it, and a bucket may be written twice.

    Args:
        store: Under whose writes it writes.
    """

    def __init__(self, root: Root, store: PartedStore, difference: Difference):
        self._root, self._store, self._difference = root, store, difference
        self._manifest = read_manifest(root, difference.release)
        self._compared = Compared.of([read_manifest(root, base) for base in difference.bases], self._manifest)

    def buckets(self) -> list[int]:
        """Those to be written, or written already by an attempt that was cut off."""
        return self._compared.buckets()

    def write(self, bucket: int) -> UploadResult:
        """Brings the store to a bucket; one that is done is left alone.

        Raises:
            StoreError: the store failed. OvertakenError: another command writes by now.
        """
        upload = self._difference.upload
        if bucket in upload.done:
            return upload.done[bucket]
        gone: list[np.ndarray] = []
        rows = batches(self._root, self._manifest, self._compared, [bucket], gone)
        return self._store.upload_part(upload, bucket, rows, read_later(gone))

    def count(self, bucket: int) -> int:
        """How many users of a bucket the store has of those that were sent; for a fresh generation."""
        entries = self._compared.after.get(bucket, [])
        if not entries:
            return 0
        ids = read_files(self._root, entries, ["user_id"])["user_id"].to_numpy()
        return self._store.count_stored(self._difference.upload, ids[~np.isin(ids, read_erased(self._root))])


def read_later(gone: list[np.ndarray]) -> Iterator[np.ndarray]:
    """What is in a list once it is read, which is after the batches that fill it."""
    yield from gone


def add_results(results: Iterable[UploadResult]) -> UploadResult:
    """What several buckets came to."""
    total = UploadResult(0, 0, 0)
    for one in results:
        total = UploadResult(total.sent + one.sent, total.deleted + one.deleted, total.stored + one.stored)
    return total
