"""`pinnerformer retrieve`: the pins nearest to a user."""

import dataclasses
import json

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.arguments import Parser, add_json, add_root, add_store, positive, user_id
from stores.retriever import Retriever

DESCRIPTION = """\
Looks a user's embedding up in the key-value store and prints the k pins with the largest inner product, searched in
every shard of the index of the release that the store serves.
"""


@dataclasses.dataclass(frozen=True)
class RetrieveRequest:
    """What `pinnerformer retrieve` is asked for.

    Attributes:
        k: How many pins.
        exclude_engaged: Whether to leave out the pins of the user's own history.
        as_json: Whether programs read it.
    """

    root: str
    kv: str
    namespace: str
    user_id: int
    k: int
    exclude_engaged: bool
    as_json: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer retrieve`."""
    parser = Parser(prog="pinnerformer retrieve", description=DESCRIPTION)
    add_root(parser)
    add_store(parser, required=True)
    parser.add_argument("--user", required=True, type=user_id, metavar="ID", help="whose embedding to look up")
    parser.add_argument("--k", type=positive, default=10, metavar="N", help="how many pins")
    parser.add_argument("--exclude-engaged", action="store_true", help="leave out the pins of the user's own history")
    add_json(parser)
    return parser


def parse(argv: list[str]) -> RetrieveRequest:
    """Reads the flags of `pinnerformer retrieve`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    return RetrieveRequest(
        found.root, found.kv, found.namespace, found.user, found.k, found.exclude_engaged, found.json
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    retriever = Retriever(request.root, request.kv, request.namespace)
    found = retriever.retrieve(request.user_id, request.k, exclude_engaged=request.exclude_engaged)
    if request.as_json:
        pins = [
            {"pin_id": int(p), "score": round(float(s), 6)} for p, s in zip(found.pin_ids, found.scores, strict=True)
        ]
        head = {"user_id": found.user_id, "release": found.release, "embedding_day": str(found.embedding_day)}
        print(json.dumps({**head, "pins": pins}))
        return 0
    table = Table(
        box=box.SIMPLE, title=f"user {found.user_id}, embedded {found.embedding_day}, release {found.release}"
    )
    for name in ("rank", "pin_id", "score"):
        table.add_column(name, justify="right")
    for rank, (pin, score) in enumerate(zip(found.pin_ids, found.scores, strict=True), 1):
        table.add_row(str(rank), str(pin), f"{score:.4f}")
    Console().print(table)
    return 0
