"""Stores that several processes may bring one upload to: begun in one place, written part by part, finished in one.

A part is a bucket of users. Which parts are there stands in the store itself, beside the note of the publish, under
`<namespace>:published`: a server that forgets one forgets the other, and whoever writes under an old fence cannot say
of a newer publish that a part of it is done.
"""

import abc
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from stores.kv.base import Batch, Current, Generation, KeyValueStore, PublishNote, UploadResult

OF = "of"  # the field of `<namespace>:published` that says which publish its parts belong to


@dataclasses.dataclass(frozen=True)
class Upload:
    """An upload under way, as every handle that shares it knows it; small and picklable.

    Attributes:
        generation, fresh, current, note: As `KeyValueStore.upload` takes them.
        fence: The number that the handle raised that began it; every write compares it.
        server: What changes when the server starts again.
        done: Part -> what was sent of it, by an attempt that was cut off.
    """

    generation: str
    fresh: bool
    current: Current
    note: PublishNote | None
    fence: int | None
    server: Any
    done: dict[int, UploadResult] = dataclasses.field(default_factory=dict, hash=False)


class PartedStore(KeyValueStore):
    """What a server's store adds to `KeyValueStore`; the whole `upload` is made of it."""

    _fence: int | None

    @contextlib.contextmanager
    def join_writes(self, fence: int | None) -> Iterator[None]:
        """Lets this handle write under the fence that another handle raised, as long as nobody raised it since."""
        self._fence = fence
        try:
            yield
        finally:
            self._fence = None

    def begin_upload(
        self, generation: str, *, fresh: bool, current: Current, note: PublishNote | None = None, by: str = ""
    ) -> Upload:
        """Leaves the note and makes room; or goes on where an upload with this very note was cut off.

        For a handle that holds the writes. What was done counts only if no server has started since: one that came
        back from an older copy of its memory has the note and lacks the values.

        Args:
            by: Who publishes; `writes_of` tells the same one the number again.
        """
        with self._explain():
            server, of, before = self._server(), self._progress_of(note, by), self._read_progress()
            done = self._done(of, before)
            if done is None:
                if note:
                    self._write("SET", self._key("publishing"), note.to_bytes())
                if before:
                    self._write("DEL", self._key("published"))
                if fresh:
                    self._clear(generation)
                    unfinished = Generation(None, current.model_digest, 0)
                    self._write("HSET", self._key("generations"), generation, unfinished.to_bytes())
            if note:  # last: from here on parts are left out that are done
                self._write("HSET", self._key("published"), OF, json.dumps(of).encode())
            return Upload(generation, fresh, current, note, self._fence, server, done or {})

    def upload_part(
        self, upload: Upload, part: int | None, batches: Iterable[Batch], deletes: Iterable[np.ndarray]
    ) -> UploadResult:
        """Writes values, then deletes, and notes that the part is done; may be repeated.

        Args:
            part: None: nothing is noted.
            deletes: Read after `batches` is exhausted.
        """
        sent = deleted = 0

        def chunks() -> Iterator[tuple[np.ndarray, list[bytes]]]:
            nonlocal sent
            for user_ids, values in batches:
                at = 0
                for ids in self._chunks(user_ids):
                    yield ids, values[at : at + len(ids)]
                    at += len(ids)
                sent += at

        with self._explain():
            stored = self._put_all(upload.generation, chunks())
            for user_ids in deletes:
                deleted += sum(self._delete(upload.generation, ids) for ids in self._chunks(user_ids))
            if part is not None and upload.note:
                self._write("HSET", self._key("published"), part, json.dumps([sent, deleted, stored]).encode())
        return UploadResult(sent, deleted, stored)

    def count_stored(self, upload: Upload, user_ids: np.ndarray) -> int:
        """How many of some users the store says it has, asked now."""
        with self._explain():
            return self._exist_all(upload.generation, self._chunks(user_ids))

    def finish_upload(self, upload: Upload, sent: int, stored: int, confirm: Callable[[], None]) -> None:
        """Moves `current`, once all parts are there.

        Args:
            sent: Values of all parts.
            stored: Those that were counted after the last was sent; compared where the generation is fresh.
            confirm: As `upload` takes it.

        Raises:
            StoreError: as `upload`.
        """
        with self._explain():
            if upload.fresh:
                self.check_count(sent, stored)
            if self._server() != upload.server:
                raise self._forgotten()
            confirm()
            self._move(upload.current, upload.note)

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
        upload = self.begin_upload(generation, fresh=fresh, current=current, note=note)
        written: list[np.ndarray] = []

        def seen() -> Iterator[Batch]:
            for user_ids, values in batches:
                yield user_ids, values
                if fresh:
                    written.append(np.asarray(user_ids))

        result = self.upload_part(upload, None, seen(), deletes)
        # Once more, now that all are sent: what came later may have evicted what came first.
        stored = sum(self.count_stored(upload, ids) for ids in written) if fresh else result.stored
        self.finish_upload(upload, result.sent, stored, confirm)
        return dataclasses.replace(result, stored=stored)

    def writes_of(self, by: str) -> int | None:
        """The fence that somebody raised for a publish that is under way, if nobody raised it since; else None."""
        with self._explain():
            of = self._read_progress().get(OF, {})
            known = by and isinstance(of, dict) and of.get("by") == by
            return of["fence"] if known and of.get("fence") == self._read_fence() else None

    def _progress_of(self, note: PublishNote | None, by: str) -> dict[str, Any]:
        """What says of parts which publish they are done for."""
        digest = hashlib.sha256(note.to_bytes()).hexdigest() if note else ""
        return {"note": digest, "servers": self._run_ids(), "by": by, "fence": self._fence}

    def _done(self, of: dict[str, Any], found: dict[str, Any]) -> dict[int, UploadResult] | None:
        """The parts that are done; None where the publish has not begun, or cannot be relied on.

        Args:
            found: What the store has under `published`.
        """
        before = found.get(OF)
        if not of["note"] or not of["servers"] or not isinstance(before, dict):
            return None
        if any(before.get(name) != of[name] for name in ("note", "servers")):
            return None
        note = self.note()
        if note is None or hashlib.sha256(note.to_bytes()).hexdigest() != of["note"]:
            return None
        return {int(part): UploadResult(*counts) for part, counts in found.items() if part != OF}

    def _read_progress(self) -> dict[str, Any]:
        found = self._client.hgetall(self._key("published"))
        with contextlib.suppress(ValueError):  # what cannot be read tells nothing
            return {name.decode(): json.loads(data) for name, data in found.items()}
        return {}

    def _read_fence(self) -> int | None:
        found = self._client.get(self._key("fence"))
        return None if found is None else int(found)

    def _run_ids(self) -> list[str]:
        """Of every server that writes; nothing where it may not be asked."""
        ids = [str(info.get("run_id", "")) for info in self._infos("server")]
        return sorted(ids) if all(ids) else []

    def _put_all(self, generation: str, chunks: Iterable[tuple[np.ndarray, list[bytes]]]) -> int:
        """Stores values chunk by chunk; returns how many of the keys the store then says it has."""
        return sum(self._put(generation, ids, values) for ids, values in chunks)

    def _exist_all(self, generation: str, chunks: Iterable[np.ndarray]) -> int:
        return sum(self._exist(generation, ids) for ids in chunks)

    _client: Any

    @abc.abstractmethod
    def _explain(self) -> contextlib.AbstractContextManager[None]: ...

    @abc.abstractmethod
    def _key(self, name: str) -> str: ...

    @abc.abstractmethod
    def _write(self, command: str, key: str, *words: Any) -> Any: ...

    @abc.abstractmethod
    def _chunks(self, user_ids: np.ndarray) -> Iterator[np.ndarray]: ...

    @abc.abstractmethod
    def _put(self, generation: str, ids: np.ndarray, values: list[bytes]) -> int: ...

    @abc.abstractmethod
    def _exist(self, generation: str, ids: np.ndarray) -> int: ...

    @abc.abstractmethod
    def _delete(self, generation: str, ids: np.ndarray) -> int: ...

    @abc.abstractmethod
    def _clear(self, generation: str) -> None: ...

    @abc.abstractmethod
    def _infos(self, section: str) -> list[dict[str, Any]]: ...

    @abc.abstractmethod
    def _server(self) -> Any: ...

    @abc.abstractmethod
    def _forgotten(self) -> Exception: ...

    @abc.abstractmethod
    def _move(self, current: Current, note: PublishNote | None) -> None: ...
