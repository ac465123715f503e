"""Key-value stores behind one small interface."""

import re
from urllib.parse import urlsplit

from stores.errors import UsageError
from stores.kv.base import Content, Current, Generation, KeyValueStore, PublishNote, UploadResult
from stores.kv_urls import FORMS, STORES, behind, without_password

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


def open_store(url: str, namespace: str = "pinnerformer") -> KeyValueStore:
    """Opens one namespace of the store that a URL names; connects on first use.

    `env:NAME` stands for the URL in an environment variable of the process that connects: an engine's workers get a
    password that way without its ever being part of a job's graph.

    Raises:
        UsageError: not one of the forms of `stores.kv_urls`, or a namespace with a colon or wildcard in it.
    """
    url = behind(url)
    shown = without_password(url)
    if not re.fullmatch(r"[\w.-]+", namespace):
        raise UsageError(f"--namespace {namespace}: only letters, digits, '_', '-' and '.' can be part of a key")
    store = STORES.get(urlsplit(url).scheme)
    if store is None:
        raise UsageError(f"--kv {shown}: expected {', '.join(FORMS[:-1])} or {FORMS[-1]}; or env:NAME")
    try:
        return store.open(url, namespace, shown)
    except ValueError as error:
        raise UsageError(f"--kv {shown}: {error}") from None
