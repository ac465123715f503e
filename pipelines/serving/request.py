"""What `pinnerformer serve` is asked for; loads none of the libraries of the extra `serve`."""

import argparse
import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping

from pipelines.arguments import Parser, add_roots, add_store, positive
from stores.errors import UsageError

DESCRIPTION = """\
Answers over HTTP what a root and its store know: vectors of users, the pins nearest to users and to pins, the releases.
Reads only. It follows what the store serves, without a restart. / is for people: what a user did, what is found for
them, and why. /docs says what there is to ask, /readyz whether a release is served, /metrics is for Prometheus.

Only this machine reaches it unless --host says otherwise, and then everybody who asks has to know a token.
"""
EXTRA = "serve"
MIN_TOKEN = 16  # letters


@dataclasses.dataclass(frozen=True)
class ServeRequest:
    """What `pinnerformer serve` is asked for.

    Attributes:
        root: That the store serves.
        others: Roots that are looked at beside it.
        catalogue: A Parquet file of pins; None: there is none.
        image_hosts: From which pictures may be loaded.
        explorer: Whether there are pages for people.
        token: Whoever asks has to know it; None: everybody may.
        max_k, max_ids, max_answers, max_body: Limits of one request.
    """

    root: str
    others: tuple[str, ...]
    kv: str
    namespace: str
    catalogue: str | None
    image_hosts: tuple[str, ...]
    explorer: bool
    host: str
    port: int
    workers: int
    token: str | None = dataclasses.field(repr=False)
    max_k: int
    max_ids: int
    max_answers: int
    max_body: int


def make_parser() -> Parser:
    """The flags of `pinnerformer serve`."""
    parser = Parser(prog="pinnerformer serve", description=DESCRIPTION)
    text = (
        "a folder, s3:// or gs://: all that the job owns; others given after it are looked at beside it in the "
        "explorer, each in its newest release"
    )
    add_roots(parser, text)
    add_store(parser, required=True)
    text = (
        "a Parquet file with a column pin_id and what else is known of pins, for `where=` and for the explorer (name, "
        "image, url, topic); read again when it changes"
    )
    parser.add_argument("--catalogue", metavar="FILE", help=text)
    text = "a host from which the explorer may load pictures over https, as the catalogue names them; may be repeated"
    parser.add_argument("--image-host", type=_host, action="append", default=[], metavar="NAME", help=text)
    text = "only the API: no pages that show what users did"
    parser.add_argument("--no-explorer", action="store_true", help=text)
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help="where to listen; 0.0.0.0: everywhere")
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="0: any that is free, which is printed")
    text = "processes that answer; they share the index in memory"
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help=text)
    text = "the environment variable with the token that whoever asks must send, as `Authorization: Bearer TOKEN`"
    parser.add_argument("--token-env", metavar="NAME", help=text)
    text = "no token, although others reach --host: something in front of this server decides who may ask"
    parser.add_argument("--without-token", action="store_true", help=text)
    limits = parser.add_argument_group("limits of one request")
    limits.add_argument("--max-k", type=positive, default=1000, metavar="N", help="pins for one user")
    limits.add_argument("--max-ids", type=positive, default=1000, metavar="N", help="users at once")
    limits.add_argument("--max-answers", type=positive, default=100_000, metavar="N", help="users times k at once")
    limits.add_argument("--max-body", type=positive, default=1 << 20, metavar="N", help="bytes of a request")
    return parser


def parse(argv: list[str], environment: Mapping[str, str] = os.environ) -> ServeRequest:
    """Reads the flags of `pinnerformer serve`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    token = _token(found.token_env, environment)
    if token is None and not is_loopback(found.host) and not found.without_token:
        raise UsageError(
            f"--host {found.host}: others reach it, and it answers with what people did; give --token-env NAME, or "
            "--without-token where something in front of it decides who may ask"
        )
    if token is not None and found.without_token:
        raise UsageError("--without-token and --token-env: give one of them")
    return ServeRequest(
        found.root[0],
        tuple(found.root[1:]),
        found.kv,
        found.namespace,
        found.catalogue,
        tuple(found.image_host),
        not found.no_explorer,
        found.host,
        found.port,
        found.workers,
        token,
        found.max_k,
        found.max_ids,
        found.max_answers,
        found.max_body,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name but localhost is taken for one that others reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _token(name: str | None, environment: Mapping[str, str]) -> str | None:
    if name is None:
        return None
    token = environment.get(name, "").strip()
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable():
        raise UsageError(
            f"--token-env {name}: the variable holds {'no token' if not token else 'a token that is too short'}; put "
            f"{MIN_TOKEN} printable ASCII letters or more into it, e.g. of `openssl rand -hex 32`"
        )
    return token


def _host(text: str) -> str:
    # It becomes a part of a header that browsers obey: nothing but a name and a port may stand there.
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", text):
        raise argparse.ArgumentTypeError(f"expected the name of a host, as in images.example.com, got {text!r}")
    return text.lower()


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= port < 1 << 16:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return port
