"""The embedded store: one LMDB environment, one writer, readers that never wait."""

import contextlib
import dataclasses
import errno
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator

import lmdb
import numpy as np

from stores.errors import StoreError
from stores.kv.base import Batch, Current, Generation, KeyValueStore, UploadResult, after_move, read_generations
from stores.upgrades import write_record

MAP_BYTES = 1 << 40  # address space, not disk: the file grows as it is written


@dataclasses.dataclass
class _Opened:
    environment: lmdb.Environment
    writable: bool
    holders: int


_OPENED: dict[str, _Opened] = {}  # by real path
_LOCK = threading.Lock()


def _may_write(path: str) -> bool:
    return os.access(path, os.W_OK)


class LmdbStore(KeyValueStore):
    """Key: `<namespace>:<generation>:u:` and the user id as 8 bytes, big-endian, two's complement.

    A publish is ONE write transaction: readers see all of it or nothing.
    """

    def __init__(self, directory: str, namespace: str, url_shown: str):
        self.url_shown = url_shown
        self.namespace = namespace
        self._directory = os.path.realpath(directory)
        self._holds = False

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
                    map_size=MAP_BYTES,
                    readonly=not writable,
                    create=write,
                    readahead=False,
                    max_readers=1024,
                )
                opened = _OPENED[self._directory] = _Opened(environment, writable, opened.holders if opened else 0)
            if not self._holds:
                opened.holders += 1
                self._holds = True
            return opened.environment

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
        with self._explain(), self._open(write=True).begin(write=True) as transaction:
            transaction.put(f"{self.namespace}:check".encode(), b"")
            transaction.delete(f"{self.namespace}:check".encode())

    def current(self) -> Current | None:
        if not os.path.exists(os.path.join(self._directory, "data.mdb")):
            return None
        with self._explain(), self._open(write=False).begin() as transaction:
            data = transaction.get(self._current_key)
        return None if data is None else Current.from_bytes(data, self.url_shown)

    def get_many(self, generation: str, user_ids: np.ndarray) -> list[bytes | None]:
        keys = self._keys(generation, user_ids)
        with self._explain(), self._open(write=False).begin() as transaction:
            return [transaction.get(key) for key in keys]

    def upload(
        self, generation: str, batches: Iterable[Batch], *, deletes: Iterable[np.ndarray], fresh: bool, current: Current
    ) -> UploadResult:
        sent = deleted = 0
        environment = self._open(write=True)
        with self._explain(), environment.begin(write=True) as transaction:
            if fresh:
                self._clear(transaction, generation)
            before = transaction.stat()["entries"]
            for user_ids, values in batches:
                order = np.argsort(np.asarray(user_ids).view(np.uint64), kind="stable")  # the order of the keys
                keys = self._keys(generation, np.asarray(user_ids)[order])
                # append=True would be faster and drop, without a word, whatever comes out of order.
                with transaction.cursor() as cursor:
                    cursor.putmulti(list(zip(keys, (values[i] for i in order), strict=True)))
                sent += len(keys)
            stored = transaction.stat()["entries"] - before if fresh else sent
            for user_ids in deletes:
                deleted += sum(transaction.delete(key) for key in self._keys(generation, user_ids))
            if fresh:
                self.check_count(sent, stored)
            data = transaction.get(self._current_key)
            served = Current.from_bytes(data, self.url_shown) if data else None
            known = self._read_generations(transaction)
            if fresh:
                known.pop(generation, None)  # of another generation, which happened to have the name
            self._write_generations(transaction, known | after_move(known, served, current, time.time()))
            transaction.put(self._current_key, current.to_bytes())
        return UploadResult(sent, deleted, stored)

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
        with self._explain(), self._open(write=False).begin() as transaction:
            known = self._read_generations(transaction)
        return known | after_move(known, None, now, 0.0)

    def delete_generation(self, generation: str) -> int:
        self.check_not_served(generation)
        number = self.count(generation)
        with self._explain(), self._open(write=True).begin(write=True) as transaction:
            self._clear(transaction, generation)
            known = self._read_generations(transaction)
            known.pop(generation, None)
            self._write_generations(transaction, known)
        return number

    def delete_users(self, generation: str, user_ids: np.ndarray) -> int:
        with self._explain(), self._open(write=True).begin(write=True) as transaction:
            return sum(transaction.delete(key) for key in self._keys(generation, user_ids))

    def _clear(self, transaction: lmdb.Transaction, generation: str) -> None:
        prefix = self._prefix(generation)
        with transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                found = cursor.delete()

    def count(self, generation: str) -> int:
        prefix, number = self._prefix(generation), 0
        with self._explain(), self._open(write=False).begin() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if not bytes(key).startswith(prefix):
                        break
                    number += 1
        return number

    def close(self) -> None:
        with _LOCK:
            opened = _OPENED.get(self._directory)
            if self._holds and opened is not None:
                opened.holders -= 1
                if opened.holders == 0:
                    opened.environment.close()
                    del _OPENED[self._directory]
            self._holds = False
