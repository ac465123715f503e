"""The stores that runs publish to: what they start from, what they hold at the end, and what a reader may see."""

import dataclasses
import json
import os
import shutil

import lmdb
import redis

from stores.embedding_client import EmbeddingClient

Content = dict[str, dict[str, str]]  # release -> key -> value of its generation, all in hex


class LmdbSink:
    """LMDB, in the run's folder: a publish shows whole or not at all."""

    def url(self, folder: str) -> str:
        return f"lmdb://{folder}/kv"

    def start(self, before: str | None, folder: str) -> None:
        """Lays out what a run starts from."""
        if before:
            shutil.copytree(f"{before}/kv", f"{folder}/kv")

    def save(self, folder: str) -> None:
        """Keeps what is held now, for others to start from: it lies in the folder anyway."""

    def is_there(self, folder: str) -> bool:
        return os.path.exists(f"{folder}/kv/data.mdb")

    def read(self, folder: str) -> list[tuple[bytes, bytes]]:
        """Everything that is held, as of one moment."""
        with lmdb.open(f"{folder}/kv", readonly=True, map_size=1 << 30) as environment, environment.begin() as reader:
            return [(bytes(key), bytes(value)) for key, value in reader.cursor()]

    def look(self, client: EmbeddingClient, stores: Content) -> tuple[list[str], list[int]]:
        """What is wrong with what a reader sees now, and the users that it sees."""
        with client._store._open(write=False).begin() as transaction:  # one moment: `current` and the values under it
            content = {bytes(key): bytes(value) for key, value in transaction.cursor()}
        current = json.loads(content[b"pinnerformer:current"])
        prefix = f"pinnerformer:{current['generation']}:u:".encode()
        values = {key.hex(): value.hex() for key, value in content.items() if key.startswith(prefix)}
        users = [int.from_bytes(key[-8:], "big", signed=True) for key in content if key.startswith(prefix)]
        if values != stores.get(current["release"]):
            return [f"the store shows a part of a publish, under {current['release']}"], users
        return [], users


@dataclasses.dataclass
class RedisSink:
    """One Redis server for all runs: values of two releases of a model may mix while one is published."""

    port: int

    @property
    def _client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def url(self, folder: str) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, before: str | None, folder: str) -> None:
        """Empties the server and puts back what was saved."""
        with self._client as client:
            client.flushall()
            if before:
                with open(f"{before}/redis.json") as file:
                    for key, dump in json.load(file).items():
                        client.restore(bytes.fromhex(key), 0, bytes.fromhex(dump))

    def save(self, folder: str) -> None:
        """Keeps what is held now, for others to start from."""
        with self._client as client, open(f"{folder}/redis.json", "w") as file:
            json.dump({key.hex(): client.dump(key).hex() for key in client.scan_iter()}, file)

    def is_there(self, folder: str) -> bool:
        return True

    def read(self, folder: str) -> list[tuple[bytes, bytes]]:
        """Everything that is held; a hash as a JSON object, as LMDB has it."""
        with self._client as client:
            found = []
            for key in sorted(client.scan_iter()):
                if client.type(key) == b"hash":
                    fields = {name.decode(): json.loads(value) for name, value in sorted(client.hgetall(key).items())}
                    found.append((key, json.dumps(fields).encode()))
                else:
                    found.append((key, client.get(key)))
        return found

    def look(self, client: EmbeddingClient, stores: Content) -> tuple[list[str], list[int]]:
        """What is wrong with what a reader sees now, and the users that it sees."""
        current = client.current
        prefix = f"pinnerformer:{current.generation}:u:".encode()
        allowed: dict[str, set[str | None]] = {}
        under = [held for held in stores.values() if any(bytes.fromhex(key).startswith(prefix) for key in held)]
        for key in {key for held in under for key in held}:
            allowed[key] = {held.get(key) for held in under}
        with self._client as server:
            values = server.mget([bytes.fromhex(key) for key in allowed]) if allowed else []
        if client.current.generation != current.generation:  # it moved meanwhile: what was asked for may be gone
            return [], []
        found = {key: None if value is None else value.hex() for key, value in zip(allowed, values, strict=True)}
        problems = [f"{bytes.fromhex(key)!r} is of no release" for key, v in found.items() if v not in allowed[key]]
        if not allowed or current.release not in stores:
            problems.append(f"`current` names {current.release}, generation {current.generation}")
        users = [int(bytes.fromhex(key)[len(prefix) :]) for key, value in found.items() if value is not None]
        return problems[:3], users


Sink = LmdbSink | RedisSink
