"""The embedded store: one LMDB environment, one writer, readers that never wait."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import lmdb
import numpy as np

from stores.errors import StoreError
from stores.kv.base import (
    Batch,
    Content,
    Current,
    Generation,
    KeyValueStore,
    PublishNote,
    UploadResult,
    after_move,
    contents_from_bytes,
    read_generations,
    served_generation,
)
from stores.kv.lmdb_append import nothing_after, put_sorted
from stores.kv.sorted_batches import SortedBatches
from stores.memory import available_memory
from stores.upgrades import write_record

MAP_BYTES = 1 << 40  # address space, not disk: the file grows as it is written
MAX_READERS = 1024
# For another writer that shows no sign of life: LMDB itself would wait for one that is stopped without end or a word.
WAIT_S = 120.0
# Of values in memory while they are sorted: an eighth of what is there to be had, within these bounds. What is more
# lies in a file beside the data, and takes a quarter longer.
LEAST_HELD_BYTES, MOST_HELD_BYTES, HELD_SHARE = 256 << 20, 1 << 30, 1 / 8
FORK_WAIT_S = 2.0  # for the read transactions of other threads, before a process is forked


def _held_bytes() -> int:
    """How much of what is put in order may be in memory."""
    return int(min(max(HELD_SHARE * available_memory(), LEAST_HELD_BYTES), MOST_HELD_BYTES))


@dataclasses.dataclass
class _Opened:
    environment: lmdb.Environment
    writable: bool
    holders: int


_OPENED: dict[str, _Opened] = {}  # by real path
_LOCK = threading.Lock()
_IDLE = threading.Condition(_LOCK)
_BUSY = 0  # transactions of this process that are open
_INHERITED: list[_Opened] = []


@contextlib.contextmanager
def _transaction() -> Iterator[None]:
    """Counts a transaction while it is open: a fork waits for it."""
    global _BUSY
    with _LOCK:
        _BUSY += 1
    try:
        yield
    finally:
        with _LOCK:
            _BUSY -= 1
            _IDLE.notify_all()


def _before_fork() -> None:
    _LOCK.acquire()
    _IDLE.wait_for(lambda: not _BUSY, FORK_WAIT_S)


def _after_fork_in_parent() -> None:
    _LOCK.release()


def _after_fork_in_child() -> None:
    """Closes what was inherited: the child opens environments of its own.

    Reads in an inherited one take places in the table of readers under the parent's pid, and nobody gives them back.
    Closing it also ends the transactions that it had open, in the table of the parent: so a fork waits until there are
    none. Where one goes on, what was inherited is left as it is, and the child cannot use that store.
    """
    global _LOCK, _IDLE, _BUSY
    inherited = list(_OPENED.values())
    if _BUSY:
        _INHERITED.extend(inherited)
    else:
        for opened in inherited:
            opened.environment.close()
    _OPENED.clear()
    _LOCK = threading.Lock()
    _IDLE, _BUSY = threading.Condition(_LOCK), 0


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _may_write(path: str) -> bool:
    return os.access(path, os.W_OK)


class LmdbStore(KeyValueStore):
    """Key: `<namespace>:<generation>:u:` and the user id as 8 bytes, big-endian, two's complement.

    A publish is ONE write transaction: readers see all of it or nothing. Who writes has locked `publish.lock`, a file
    beside the data that holds its pid: LMDB's own lock is waited for without end.
    """

    def __init__(self, directory: str, namespace: str, url_shown: str, map_bytes: int = MAP_BYTES):
        self.url_shown = url_shown
        self.namespace = namespace
        self._directory = os.path.realpath(directory)
        self._map_bytes = map_bytes
        self._held: _Opened | None = None
        self._writing_to: int | None = None  # the lock's file, while this handle holds it

    def _open(self, write: bool) -> lmdb.Environment:
        """The environment of this process, which all stores on the directory share; LMDB allows no second one.

        It is opened for writing wherever that is allowed: to exchange it later would take it from readers of other
        threads that are in the middle of a transaction.
        """
        with self._explain(), _LOCK:
            opened = _OPENED.get(self._directory)
            if opened is None or (write and not opened.writable):
                if write:
                    os.makedirs(self._directory, exist_ok=True)
                if opened is not None:
                    opened.environment.close()
                writable = write or all(map(_may_write, (self._directory, f"{self._directory}/data.mdb")))
                environment = lmdb.open(
                    self._directory,
                    map_size=self._map_bytes,
                    readonly=not writable,
                    create=write,
                    readahead=False,
                    max_readers=MAX_READERS,
                )
                if opened is None:
                    opened = _OPENED[self._directory] = _Opened(environment, writable, 0)
                opened.environment, opened.writable = environment, writable
            if self._held is not opened:
                opened.holders += 1
                self._held = opened
            if write:  # pages that a killed reader was reading are used again
                opened.environment.reader_check()
            return opened.environment

    @contextlib.contextmanager
    def hold_writes(self, what: str) -> Iterator[None]:
        with self._explain():
            os.makedirs(self._directory, exist_ok=True)
            descriptor = os.open(os.path.join(self._directory, "publish.lock"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}: {what}".encode(), 0)
            self._writing_to = descriptor
            yield
        finally:
            self._writing_to = None
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # whatever was forked meanwhile has the file open too
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        """Waits for the lock as long as whoever has it shows that it goes on."""
        seen, give_up = 0, 0.0
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if seen != (seen := os.fstat(descriptor).st_mtime_ns):
                    give_up = time.monotonic() + WAIT_S
                if time.monotonic() < give_up:
                    time.sleep(0.05)
                    continue
            holder = os.pread(descriptor, 500, 0).decode(errors="replace") or "a process that is just starting"
            raise StoreError(
                f"{self.url_shown}: held for writing and not written to for {WAIT_S:g} s, by {holder}; wait for it, or "
                "end it if it is stopped: nothing of what it wrote is visible"
            )

    def _show_life(self) -> None:
        """Tells whoever waits for the lock that this handle goes on."""
        if self._writing_to is not None:
            os.utime(self._writing_to)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[lmdb.Transaction]:
        """A write transaction; the lock is taken first, unless this handle holds it."""
        with contextlib.nullcontext() if self._writing_to is not None else self.hold_writes(what), self._explain():
            with _transaction(), self._open(write=True).begin(write=True) as transaction:
                yield transaction
            self._show_life()

    @contextlib.contextmanager
    def _reading(self) -> Iterator["lmdb.Transaction[bytes]"]:
        """A read transaction: everything that it sees is of one moment."""
        with self._explain(), _transaction(), self._open(write=False).begin() as transaction:
            yield transaction

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            text = str(error)
            if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text:
                raise StoreError(f"{self.url_shown}: the disk is full; free some space and run it again") from None
            if "Permission" in text or getattr(error, "errno", None) in (errno.EACCES, errno.EROFS):
                raise StoreError(f"{self.url_shown}: not writable or readable by this user; change its owner") from None
            if isinstance(error, (FileExistsError, NotADirectoryError)) or "Not a directory" in text:
                raise StoreError(f"{self.url_shown}: is a file; LMDB needs a folder, name another") from None
            if "already open in this process" in text:
                raise StoreError(
                    f"{self.url_shown}: this process was forked while another thread was writing; fork before that"
                ) from None
            if isinstance(error, lmdb.MapFullError):
                raise StoreError(
                    f"{self.url_shown}: the map of {self._map_bytes >> 20:,} MiB is full; name a larger one, "
                    f"--kv 'lmdb://{self._directory}?map_size=64GiB'"
                ) from None
            if isinstance(error, lmdb.MemoryError) or "Cannot allocate memory" in text:
                raise StoreError(
                    f"{self.url_shown}: no room for a map of {self._map_bytes >> 20:,} MiB, which is address space, no "
                    "memory; raise the limit (ulimit -v), or name a smaller map, larger than the store will ever be: "
                    f"--kv 'lmdb://{self._directory}?map_size=64GiB'"
                ) from None
            if isinstance(error, lmdb.ReadersFullError):
                raise StoreError(
                    f"{self.url_shown}: all {MAX_READERS} places for readers are taken; close clients that are not used"
                ) from None
            if isinstance(error, (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError)):
                raise StoreError(f"{self.url_shown}: not an LMDB environment or damaged ({text}); remove it") from None
            raise StoreError(f"{self.url_shown}: {text}") from None

    def _prefix(self, generation: str) -> bytes:
        return f"{self.namespace}:{generation}:u:".encode()

    @property
    def _current_key(self) -> bytes:
        return f"{self.namespace}:current".encode()

    def _keys(self, generation: str, user_ids: np.ndarray) -> list[bytes]:
        prefix = self._prefix(generation)
        data = np.asarray(user_ids, ">i8").tobytes()
        return [prefix + data[start : start + 8] for start in range(0, len(data), 8)]

    def check(self) -> None:
        with self._writing("looking whether it can be written") as transaction:
            transaction.put(f"{self.namespace}:check".encode(), b"")
            transaction.delete(f"{self.namespace}:check".encode())

    def current(self) -> Current | None:
        if not os.path.exists(os.path.join(self._directory, "data.mdb")):
            return None
        with self._reading() as transaction:
            data = transaction.get(self._current_key)
        return None if data is None else Current.from_bytes(data, self.url_shown)

    def get_many(self, generation: str, user_ids: np.ndarray) -> list[bytes | None]:
        keys = self._keys(generation, user_ids)
        with self._reading() as transaction:
            return [transaction.get(key) for key in keys]

    def get_many_then_current(self, generation: str, user_ids: np.ndarray) -> tuple[list[bytes | None], Current | None]:
        keys = self._keys(generation, user_ids)
        with self._reading() as transaction:
            values = [transaction.get(key) for key in keys]
            data = transaction.get(self._current_key)
        return values, None if data is None else Current.from_bytes(data, self.url_shown)

    def note(self) -> None:
        return None  # a publish is there as a whole or not at all

    def contents(self) -> dict[str, Content]:
        if self.current() is None:
            return {}
        with self._reading() as transaction:
            return self._read_contents(transaction)

    def set_contents(self, contents: dict[str, Content | None]) -> None:
        with self._writing("noting what generations hold") as transaction:
            self._write_contents(transaction, contents)

    def _read_contents(self, transaction: lmdb.Transaction) -> dict[str, Content]:
        found = {}
        with contextlib.suppress(ValueError, AttributeError):  # what cannot be read tells nothing
            data = json.loads(bytes(transaction.get(f"{self.namespace}:contents".encode()) or b"{}"))
            found = {name: json.dumps(entry).encode() for name, entry in data.items()}
        return contents_from_bytes(found)

    def _write_contents(self, transaction: lmdb.Transaction, changed: dict[str, Content | None]) -> None:
        known = self._read_contents(transaction) | changed
        entries = {name: dataclasses.asdict(entry) for name, entry in known.items() if entry is not None}
        transaction.put(f"{self.namespace}:contents".encode(), json.dumps(entries).encode())

    def upload(
        self,
        generation: str,
        batches: Iterable[Batch],
        *,
        deletes: Iterable[np.ndarray],
        fresh: bool,
        current: Current,
        note: PublishNote | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> UploadResult:
        deleted = 0
        with self._writing(f"publishing {current.release}") as transaction:
            if fresh:
                self._clear(transaction, generation)
            before = transaction.stat()["entries"]
            with nothing_after(transaction, self._prefix(generation)) if fresh else contextlib.nullcontext():
                sent = self._put_batches(transaction, generation, batches)
            stored = transaction.stat()["entries"] - before if fresh else sent
            for user_ids in deletes:
                deleted += sum(transaction.delete(key) for key in self._keys(generation, user_ids))
            if fresh:
                self.check_count(sent, stored)
            confirm()
            data = transaction.get(self._current_key)
            served = Current.from_bytes(bytes(data), self.url_shown) if data else None
            known = self._read_generations(transaction)
            if fresh:
                known.pop(generation, None)  # of another generation, which happened to have the name
            self._write_generations(transaction, known | after_move(known, served, current, time.time()))
            transaction.put(self._current_key, current.to_bytes())
            if note:
                self._write_contents(transaction, {generation: note.target})
        return UploadResult(sent, deleted, stored)

    def _put_batches(self, transaction: lmdb.Transaction, generation: str, batches: Iterable[Batch]) -> int:
        """Puts the users of all batches in the order of their keys; returns how many there were."""
        sent = 0
        with contextlib.closing(SortedBatches(self._directory, _held_bytes())) as ordered:
            for user_ids, values in batches:
                ordered.add(user_ids, values)
                sent += len(values)
                self._show_life()
            with transaction.cursor() as cursor:
                for user_ids, values in ordered.pieces():
                    put_sorted(cursor, self._keys(generation, user_ids), values)
                    self._show_life()
        return sent

    @property
    def _generations_key(self) -> bytes:
        return f"{self.namespace}:generations".encode()

    def _read_generations(self, transaction: lmdb.Transaction) -> dict[str, Generation]:
        return read_generations(bytes(transaction.get(self._generations_key) or b"{}"), self.url_shown)

    def _write_generations(self, transaction: lmdb.Transaction, known: dict[str, Generation]) -> None:
        entries = {name: write_record(entry) for name, entry in known.items()}
        transaction.put(self._generations_key, json.dumps(entries).encode())

    def generations(self) -> dict[str, Generation]:
        now = self.current()
        if now is None:
            return {}
        with self._reading() as transaction:
            known = self._read_generations(transaction)
        return known | {now.generation: served_generation(now, known)}

    def delete_generation(self, generation: str) -> int:
        self.check_not_served(generation)
        number = self.count(generation)
        with self._writing(f"removing generation {generation}") as transaction:
            self._clear(transaction, generation)
            known = self._read_generations(transaction)
            known.pop(generation, None)
            self._write_generations(transaction, known)
            self._write_contents(transaction, {generation: None})
        return number

    def delete_users(self, generation: str, user_ids: np.ndarray) -> int:
        with self._writing("removing users") as transaction:
            return sum(transaction.delete(key) for key in self._keys(generation, user_ids))

    def _clear(self, transaction: lmdb.Transaction, generation: str) -> None:
        prefix = self._prefix(generation)
        with transaction.cursor() as cursor:
            found, number = cursor.set_range(prefix), 0
            while found and bytes(cursor.key()).startswith(prefix):
                found, number = cursor.delete(), number + 1
                if number % 100_000 == 0:
                    self._show_life()

    def count(self, generation: str) -> int:
        prefix, number = self._prefix(generation), 0
        with self._reading() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if not bytes(key).startswith(prefix):
                        break
                    number += 1
        return number

    def close(self) -> None:
        with _LOCK:
            opened, self._held = self._held, None
            if opened is not None and opened is _OPENED.get(self._directory):  # not one of before a fork
                opened.holders -= 1
                if opened.holders == 0:
                    opened.environment.close()
                    del _OPENED[self._directory]
