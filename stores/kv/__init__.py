"""Key-value stores behind one small interface."""

import os
import re
import socket
from urllib.parse import urlsplit

from stores.errors import UsageError
from stores.kv.base import Content, Current, Generation, KeyValueStore, PublishNote, UploadResult
from stores.kv.lmdb_store import LmdbStore
from stores.kv.redis_cluster import RedisClusterStore
from stores.kv.redis_store import RedisStore

__all__ = [
    "Content",
    "Current",
    "Generation",
    "KeyValueStore",
    "PublishNote",
    "UploadResult",
    "open_store",
    "without_password",
]

FORMS = "lmdb:///DIR, redis://HOST:PORT/DB, rediss://HOST:PORT/DB or redis+cluster://HOST:PORT; or env:NAME"


def without_password(url: str) -> str:
    """A URL as it may be shown, and kept: neither `:PASSWORD@` nor `?password=PASSWORD` in it."""
    url = re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)
    return re.sub(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&#]*", r"\1***", url, flags=re.IGNORECASE)


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
        return _open_lmdb(url, namespace)
    if parts.scheme in ("redis", "rediss", "redis+cluster"):
        try:
            if parts.scheme == "redis+cluster":
                return RedisClusterStore(url.replace("redis+cluster://", "redis://", 1), namespace, shown)
            return RedisStore(url, namespace, shown)
        except ValueError as error:
            raise UsageError(f"--kv {shown}: {error}") from None
    raise UsageError(f"--kv {shown}: expected {FORMS}")


def _open_lmdb(url: str, namespace: str) -> LmdbStore:
    """The store in a folder. A path may hold any character, `#` and `?` too; what stands at its end is an option.

    Raises:
        UsageError: not an absolute path, or a map too small to be one.
    """
    path = url.split("://", 1)[1] if "://" in url else ""
    if not path.startswith("/"):
        raise UsageError(f"--kv {url}: write an absolute path, lmdb:///DIR")
    option = re.search(r"\?map_size=(\d+)([MGT])iB$", path)
    if option is None:
        return LmdbStore(os.path.abspath(path), namespace, url)
    map_bytes = int(option[1]) << {"M": 20, "G": 30, "T": 40}[option[2]]
    if not 1 << 20 <= map_bytes < 1 << 47:
        raise UsageError(f"--kv {url}: a map has 1MiB or more, and less than 128TiB")
    return LmdbStore(os.path.abspath(path[: option.start()]), namespace, url, map_bytes)
