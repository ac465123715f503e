"""Batches of users put into the order of their keys, of which memory holds a bounded part: the rest lies in a file.

Buckets of users are drawn by a hash, so that each has users from all over the keys. A tree into which they are put
bucket by bucket is gone through once a bucket, and its pages are left half empty.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

PIECE_USERS = 100_000  # about as many are read back at once
JOINED = 1000  # values that are written at once
SAMPLE = 256  # one user of so many says where the pieces begin

Sorted = tuple[np.ndarray, list[bytes]]  # user_id int64 [N] ascending as uint64, values


@dataclasses.dataclass(frozen=True)
class _Run:
    """A sorted part of the users whose values lie in the file, one after the other.

    Attributes:
        ids: uint64 [N], ascending.
        offsets: int64 [N + 1], where each value begins in the file.
    """

    ids: np.ndarray
    offsets: np.ndarray


class SortedBatches:
    """Takes batches in any order and gives all their users in the order of `user_id` seen as uint64.

    That is the order of ids as 8 bytes, big-endian, two's complement. A user who comes twice is given twice, in the
    order in which the two came.

    Args:
        folder: Where the file is made if there is more than `held_bytes`; it has no name and goes with the process.
        held_bytes: Bound on the values in memory. Beside it 16 bytes a user are held of what lies in the file.
    """

    def __init__(self, folder: str, held_bytes: int):
        self._folder = folder
        self._held_bytes = held_bytes
        self._held: list[tuple[np.ndarray, list[bytes]]] = []
        self._bytes = 0
        self._runs: list[_Run] = []
        self._file: IO[bytes] | None = None

    def add(self, user_ids: np.ndarray, values: list[bytes]) -> None:
        """Takes a batch.

        Args:
            user_ids: int64 [N].
            values: As many, of any sizes.

        Raises:
            ValueError: another number of values than of users.
            OSError: the file cannot be written.
        """
        if len(user_ids) != len(values):
            raise ValueError(f"{len(user_ids)} users and {len(values)} values")
        if values:
            self._held.append((np.asarray(user_ids, np.int64), values))
            self._bytes += sum(map(len, values))
        if self._bytes > self._held_bytes:
            self._write_run()

    def pieces(self) -> Iterator[Sorted]:
        """All that was added, piece by piece; may be asked for once."""
        if not self._runs:
            if self._held:
                yield _in_order(self._held)
            return
        self._write_run()
        edges = _edges(self._runs)
        cuts = [[0, *np.searchsorted(run.ids, edges).tolist(), len(run.ids)] for run in self._runs]
        for at in range(len(edges) + 1):
            bounds = [(cut[at], cut[at + 1]) for cut in cuts]
            if any(start < end for start, end in bounds):
                yield self._read(bounds)

    def _write_run(self) -> None:
        if not self._held:
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)
        ids, values = _in_order(self._held)
        self._held, self._bytes = [], 0
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        self._runs.append(_Run(ids.view(np.uint64), self._file.tell() + np.concatenate([[0], np.cumsum(sizes)])))
        for start in range(0, len(values), JOINED):
            self._file.write(b"".join(values[start : start + JOINED]))

    def _read(self, bounds: list[tuple[int, int]]) -> Sorted:
        """The users between two rows of each run, together."""
        assert self._file is not None
        ids, sizes, data = [], [], []
        for run, (start, end) in zip(self._runs, bounds, strict=True):
            offsets = run.offsets[start : end + 1]
            ids.append(run.ids[start:end])
            sizes.append(np.diff(offsets))
            self._file.seek(int(offsets[0]))
            data.append(self._file.read(int(offsets[-1] - offsets[0])))
        of_users, all_of_it = np.concatenate(ids), b"".join(data)
        ends = np.cumsum(np.concatenate(sizes))
        order = np.argsort(of_users, kind="stable")
        starts = (ends - np.concatenate(sizes))[order]
        values = [all_of_it[low:high] for low, high in zip(starts.tolist(), ends[order].tolist(), strict=True)]
        return of_users[order].view(np.int64), values

    def close(self) -> None:
        """Gives the file's room back."""
        if self._file is not None:
            self._file.close()


def _edges(runs: list[_Run]) -> np.ndarray:
    """uint64: ids at which a piece ends and the next begins, drawn from a sample of every run."""
    sample = np.sort(np.concatenate([run.ids[::SAMPLE] for run in runs]))
    step = max(PIECE_USERS // SAMPLE, 1)
    return sample[step::step]


def _in_order(batches: list[tuple[np.ndarray, list[bytes]]]) -> Sorted:
    ids = np.concatenate([user_ids for user_ids, _ in batches])
    values = list(itertools.chain.from_iterable(values for _, values in batches))
    order = np.argsort(ids.view(np.uint64), kind="stable")
    return ids[order], [values[row] for row in order.tolist()]
