"""`pinnerformer retrieve`: the pins nearest to a user."""

import dataclasses
import json
import shlex

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.arguments import Parser, add_json, add_root, add_store, positive
from stores.files import Root
from stores.id_names import Id, quoted, typed_id, visible
from stores.kv import without_password
from stores.layout import require_layout
from stores.retriever import KnownUsers, Retrieved, Retriever
from stores.string_ids import STRING

DESCRIPTION = """\
Looks a user's embedding up in the key-value store and prints the k pins with the largest inner product, searched in
every shard of the index of the release that the store serves. Ids are those of the logs, strings or whole numbers.
Without --user it names a few users who have a vector, and how to ask for one.
"""
SOME = 5  # users named where none is asked for


@dataclasses.dataclass(frozen=True)
class RetrieveRequest:
    """What `pinnerformer retrieve` is asked for.

    Attributes:
        user: As it was typed; None: name a few.
        k: How many pins.
        exclude_engaged: Whether to leave out the pins of the user's own history.
        as_json: Whether programs read it.
    """

    root: str
    kv: str
    namespace: str
    user: str | None
    k: int
    exclude_engaged: bool
    as_json: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer retrieve`."""
    parser = Parser(prog="pinnerformer retrieve", description=DESCRIPTION)
    add_root(parser)
    add_store(parser, required=True)
    text = "whose embedding to look up, as the logs have it (default none: a few ids that have one are named)"
    parser.add_argument("--user", metavar="ID", help=text)
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
    with Retriever(request.root, request.kv, request.namespace) as retriever:
        if request.user is None:
            show_users(request, retriever.known_users(SOME))
            return 0
        kind = require_layout(Root(request.root)).user_ids
        inner = typed_id("--user", request.user, kind)  # refused before anything is loaded
        user: Id = request.user if kind == STRING else inner
        show_pins(request, retriever.retrieve(user, request.k, exclude_engaged=request.exclude_engaged))
    return 0


def shown(one: Id) -> str:
    """An id in a cell or on a line."""
    return visible(one) if isinstance(one, str) else str(one)


def show_pins(request: RetrieveRequest, found: Retrieved) -> None:
    """Prints what was found for a user, ids as the logs have them."""
    pins = found.pin_ids.tolist()
    scores = found.scores.tolist()
    if request.as_json:
        rows = [{"pin_id": pin, "score": round(score, 6)} for pin, score in zip(pins, scores, strict=True)]
        head = {"user_id": found.user_id, "release": found.release, "embedding_day": str(found.embedding_day)}
        print(json.dumps({**head, "pins": rows}))
        return
    user = quoted(found.user_id) if isinstance(found.user_id, str) else found.user_id
    table = Table(box=box.SIMPLE)
    for name in ("rank", "pin_id", "score"):
        table.add_column(name, justify="right", overflow="fold")
    for rank, (pin, score) in enumerate(zip(pins, scores, strict=True), 1):
        table.add_row(str(rank), Text(shown(pin)), f"{score:.4f}")  # a string may hold what Rich takes for its markup
    console = Console()
    title = f"user {user}, embedded {found.embedding_day}, release {found.release}"
    console.print(title, style="italic", markup=False, emoji=False, highlight=False, soft_wrap=True)
    console.print(table)


def show_users(request: RetrieveRequest, known: KnownUsers) -> None:
    """Prints a few users who have a vector, and the command that asks for the first of them."""
    if request.as_json:
        print(json.dumps({"release": known.release, "users": known.users, "some_users": known.some}))
        return
    print(f"release {known.release} has vectors of {known.users:,} users; some of them:")
    for user in known.some:
        print(f"  {shown(user)}")
    if known.some:
        words = [f"--root={request.root}", f"--kv={without_password(request.kv)}"]
        words += [f"--namespace={request.namespace}"] if request.namespace != "pinnerformer" else []
        print(f"ask for one: pinnerformer retrieve {shlex.join([*words, f'--user={known.some[0]}'])}")
