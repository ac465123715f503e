"""What `--notify` posts when a command is refused, fails, or rings: one JSON object (docs/monitoring.md)."""

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from stores.errors import UsageError

ENV = "env:"
TIMEOUT_S = 10.0  # for one URL, from name to answer


def resolve(url: str, environ: Mapping[str, str]) -> str:
    """The URL itself.

    Raises:
        UsageError: no http URL, or a variable that is not there.
    """
    named = url.startswith(ENV)
    if named and url.removeprefix(ENV) not in environ:
        raise UsageError(f"--notify {url}: there is no such variable in the environment")
    found = environ[url.removeprefix(ENV)] if named else url
    if urlsplit(found).scheme not in ("http", "https") or not urlsplit(found).hostname:
        raise UsageError(f"--notify {url if named else shown(url)}: write http://HOST/PATH or https://HOST/PATH")
    return found


def shown(url: str) -> str:
    """A URL as it may be shown: the path of a webhook is its password."""
    if url.startswith(ENV):
        return url
    found = urlsplit(url)
    host = found.hostname or "***"
    return f"{found.scheme or '?'}://{host}{f':{found.port}' if found.port else ''}/***"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is posted goes to who was named, and to nobody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(url: str, body: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> str | None:
    """Posts an object; returns what went wrong, None if nothing did. Ends in time whatever the other side does.

    Args:
        url: As `resolve` gives it.
    """
    said: list[str | None] = ["no answer in time"]

    def send() -> None:
        request = urllib.request.Request(
            url, json.dumps(body).encode(), {"Content-Type": "application/json", "User-Agent": "pinnerformer"}
        )
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as answer:
                answer.read(1)
            said[0] = None
        except urllib.error.HTTPError as error:
            said[0] = f"answered {error.code}"
        except Exception as error:  # of what a server sends, nothing may reach the night
            reason = getattr(error, "reason", error)
            said[0] = f"{type(reason).__name__}: {reason}".replace(url, shown(url))

    # A server that sends a byte now and then outlives every timeout of a socket.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return said[0]


def body_of(
    event: str, *, command: str, root: str, exit_code: int, error: str, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The object that is posted; `text` alone is what a chat shows.

    Args:
        event: `refused`, `failed` or `alarm`.
        error: One line.
        known: The rest.
    """
    where = f" on {root}" if root else ""
    host = os.uname().nodename
    return {
        "text": f"pinnerformer {command}{where}: {event}, exit code {exit_code}: {error}",
        "event": event,
        "command": command,
        "root": root,
        "exit_code": exit_code,
        "error": error,
        "host": host,
        **known,
    }
