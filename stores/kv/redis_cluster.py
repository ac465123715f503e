"""Redis Cluster: keys grouped by hash slot on the client, one pipeline a node, all nodes at the same time."""

import concurrent.futures
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from redis import exceptions
from redis.cluster import ClusterNode, RedisCluster

from stores.errors import StoreError
from stores.kv.redis_store import CHUNK, RedisStore

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


class RedisClusterStore(RedisStore):
    """As `RedisStore`, over the nodes of a cluster; no command ever names keys of two slots.

    Everything it does may be done twice, so that whatever a node did not answer is sent again, to the node that has
    the slot by then.

    Args:
        url: `redis://` of any node, with user and password where the nodes ask for them.
    """

    chunk = 4 * CHUNK  # over all nodes: a node gets its share of it

    def _connect(self, url: str, options: dict[str, Any]) -> Any:
        self._threads = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="redis-node")
        return RedisCluster.from_url(url, **options)

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        with super()._explain():
            try:
                yield
            except (exceptions.AuthenticationError, exceptions.BusyLoadingError):
                raise
            except (exceptions.ClusterDownError, exceptions.RedisClusterException, exceptions.ConnectionError) as error:
                raise StoreError(
                    f"{self.url_shown}: the cluster does not serve every slot ({str(error).splitlines()[0]}); "
                    "bring the missing node back, then run the same command again"
                ) from None

    def _get(self, generation: str, ids: np.ndarray) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(ids)
        for rows, reply in self._by_slot("MGET", generation, ids):
            for row, value in zip(rows, reply, strict=True):
                found[row] = value
        return found

    def _run_id(self) -> None:
        return None  # nodes come and go while a release is published, and the cluster holds on

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
        keys: list[Any] = self._keys(generation, ids)
        slots = key_slots(self._prefix(generation), ids)
        order = np.argsort(slots, kind="stable")
        edges = np.flatnonzero(np.diff(slots[order])) + 1
        pending = [rows.tolist() for rows in np.split(order, edges)] if len(ids) else []
        done: list[tuple[list[int], Any]] = []
        for attempt in range(ATTEMPTS):
            nodes: dict[str, tuple[ClusterNode, list[list[int]], list[tuple]]] = {}
            for rows in pending:
                node = self._client.nodes_manager.get_node_from_slot(int(slots[rows[0]]))
                _, groups, commands = nodes.setdefault(node.name, (node, [], []))
                groups.append(rows)
                words = [(keys[row],) if values is None else (keys[row], values[row]) for row in rows]
                commands.append((command, *(word for pair in words for word in pair)))
            pending, failure = [], None
            work = list(nodes.values())
            for (_, groups, _), replies in zip(work, self._threads.map(self._send, work), strict=True):
                for rows, reply in zip(groups, replies, strict=True):
                    if isinstance(reply, _MOVING):
                        pending.append(rows)
                        failure = reply
                    elif isinstance(reply, Exception):
                        raise reply
                    else:
                        done.append((rows, reply))
            if failure is None:
                return done
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE_S * 2**attempt)
                self._client.nodes_manager.initialize()
        raise failure  # type: ignore[misc]

    def _send(self, work: tuple[ClusterNode, list[list[int]], list[tuple]]) -> list[Any]:
        """Sends commands to a node as they are and reads as many replies, of which some may be errors.

        On the connection itself, without the client's own retries: what fails is sent again by `_by_slot`.
        """
        node, _, commands = work
        pool = self._client.get_redis_connection(node).connection_pool
        connection, replies = None, []
        try:
            connection = pool.get_connection()
            connection.send_packed_command(connection.pack_commands(commands))
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except exceptions.ResponseError as error:
                    replies.append(error)
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
        self._threads.shutdown()
        super().close()
