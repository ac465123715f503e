"""The production store: Redis, one server."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import redis
from redis import exceptions

from stores.errors import StoreError
from stores.kv.base import Batch, Current, Generation, KeyValueStore, UploadResult, after_move

CHUNK = 5000  # keys a command: past that a single command holds the server up
TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0


class RedisStore(KeyValueStore):
    """Key: `<namespace>:<generation>:u:<user_id>`, the id in decimal.

    While a release is published, users of it and of the one before may mix; each value is whole.

    Args:
        url: `redis://` or `rediss://`, with user and password where the server asks for them.
    """

    chunk = CHUNK

    def __init__(self, url: str, namespace: str, url_shown: str):
        self.url_shown = url_shown
        self.namespace = namespace
        with self._explain():
            self._client = self._connect(url, {"socket_connect_timeout": TIMEOUT_S, "socket_timeout": ANSWER_TIMEOUT_S})

    def _connect(self, url: str, options: dict[str, Any]) -> Any:
        return redis.Redis.from_url(url, **options)

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except exceptions.AuthenticationError:
            raise StoreError(
                f"{self.url_shown}: the server refuses the user or password; give them as redis://USER:PASSWORD@HOST"
            ) from None
        except exceptions.BusyLoadingError:
            raise StoreError(f"{self.url_shown}: still loading its data set; try again when it is done") from None
        except exceptions.ReadOnlyError:
            raise StoreError(f"{self.url_shown}: a read-only replica; give the primary's address") from None
        except exceptions.TimeoutError:
            raise StoreError(f"{self.url_shown}: no answer in time; is the server paused or overloaded?") from None
        except exceptions.OutOfMemoryError:
            raise StoreError(
                f"{self.url_shown}: the server is out of memory (maxmemory); give it more, or expire old generations"
            ) from None
        except (exceptions.ConnectionError, OSError) as error:
            if "certificate" in str(error).lower():
                raise StoreError(
                    f"{self.url_shown}: this machine does not trust the server's certificate; name the authority's, "
                    "rediss://HOST:PORT/DB?ssl_ca_certs=FILE"
                ) from None
            word = "refused" if "refused" in str(error).lower() else "failed"
            raise StoreError(f"{self.url_shown}: connection {word}; start the server or correct the URL") from None
        except exceptions.ResponseError as error:
            if "NOAUTH" in str(error) or "WRONGPASS" in str(error) or "NOPERM" in str(error):
                raise StoreError(f"{self.url_shown}: the server refuses the user or password") from None
            raise StoreError(f"{self.url_shown}: {error}") from None

    def _prefix(self, generation: str) -> str:
        return f"{self.namespace}:{generation}:u:"

    def _keys(self, generation: str, user_ids: np.ndarray) -> list[str]:
        prefix = self._prefix(generation)
        return [f"{prefix}{user}" for user in np.asarray(user_ids).tolist()]

    @property
    def _current_key(self) -> str:
        return f"{self.namespace}:current"

    def check(self) -> None:
        with self._explain():
            key = f"{self.namespace}:check"
            self._client.set(key, b"", px=1000)
            self._client.delete(key)

    def current(self) -> Current | None:
        with self._explain():
            data = self._client.get(self._current_key)
        return None if data is None else Current.from_bytes(data, self.url_shown)

    def get_many(self, generation: str, user_ids: np.ndarray) -> list[bytes | None]:
        found: list[bytes | None] = []
        with self._explain():
            for ids in self._chunks(user_ids):
                found += self._get(generation, ids)
        return found

    def upload(
        self, generation: str, batches: Iterable[Batch], *, deletes: Iterable[np.ndarray], fresh: bool, current: Current
    ) -> UploadResult:
        sent = deleted = stored = 0
        written: list[np.ndarray] = []
        with self._explain():
            server = self._server()
            if fresh:
                self._clear(generation)
                unfinished = Generation(None, current.model_digest, 0)
                self._client.hset(self._generations_key, generation, unfinished.to_bytes())
            for user_ids, values in batches:
                at = 0
                for ids in self._chunks(user_ids):
                    stored += self._put(generation, ids, values[at : at + len(ids)])
                    at += len(ids)
                sent += at
                if fresh:
                    written.append(np.asarray(user_ids))
            for user_ids in deletes:
                deleted += sum(self._delete(generation, ids) for ids in self._chunks(user_ids))
            if fresh:  # once more, now that all are sent: what came later may have evicted what came first
                stored = sum(self._exist(generation, ids) for user_ids in written for ids in self._chunks(user_ids))
                self.check_count(sent, stored)
            if self._server() != server:
                raise StoreError(
                    f"{self.url_shown}: the server was restarted meanwhile and may have lost what it held; readers "
                    "were not moved, publish again"
                )
            moved = after_move(self.generations(), self.current(), current, time.time())
            self._client.set(self._current_key, current.to_bytes())
            for name, entry in moved.items():
                self._client.hset(self._generations_key, name, entry.to_bytes())
        return UploadResult(sent, deleted, stored)

    @property
    def _generations_key(self) -> str:
        return f"{self.namespace}:generations"

    def generations(self) -> dict[str, Generation]:
        with self._explain():
            found = self._client.hgetall(self._generations_key)
        known = {name.decode(): Generation.from_bytes(data, self.url_shown) for name, data in found.items()}
        return known | after_move(known, None, now, 0.0) if (now := self.current()) else known

    def delete_generation(self, generation: str) -> int:
        self.check_not_served(generation)
        with self._explain():
            number = self.count(generation)
            self._clear(generation)
            self._client.hdel(self._generations_key, generation)
        return number

    def delete_users(self, generation: str, user_ids: np.ndarray) -> int:
        with self._explain():
            return sum(self._delete(generation, ids) for ids in self._chunks(user_ids))

    def _chunks(self, user_ids: np.ndarray) -> Iterator[np.ndarray]:
        user_ids = np.asarray(user_ids, np.int64)
        for start in range(0, len(user_ids), self.chunk):
            yield user_ids[start : start + self.chunk]

    def _get(self, generation: str, ids: np.ndarray) -> list[bytes | None]:
        return self._client.mget(self._keys(generation, ids))

    def _server(self) -> tuple[Any, Any]:
        """What changes when the server starts anew: its run id, and what it holds as `current`.

        The client connects again by itself, so that a restart shows nowhere else.
        """
        return self._run_id(), self._client.get(self._current_key)

    def _run_id(self) -> Any:
        """Of the server; None where it does not tell."""
        with contextlib.suppress(exceptions.ResponseError):
            return self._client.info("server").get("run_id")
        return None

    def _put(self, generation: str, ids: np.ndarray, values: list[bytes]) -> int:
        """Stores values; returns how many of the keys the server then says it has."""
        keys = self._keys(generation, ids)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.mset(dict(zip(keys, values, strict=True)))
        pipeline.exists(*keys)
        return pipeline.execute()[1]

    def _exist(self, generation: str, ids: np.ndarray) -> int:
        return self._client.exists(*self._keys(generation, ids))

    def _delete(self, generation: str, ids: np.ndarray) -> int:
        return self._client.unlink(*self._keys(generation, ids))

    def _scan(self, generation: str) -> Iterator[list[bytes]]:
        chunk: list[bytes] = []
        for key in self._client.scan_iter(match=f"{self._prefix(generation)}*", count=CHUNK):
            chunk.append(key)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _clear(self, generation: str) -> None:
        for chunk in self._scan(generation):
            self._client.unlink(*chunk)

    def count(self, generation: str) -> int:
        with self._explain():
            return sum(len(set(chunk)) for chunk in self._scan(generation))

    def close(self) -> None:
        self._client.close()
