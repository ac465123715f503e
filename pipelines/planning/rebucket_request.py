"""What `pinnerformer rebucket` is asked for."""

import dataclasses

from pipelines.arguments import Parser, add_quiet, add_root, add_stores, positive
from stores.errors import UsageError
from stores.files import Root

DESCRIPTION = """\
Makes a root of other numbers of user buckets or pin shards from an old one: its newest release with every row that it
has, indexes built again where the shards change, and what the next night asks for. The old root is read and stays, with
its older releases and their snapshots. The next night may run on either.

The new root is none until it is whole: killed, the same command goes on. One bucket or shard is in memory at a time.

With --switch, nights and readers follow: every --kv is brought to the new root, a retriever that was given the old one
reads the new one, and the old one refuses nights. Vectors of users are equal, so that no generation is written again.
`rollback --lift-hold` on the old root takes the refusal back.
"""

EPILOG = """\
examples:
  pinnerformer rebucket --root ROOT --out ROOT2 --user-buckets 1024 --pin-shards 8
  pinnerformer verify --root ROOT2
  pinnerformer rebucket --root ROOT --out ROOT2 --switch --kv redis://HOST/0     # at once, or once it was looked at
"""


@dataclasses.dataclass(frozen=True)
class RebucketRequest:
    """What `pinnerformer rebucket` is asked for.

    Attributes:
        root: The old one.
        out: The new one.
        user_buckets, pin_shards: None: as many as the old root has.
        release: Of the old root; None: CURRENT.
        switch: Whether nights and readers are to follow.
        stores: URLs of all stores that the root is published to.
        quiet: Without progress.
    """

    root: Root
    out: Root
    user_buckets: int | None
    pin_shards: int | None
    release: str | None
    switch: bool
    stores: tuple[str, ...]
    namespace: str
    quiet: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer rebucket`."""
    own = ("user-buckets", "pin-shards")
    parser = Parser(prog="pinnerformer rebucket", description=DESCRIPTION, epilog=EPILOG, own=own)
    add_root(parser, "the old root: a folder, s3:// or gs://")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new root, which is not there yet; likewise")
    for name, text in (
        ("user-buckets", "histories and user embeddings"),
        ("pin-shards", "pin embeddings and the index"),
    ):
        parser.add_argument(
            f"--{name}", type=positive, metavar="N", help=f"parts of {text} (default as many as the old root has)"
        )
    parser.add_argument("--release", metavar="RELEASE", help="which one is taken over (default CURRENT)")
    parser.add_argument(
        "--switch",
        action="store_true",
        help="bring every --kv to the new root; the old one refuses nights from then on",
    )
    add_stores(parser)
    add_quiet(parser)
    return parser


def parse(argv: list[str]) -> RebucketRequest:
    """Reads the flags of `pinnerformer rebucket`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    root, out = Root(found.root), Root(found.out)
    if out.url == root.url or out.url.startswith(f"{root.url}/"):
        raise UsageError(f"--out {out.url}: is --root, or lies in it; name a folder beside it")
    if found.switch and not found.kv:
        raise UsageError("--switch: name every store that the root is published to, one --kv each")
    return RebucketRequest(
        root=root,
        out=out,
        user_buckets=found.user_buckets,
        pin_shards=found.pin_shards,
        release=found.release,
        switch=found.switch,
        stores=tuple(found.kv),
        namespace=found.namespace,
        quiet=found.quiet,
    )
