"""Redis Cluster: keys grouped by hash slot on the client, one pipeline a node, all nodes at the same time."""

import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator
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
        keys = self._keys(generation, ids)
        for rows, reply in self._by_slot(
            generation, ids, lambda pipeline, rows: pipeline.mget([keys[r] for r in rows])
        ):
            for row, value in zip(rows, reply, strict=True):
                found[row] = value
        return found

    def _put(self, generation: str, ids: np.ndarray, values: list[bytes]) -> int:
        keys = self._keys(generation, ids)

        def add(pipeline: Any, rows: list[int]) -> None:
            pipeline.mset({keys[row]: values[row] for row in rows})

        self._by_slot(generation, ids, add)
        return self._exist(generation, ids)

    def _exist(self, generation: str, ids: np.ndarray) -> int:
        keys = self._keys(generation, ids)
        replies = self._by_slot(generation, ids, lambda pipeline, rows: pipeline.exists(*[keys[r] for r in rows]))
        return sum(reply for _, reply in replies)

    def _delete(self, generation: str, ids: np.ndarray) -> int:
        keys = self._keys(generation, ids)
        replies = self._by_slot(generation, ids, lambda pipeline, rows: pipeline.unlink(*[keys[r] for r in rows]))
        return sum(reply for _, reply in replies)

    def _by_slot(
        self, generation: str, ids: np.ndarray, add: Callable[[Any, list[int]], Any]
    ) -> list[tuple[list[int], Any]]:
        """Runs one command a slot, in one pipeline a node, the nodes side by side.

        Args:
            add: Adds the command for some rows of `ids`, all of one slot, to a pipeline.

        Returns:
            (rows, the reply) of every command.
        """
        slots = key_slots(self._prefix(generation), ids)
        order = np.argsort(slots, kind="stable")
        pending = np.split(order, np.flatnonzero(np.diff(slots[order])) + 1) if len(ids) else []
        done: list[tuple[list[int], Any]] = []
        for attempt in range(ATTEMPTS):
            nodes: dict[str, tuple[ClusterNode, list[np.ndarray]]] = {}
            for rows in pending:
                node = self._client.nodes_manager.get_node_from_slot(int(slots[rows[0]]))
                nodes.setdefault(node.name, (node, []))[1].append(rows)
            pending, failure = [], None
            for groups, replies in self._threads.map(
                lambda work: self._send(work[0], work[1], add), list(nodes.values())
            ):
                for rows, reply in zip(groups, replies, strict=True):
                    if isinstance(reply, _MOVING):
                        pending.append(rows)
                        failure = reply
                    elif isinstance(reply, Exception):
                        raise reply
                    else:
                        done.append((rows.tolist(), reply))
            if failure is None:
                return done
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE_S * 2**attempt)
                self._client.nodes_manager.initialize()
        raise failure  # type: ignore[misc]

    def _send(
        self, node: ClusterNode, groups: list[np.ndarray], add: Callable[[Any, list[int]], Any]
    ) -> tuple[list[np.ndarray], list[Any]]:
        pipeline = self._client.get_redis_connection(node).pipeline(transaction=False)
        for rows in groups:
            add(pipeline, rows.tolist())
        try:
            return groups, pipeline.execute(raise_on_error=False)
        except exceptions.AuthenticationError:
            raise
        except exceptions.ConnectionError as error:
            down = exceptions.ConnectionError(f"node {node.name}: {error}")
            return groups, [down] * len(groups)

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
