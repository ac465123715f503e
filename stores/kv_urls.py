"""The key-value stores that there are: what their URLs look like, and what opens each.

The one list: the help of `--kv` and the error of a URL that names no store are made of it. A client library is loaded
when a store of its kind is opened, so that no `--help` waits for one.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from stores.errors import UsageError

if TYPE_CHECKING:
    from stores.kv.base import KeyValueStore

Opener = Callable[[str, str, str], "KeyValueStore"]  # URL, namespace, the URL as it may be shown -> the store


@dataclasses.dataclass(frozen=True)
class UrlForm:
    """One kind of URL.

    Attributes:
        form: What to write, for people.
        open: Makes the store; raises UsageError, or ValueError with a text, of a URL that it cannot use. It connects
            to nothing yet.
    """

    form: str
    open: Opener


def _open_lmdb(url: str, namespace: str, shown: str) -> KeyValueStore:
    """The store in a folder. A path may hold any character, `#` and `?` too; what stands at its end is an option."""
    from stores.kv.lmdb_store import LmdbStore

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


def _open_redis(url: str, namespace: str, shown: str) -> KeyValueStore:
    from stores.kv.redis_store import RedisStore

    return RedisStore(url, namespace, shown)


def _open_redis_cluster(url: str, namespace: str, shown: str) -> KeyValueStore:
    from stores.kv.redis_cluster import RedisClusterStore

    return RedisClusterStore(url.replace("redis+cluster://", "redis://", 1), namespace, shown)


STORES: dict[str, UrlForm] = {  # by the URL's scheme
    "lmdb": UrlForm("lmdb:///DIR", _open_lmdb),
    "redis": UrlForm("redis://HOST:PORT/DB", _open_redis),
    "rediss": UrlForm("rediss://HOST:PORT/DB", _open_redis),
    "redis+cluster": UrlForm("redis+cluster://HOST:PORT", _open_redis_cluster),
}
FORMS = [store.form for store in STORES.values()]


def behind(url: str) -> str:
    """The URL itself: `env:NAME` stands for the one in an environment variable of this process.

    Raises:
        UsageError: the variable is not set here.
    """
    if not url.startswith("env:"):
        return url
    name = url.removeprefix("env:")
    if not os.environ.get(name):
        raise UsageError(f"--kv {url}: the environment variable {name} is not set on {socket.gethostname()}")
    return os.environ[name]


def without_password(url: str) -> str:
    """A URL as it may be shown, and kept: neither `:PASSWORD@` nor `?password=PASSWORD` in it."""
    url = re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)
    return re.sub(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&#]*", r"\1***", url, flags=re.IGNORECASE)
