"""Redis Cluster: keys grouped by hash slot on the client, one pipeline a node, all nodes at the same time."""

import concurrent.futures
import contextlib
import functools
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from redis import exceptions
from redis.cluster import ClusterNode, RedisCluster

from stores.errors import StoreError
from stores.kv.redis_store import CHUNK, RedisStore
from stores.kv.resp import bulk, key_words, pack_words, read_replies

SLOTS = 16384
ATTEMPTS = 6  # with pauses of 0.25 s, doubled each time: 8 s for a slot that moves or a replica that takes over
PAUSE_S = 0.25
_MOVING = (
    exceptions.AskError,  # and MovedError: the slot is another node's
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.SlotNotCoveredError,
    exceptions.ConnectionError,
)


def _crc16_table() -> np.ndarray:
    crc = np.arange(256, dtype=np.uint32) << 8
    for _ in range(8):
        crc = np.where(crc & 0x8000, (crc << 1) ^ 0x1021, crc << 1) & 0xFFFF
    return crc.astype(np.uint16)


_CRC16 = _crc16_table()


def key_slots(prefix: str, user_ids: np.ndarray) -> np.ndarray:
    """The hash slot of each key `<prefix><user_id>`: CRC16 (XMODEM) of the key modulo 16384, as Redis Cluster has it.

    Args:
        prefix: Without a brace, which would make a hash tag.
        user_ids: int64 [N].

    Returns:
        int64 [N], from 0 to 16383.
    """
    start = np.uint16(0)
    for byte in prefix.encode():
        start = np.uint16((int(start) << 8) & 0xFFFF) ^ _CRC16[(int(start) >> 8) ^ byte]
    crc = np.full(len(user_ids), start, np.uint16)
    digits = np.asarray(user_ids, np.int64).astype("S20").view(np.uint8).reshape(len(user_ids), 20)
    for column in digits.T:  # a column is a position in the number; past its end there are zeros
        further = (crc << np.uint16(8)) ^ _CRC16[(crc >> np.uint16(8)) ^ column]
        crc = np.where(column != 0, further, crc)
    return crc.astype(np.int64) % SLOTS


# KEYS: the fence of the slot, then the keys of the command. ARGV: our number, then the command.
_GUARDED = """
local found = redis.call('GET', KEYS[1])
if not found then return redis.error_reply('FORGOTTEN') end
if found ~= ARGV[1] then return redis.error_reply('FENCED') end
return redis.call(unpack(ARGV, 2))"""
# One more than it was, or the milliseconds since 1970; as text, which a float of that size is not cut in.
_NEXT = """
local found = tonumber(redis.call('GET', KEYS[1]) or '0')
local number = string.format('%.0f', math.max(found + 1, tonumber(ARGV[1])))
redis.call('SET', KEYS[1], number)
return number"""
# Never down: of two handles that raise it at the same time, the later number stays.
_RAISE = """
local found = tonumber(redis.call('GET', KEYS[1]) or '0')
if found < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
return 1"""


_EVAL, _GUARDED_WORD = bulk(b"EVAL"), bulk(_GUARDED.encode())


@functools.cache
def _slot_tags() -> list[int]:
    """For each slot the smallest number whose digits, as a hash tag, belong to it."""
    numbers = np.arange(1 << 18)  # sixteen a slot on average
    slots, first = np.unique(key_slots("", numbers), return_index=True)
    assert len(slots) == SLOTS
    return numbers[first].tolist()


class RedisClusterStore(RedisStore):
    """As `RedisStore`, over the nodes of a cluster; no command ever names keys of two slots.

    No transaction spans slots, so each slot has a fence of its own, `<namespace>:fence:{TAG}`, raised in all of them
    before anything is written, and every command that writes is a script that compares it first.

    Everything it does may be done twice, so that whatever a node did not answer is sent again, to the node that has
    the slot by then.

    Args:
        url: `redis://` of any node, with user and password where the nodes ask for them.
    """

    chunk = 16 * CHUNK  # over all nodes and 16,384 slots: a node gets its share, in commands of a slot each
    _is_cluster = True

    def _connect(self, url: str, options: dict[str, Any]) -> Any:
        self._pool: tuple[int, concurrent.futures.ThreadPoolExecutor] | None = None
        return RedisCluster.from_url(url, **options)

    @property
    def _threads(self) -> concurrent.futures.ThreadPoolExecutor:
        """One thread a node; a process that was forked has none of its parent's and makes its own."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), concurrent.futures.ThreadPoolExecutor(thread_name_prefix="redis-node")
        return self._pool[1]

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        with super()._explain():
            try:
                yield
            except (exceptions.AuthenticationError, exceptions.BusyLoadingError):
                raise
            except exceptions.RedisClusterException as error:
                if "cluster mode is not enabled" in str(error).lower():
                    raise self._not_alone() from None
                raise self._not_whole(error) from None
            except (exceptions.ClusterDownError, exceptions.ConnectionError) as error:
                raise self._not_whole(error) from None

    def _not_whole(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self.url_shown}: the cluster does not serve every slot ({str(error).splitlines()[0]}); "
            "bring the missing node back, then run the same command again"
        )

    def _not_alone(self) -> StoreError:
        return StoreError(f"{self.url_shown}: not a Redis Cluster; write redis:// in place of redis+cluster://")

    def _infos(self, section: str) -> list[dict[str, Any]]:
        with contextlib.suppress(exceptions.ResponseError):
            nodes = self._client.get_primaries()
            return [self._client.get_redis_connection(node).info(section) for node in nodes]
        return []

    def _get(self, generation: str, ids: np.ndarray) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(ids)
        for rows, reply in self._by_slot("MGET", generation, ids):
            for row, value in zip(rows, reply, strict=True):
                found[row] = value
        return found

    def _run_id(self) -> None:
        return None  # nodes come and go while a release is published, and the cluster holds on

    def _run_ids(self) -> list[str]:
        with contextlib.suppress(exceptions.ConnectionError):  # a node is away for a moment: then it is not known
            return super()._run_ids()
        return []

    def _raise_fence(self) -> int:
        number = int(self._client.eval(_NEXT, 1, self._key("fence"), time.time_ns() // 1_000_000))
        script, one, ours = bulk(_RAISE.encode()), bulk(b"1"), bulk(b"%d" % number)
        slots = list(range(SLOTS))
        self._on_nodes(slots, [pack_words(_EVAL, script, one, self._fence_word(slot), ours) for slot in slots])
        return number

    def _fence_key(self, slot: int) -> str:
        return f"{self.namespace}:fence:{{{_slot_tags()[slot]}}}"

    def _fence_word(self, slot: int) -> bytes:
        return bulk(self._fence_key(slot).encode())

    def _guard(self, slot: int, keys: list[bytes], command: list[bytes]) -> bytes:
        """A packed command on keys of a slot, with the comparison of its fence if this handle holds the writes.

        Args:
            keys: Bulk strings.
            command: All its words as bulk strings.
        """
        if self._fence is None:
            return pack_words(*command)
        number, fence = bulk(b"%d" % (1 + len(keys))), bulk(b"%d" % self._fence)
        return pack_words(_EVAL, _GUARDED_WORD, number, self._fence_word(slot), *keys, fence, *command)

    def _write(self, command: str, key: str, *words: Any) -> Any:
        sent: tuple = (command, key, *words)
        if self._fence is not None:
            sent = ("EVAL", _GUARDED, 2, self._fence_key(self._client.keyslot(key)), key, self._fence, *sent)
        try:
            return self._client.execute_command(*sent)
        except exceptions.ResponseError as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> Exception:
        """What the comparison of a fence raised, in words; any other error as it is."""
        if "FENCED" in str(error):
            return self._overtaken()
        return self._forgotten() if "FORGOTTEN" in str(error) else error

    def _put(self, generation: str, ids: np.ndarray, values: list[bytes]) -> int:
        return sum(len(rows) for rows, _ in self._by_slot("MSET", generation, ids, values))

    def _exist(self, generation: str, ids: np.ndarray) -> int:
        return sum(reply for _, reply in self._by_slot("EXISTS", generation, ids))

    def _delete(self, generation: str, ids: np.ndarray) -> int:
        return sum(reply for _, reply in self._by_slot("UNLINK", generation, ids))

    def _by_slot(
        self, command: str, generation: str, ids: np.ndarray, values: list[bytes] | None = None
    ) -> list[tuple[list[int], Any]]:
        """Runs one command a slot, in one pipeline a node, the nodes side by side.

        Args:
            command: Takes keys, or keys and values alternating.
            values: Of MSET, in the order of `ids`.

        Returns:
            (rows of `ids`, the reply) of every command.
        """
        if not len(ids):
            return []
        slots = key_slots(self._prefix(generation), ids)
        order = np.argsort(slots, kind="stable")
        starts = np.flatnonzero(np.diff(slots[order], prepend=-1)).tolist()
        rows = order.tolist()
        keys = key_words(self._prefix(generation).encode(), ids[order])
        operands, step = keys, 1
        if values is not None:
            operands, step = [b""] * (2 * len(keys)), 2
            operands[::2], operands[1::2] = keys, [bulk(values[row]) for row in rows]
        named, name = slots[order[starts]].tolist(), bulk(command.encode())
        spans = list(zip(starts, [*starts[1:], len(keys)], strict=True))
        commands = []
        for slot, (start, end) in zip(named, spans, strict=True):
            words = [name, *operands[step * start : step * end]]
            writes = command in ("MSET", "UNLINK")
            commands.append(self._guard(slot, keys[start:end], words) if writes else pack_words(*words))
        replies = self._on_nodes(named, commands)
        return [(rows[start:end], reply) for (start, end), reply in zip(spans, replies, strict=True)]

    def _on_nodes(self, slots: list[int], commands: list[bytes]) -> list[Any]:
        """Runs packed commands, in one pipeline a node, the nodes side by side.

        Args:
            slots: Whose keys each command is on.

        Returns:
            The replies, in the order of the commands.
        """
        done: list[Any] = [None] * len(commands)
        pending = list(range(len(commands)))
        for attempt in range(ATTEMPTS):
            nodes: dict[str, tuple[ClusterNode, list[int]]] = {}
            for number in pending:
                node = self._node_of(slots[number])
                nodes.setdefault(node.name, (node, []))[1].append(number)
            pending, failure = [], None
            work = [(node, [commands[number] for number in numbers]) for node, numbers in nodes.values()]
            for (_, numbers), replies in zip(nodes.values(), self._threads.map(self._send, work), strict=True):
                for number, reply in zip(numbers, replies, strict=True):
                    if isinstance(reply, _MOVING):
                        pending.append(number)
                        failure = reply
                    elif isinstance(reply, Exception):
                        raise self._refused(reply)
                    else:
                        done[number] = reply
            if failure is None:
                return done
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE_S * 2**attempt)
                self._client.nodes_manager.initialize()
        raise failure  # type: ignore[misc]

    def _node_of(self, slot: int) -> ClusterNode:
        """The primary of a slot.

        Raises:
            redis.exceptions.SlotNotCoveredError: there is none.
        """
        manager = self._client.nodes_manager
        found = manager.slots_cache.get(slot)  # its own method takes a lock and microseconds, once for every slot
        return found[0] if found else manager.get_node_from_slot(slot)

    def _send(self, work: tuple[ClusterNode, list[bytes]]) -> list[Any]:
        """Sends packed commands to a node and reads as many replies, of which some may be errors.

        On the connection itself, without the client's own retries: what fails is sent again by `_on_nodes`.
        """
        node, commands = work
        pool = self._client.get_redis_connection(node).connection_pool
        connection = None
        replies: list[Any] = []
        try:
            connection = pool.get_connection()
            connection.send_packed_command([b"".join(commands)])
            for reply in read_replies(connection, len(commands)):
                replies.append(reply)  # one by one: of a node that goes in between, some have come
            return replies
        except BaseException as error:
            if connection:
                connection.disconnect()
            passing = isinstance(error, exceptions.ConnectionError)
            if not passing or isinstance(error, exceptions.AuthenticationError):
                raise
            down = exceptions.ConnectionError(f"node {node.name}: {error}")
            return replies + [down] * (len(commands) - len(replies))
        finally:
            if connection:
                pool.release(connection)

    def _scan(self, generation: str) -> Iterator[list[bytes]]:
        for node in self._client.get_primaries():
            keys: list[bytes] = []
            connection = self._client.get_redis_connection(node)
            for key in connection.scan_iter(match=f"{self._prefix(generation)}*", count=CHUNK):
                keys.append(key)
            for start in range(0, len(keys), self.chunk):
                yield keys[start : start + self.chunk]

    def _clear(self, generation: str) -> None:
        start = len(self._prefix(generation).encode())
        for chunk in self._scan(generation):
            self._delete(generation, np.array([int(key[start:]) for key in chunk], np.int64))

    def close(self) -> None:
        if self._pool is not None and self._pool[0] == os.getpid():
            self._pool[1].shutdown()
        super().close()
