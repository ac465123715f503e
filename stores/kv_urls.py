"""The key-value stores that there are: what their URLs look like, and what opens each.

The one list: the help of `--kv` and the error of a URL that names no store are made of it. A client library is loaded
when a store of its kind is opened, so that no `--help` waits for one.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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
    from stores.kv.lmdb_store import LmdbStore

    parts = urlsplit(url)
    if parts.netloc or not parts.path:
        raise UsageError(f"--kv {shown}: write an absolute path, lmdb:///DIR")
    return LmdbStore(os.path.abspath(parts.path), namespace, shown)


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


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)
