"""Who may ask: a bearer token, and, of a server on loopback that has none, no page of another site."""

import base64
import binascii
import hmac
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.serving.problems import Problem
from pipelines.serving.responses import problem_response

OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # say nothing of anybody
CHALLENGE = 'Bearer, Basic realm="pinnerformer", charset="UTF-8"'
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def host_of(header: str) -> str:
    """The name or address in a `Host` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def offered_token(header: str) -> str | None:
    """The token in an `Authorization` header: `Bearer TOKEN`, or the password of `Basic`, which browsers ask for."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


class Guard:
    """Lets a request through, or answers it.

    Args:
        token: Whoever asks has to know it; None: everybody may.
        hosts: What `Host` may be; empty: anything. A page of another site can have its own name lead to this machine
            (DNS rebinding), and would read what a server on loopback answers.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, hosts: Collection[str] = ()):
        self._app, self._hosts = app, frozenset(hosts)
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is not None:
            await problem_response(problem)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        headers = {
            name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"host", b"authorization")
        }
        if self._hosts and host_of(headers.get(b"host", "")) not in self._hosts:
            return Problem(421, "this server is asked as localhost or 127.0.0.1 only; start it with --host and a token")
        if self._token is None or scope["path"] in OPEN_PATHS:
            return None
        offered = offered_token(headers.get(b"authorization", ""))
        # Compared in the same time whatever is offered.
        if offered is not None and hmac.compare_digest(offered.encode(), self._token):
            return None
        detail = "send the header `Authorization: Bearer TOKEN` with the server's token"
        return Problem(401, detail, {"www-authenticate": CHALLENGE})
