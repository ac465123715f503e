"""`pinnerformer retrieve`: the pins nearest to a user."""

import json

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.arguments import Parser, positive
from stores.retriever import Retriever

DESCRIPTION = """\
Looks a user's embedding up in the key-value store and prints the k pins with the largest inner product, searched in
every shard of the index of the release that the store serves.
"""


def run(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = Parser(prog="pinnerformer retrieve", description=DESCRIPTION)
    parser.add_argument("--root", required=True, metavar="DIR")
    parser.add_argument("--kv", required=True, metavar="URL")
    parser.add_argument("--namespace", default="pinnerformer")
    parser.add_argument("--user", required=True, type=int, metavar="ID")
    parser.add_argument("--k", type=positive, default=10, help="how many pins (default %(default)s)")
    parser.add_argument("--exclude-engaged", action="store_true", help="leave out the pins of the user's own history")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args(argv)
    retriever = Retriever(arguments.root, arguments.kv, arguments.namespace)
    found = retriever.retrieve(arguments.user, arguments.k, exclude_engaged=arguments.exclude_engaged)
    if arguments.json:
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
