"""The production store: Redis, one server."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import redis
from redis import exceptions

from stores.errors import OvertakenError, StoreError
from stores.kv.base import (
    Content,
    Current,
    Generation,
    PublishNote,
    after_move,
    content_to_bytes,
    contents_from_bytes,
    served_generation,
)
from stores.kv.parts import PartedStore
from stores.kv.resp import key_words, pack, pack_keys, pack_pairs, raise_first, read_replies

CHUNK = 5000  # keys a command: past that a single command holds the server up
TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0


def _nothing() -> None:
    pass


class _Ahead(Iterator[list[bytes]]):
    """Packed commands, of which `look` has the next ones made early."""

    def __init__(self, commands: Iterable[list[bytes]]):
        self._commands = iter(commands)
        self._taken: list[list[bytes] | Exception] = []

    def look(self) -> None:
        """Has the next commands made, once.

        What fails is raised where they are asked for: the store is being waited for, and would be blamed.
        """
        if not self._taken:
            try:
                self._taken.append(next(self._commands))
            except Exception as error:  # StopIteration too
                self._taken.append(error)

    def __next__(self) -> list[bytes]:
        self.look()
        taken = self._taken.pop()
        if isinstance(taken, Exception):
            raise taken
        return taken


class RedisStore(PartedStore):
    """Key: `<namespace>:<generation>:u:<user_id>`, the id in decimal.

    While a release is published, users of it and of the one before may mix; each value is whole. A handle that holds
    the writes has raised `<namespace>:fence`; every chunk is a transaction that fails once the number is another.

    Args:
        url: `redis://` or `rediss://`, with user and password where the server asks for them.
    """

    chunk = CHUNK
    _is_cluster = False

    def __init__(self, url: str, namespace: str, url_shown: str):
        self.url_shown = url_shown
        self.namespace = namespace
        self._fence: int | None = None  # ours, while this handle holds the writes
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
        except (exceptions.MovedError, exceptions.AskError, exceptions.ClusterCrossSlotError):
            raise self._not_alone() from None
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

    def _not_alone(self) -> StoreError:
        return StoreError(f"{self.url_shown}: a node of a Redis Cluster; write redis+cluster:// in place of redis://")

    def _infos(self, section: str) -> list[dict[str, Any]]:
        """A section of INFO, of each server; nothing where the user may not ask."""
        with contextlib.suppress(exceptions.ResponseError):
            return [self._client.info(section)]
        return []

    def warnings(self) -> list[str]:
        with self._explain():
            found = []
            for memory in self._infos("memory"):
                policy = memory.get("maxmemory_policy", "noeviction")
                if memory.get("maxmemory") and policy != "noeviction":
                    found.append(
                        f"{self.url_shown}: maxmemory-policy is {policy}: the server drops vectors when its memory is "
                        "full, and nobody is told; set noeviction"
                    )
            evicted = sum(int(stats.get("evicted_keys", 0)) for stats in self._infos("stats"))
            if evicted:
                found.append(
                    f"{self.url_shown}: {evicted:,} keys were evicted since the server started, some may be vectors: "
                    "look with `pinnerformer verify --kv`, and publish as a whole with `release --run RUN --rewrite`"
                )
        return list(dict.fromkeys(found))

    def check(self) -> None:
        with self._explain():
            if any(int(info.get("cluster_enabled", 0)) for info in self._infos("cluster")) != self._is_cluster:
                raise self._not_alone()
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

    @contextlib.contextmanager
    def hold_writes(self, what: str) -> Iterator[None]:
        with self._explain():
            self._fence = self._raise_fence()
        try:
            yield
        finally:
            self._fence = None

    def _raise_fence(self) -> int:
        """Raises the number that whoever holds the writes compares; returns ours.

        It is milliseconds since 1970, or one more than it was: a server that lost its memory gives no number twice.
        """
        key = self._key("fence")

        def raise_it(pipeline: Any) -> int:
            number = max(int(pipeline.get(key) or 0) + 1, time.time_ns() // 1_000_000)
            pipeline.multi()
            pipeline.set(key, number)
            return number

        return self._client.transaction(raise_it, key, value_from_callable=True)

    def note(self) -> PublishNote | None:
        with self._explain():
            data = self._client.get(self._key("publishing"))
        return None if data is None else PublishNote.from_bytes(data, self.url_shown)

    def contents(self) -> dict[str, Content]:
        with self._explain():
            found = self._client.hgetall(self._key("contents"))
        return contents_from_bytes({name.decode(): data for name, data in found.items()})

    def set_contents(self, contents: dict[str, Content | None]) -> None:
        key = self._key("contents")
        with self._explain():
            for name, content in contents.items():
                words = ("HDEL", name) if content is None else ("HSET", name, content_to_bytes(content))
                self._write(words[0], key, *words[1:])

    def _move(self, current: Current, note: PublishNote | None) -> None:
        """Moves `current`. The note goes last: stopped in between, the next publish looks at what is there."""
        moved = after_move(self._listed(), self.current(), current, time.time())
        if note:
            self.set_contents({note.generation: note.target})
        self._write("SET", self._current_key, current.to_bytes())
        for name, entry in moved.items():
            self._write("HSET", self._generations_key, name, entry.to_bytes())
        if note:
            self._write("DEL", self._key("published"))
            self._write("DEL", self._key("publishing"))

    def _write(self, command: str, key: str, *words: Any) -> Any:
        """One command that writes one key, while this handle holds the writes if it ever did."""
        return self._guarded([pack(*map(self._encode, (command, key, *words)))])[0]

    def _guarded(self, commands: list[bytes], meanwhile: Callable[[], None] = _nothing) -> list[Any]:
        """Runs packed commands; as a transaction with the comparison of the fence, if this handle holds the writes.

        Args:
            meanwhile: Called while the server works; again, where the commands are sent again.

        Raises:
            StoreError: another handle holds the writes by now.
        """
        return self._run(_run_plainly if self._fence is None else self._run_guarded, commands, meanwhile)

    def _run(
        self, run: Callable[..., list[Any]], commands: list[bytes], meanwhile: Callable[[], None] = _nothing
    ) -> list[Any]:
        """Runs packed commands, each of which may be run twice; tries again as often as redis-py does its own."""
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            return connection.retry.call_with_retry(
                lambda: run(connection, commands, meanwhile), lambda error: connection.disconnect()
            )
        except BaseException:
            connection.disconnect()  # there may be replies unread, or a transaction open
            raise
        finally:
            pool.release(connection)

    def _run_guarded(self, connection: Any, commands: list[bytes], meanwhile: Callable[[], None]) -> list[Any]:
        """One transaction: nothing of it happens unless the fence is ours before it and has not been written since."""
        fence = self._encode(self._key("fence"))
        begin = pack(b"WATCH", fence) + pack(b"GET", fence) + pack(b"MULTI")
        while True:
            # The values go with the question, and EXEC with the answer: two round trips, whatever is written.
            connection.send_packed_command([begin, *commands])
            replies = list(read_replies(connection, 3 + len(commands)))
            raise_first(replies)
            if replies[1] is None:
                raise self._forgotten()
            if int(replies[1]) != self._fence:
                raise self._overtaken()
            # Without redis-py's look at the connection's health: its PING would be part of the transaction.
            connection.send_packed_command([pack(b"EXEC")], check_health=False)
            meanwhile()
            done = connection.read_response()
            if done is not None:  # else somebody wrote the fence in between: the number itself tells who
                raise_first(done)
                return done

    def _overtaken(self) -> OvertakenError:
        return OvertakenError(
            f"{self.url_shown}: another command writes to namespace {self.namespace} by now (this one was stopped, or "
            "slower); nothing more was written"
        )

    def _forgotten(self) -> StoreError:
        return StoreError(
            f"{self.url_shown}: the server was restarted meanwhile and may have lost what it held; readers were not "
            "moved, publish again"
        )

    def _key(self, name: str) -> str:
        return f"{self.namespace}:{name}"

    @property
    def _generations_key(self) -> str:
        return f"{self.namespace}:generations"

    def _listed(self) -> dict[str, Generation]:
        with self._explain():
            found = self._client.hgetall(self._generations_key)
        return {name.decode(): Generation.from_bytes(data, self.url_shown) for name, data in found.items()}

    def generations(self) -> dict[str, Generation]:
        known = self._listed()
        return known | {now.generation: served_generation(now, known)} if (now := self.current()) else known

    def delete_generation(self, generation: str) -> int:
        self.check_not_served(generation)
        with self._explain():
            number = self.count(generation)
            self._clear(generation)
            self._write("HDEL", self._generations_key, generation)
            self.set_contents({generation: None})
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
        """What changes when the server starts again: its run id, and what it holds as `current`.

        The client connects again by itself, so that a restart shows nowhere else.
        """
        return self._run_id(), self._client.get(self._current_key)

    def _run_id(self) -> Any:
        """Of the server; None where it does not tell."""
        with contextlib.suppress(exceptions.ResponseError):
            return self._client.info("server").get("run_id")
        return None

    @property
    def _looks_ahead(self) -> bool:
        """Whether the next chunk is read and packed before the answer to this one is read.

        Not without a fence: it is what refuses a chunk that is sent again to a server that lost those before it.
        """
        return self._fence is not None and not self._is_cluster

    def _put_all(self, generation: str, chunks: Iterable[tuple[np.ndarray, list[bytes]]]) -> int:
        if not self._looks_ahead:
            return super()._put_all(generation, chunks)
        ahead = _Ahead(self._pack_put(generation, *chunk) for chunk in chunks)
        return sum(self._guarded(commands, ahead.look)[1] for commands in ahead)

    def _put(self, generation: str, ids: np.ndarray, values: list[bytes]) -> int:
        """Stores values; returns how many of the keys the server then says it has."""
        return self._guarded(self._pack_put(generation, ids, values))[1]

    def _pack_put(self, generation: str, ids: np.ndarray, values: list[bytes]) -> list[bytes]:
        """The commands that store values and count their keys."""
        keys = self._key_words(generation, ids)
        return [pack_pairs(b"MSET", keys, values), pack_keys(b"EXISTS", keys)]

    def _exist_all(self, generation: str, chunks: Iterable[np.ndarray]) -> int:
        if not self._looks_ahead:
            return super()._exist_all(generation, chunks)
        ahead = _Ahead(self._pack_exist(generation, ids) for ids in chunks)
        return sum(self._run(_run_plainly, commands, ahead.look)[0] for commands in ahead)

    def _exist(self, generation: str, ids: np.ndarray) -> int:
        return self._run(_run_plainly, self._pack_exist(generation, ids))[0]

    def _pack_exist(self, generation: str, ids: np.ndarray) -> list[bytes]:
        return [pack_keys(b"EXISTS", self._key_words(generation, ids))]

    def _key_words(self, generation: str, ids: np.ndarray) -> list[bytes]:
        return key_words(self._encode(self._prefix(generation)), ids)

    def _encode(self, word: Any) -> bytes:
        return self._client.get_encoder().encode(word)

    def _delete(self, generation: str, ids: np.ndarray) -> int:
        return self._guarded([pack_keys(b"UNLINK", self._key_words(generation, ids))])[0] if len(ids) else 0

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
            self._guarded([pack(b"UNLINK", *chunk)])

    def count(self, generation: str) -> int:
        with self._explain():
            return sum(len(set(chunk)) for chunk in self._scan(generation))

    def close(self) -> None:
        self._client.close()


def _run_plainly(connection: Any, commands: list[bytes], meanwhile: Callable[[], None]) -> list[Any]:
    connection.send_packed_command(commands)
    meanwhile()
    replies = list(read_replies(connection, len(commands)))
    raise_first(replies)
    return replies
