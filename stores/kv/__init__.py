"""Key-value stores behind one small interface."""

import os
import re
import socket
from urllib.parse import urlsplit

from stores.errors import UsageError
from stores.kv.base import Current, Generation, KeyValueStore, UploadResult
from stores.kv.lmdb_store import LmdbStore
from stores.kv.redis_cluster import RedisClusterStore
from stores.kv.redis_store import RedisStore

__all__ = ["Current", "Generation", "KeyValueStore", "UploadResult", "open_store", "without_password"]

FORMS = "lmdb:///DIR, redis://HOST:PORT/DB, rediss://HOST:PORT/DB or redis+cluster://HOST:PORT; or env:NAME"


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)


def open_store(url: str, namespace: str = "pinnerformer") -> KeyValueStore:
    """Opens one namespace of the store that a URL names; connects on first use.

    `env:NAME` stands for the URL in an environment variable of the process that connects: an engine's workers get a
    password that way without its ever being part of a job's graph.

    Raises:
        UsageError: not one of the forms, or a namespace with a colon or wildcard in it.
    """
    if url.startswith("env:"):
        name = url.removeprefix("env:")
        if not os.environ.get(name):
            raise UsageError(f"--kv {url}: the environment variable {name} is not set on {socket.gethostname()}")
        url = os.environ[name]
    shown = without_password(url)
    if not re.fullmatch(r"[\w.-]+", namespace):
        raise UsageError(f"--namespace {namespace}: only letters, digits, '_', '-' and '.' can be part of a key")
    parts = urlsplit(url)
    if parts.scheme == "lmdb":
        if parts.netloc or not parts.path:
            raise UsageError(f"--kv {shown}: write an absolute path, lmdb:///DIR")
        return LmdbStore(os.path.abspath(parts.path), namespace, shown)
    if parts.scheme in ("redis", "rediss", "redis+cluster"):
        try:
            if parts.scheme == "redis+cluster":
                return RedisClusterStore(url.replace("redis+cluster://", "redis://", 1), namespace, shown)
            return RedisStore(url, namespace, shown)
        except ValueError as error:
            raise UsageError(f"--kv {shown}: {error}") from None
    raise UsageError(f"--kv {shown}: expected {FORMS}")
