"""What `pinnerformer export` is asked for, and its flags."""

import dataclasses

from pipelines.arguments import Parser, add_json, add_quiet, add_root
from pipelines.operations.doing import QUIET
from stores.errors import UsageError
from stores.exports import KINDS
from stores.index_exports import WRITERS

DESCRIPTION = """\
Writes the users and pins of a release as files that others read, with the ids that your logs have, or pushes them into
a vector database. The root is not changed.

  pinnerformer export --root ROOT --out FOLDER                              users.parquet, pins.parquet
  pinnerformer export --root ROOT --out FOLDER --format duckdb --replace    embeddings.duckdb
  pinnerformer export --root ROOT --qdrant http://localhost:6333 --collection shop

Scores are inner products of unit vectors, in every format. docs/integrations.md shows how each is read.
"""
FORMATS = ("parquet", "npy", "duckdb", *WRITERS)


@dataclasses.dataclass(frozen=True)
class Database:
    """A vector database to push into.

    Attributes:
        kind: `qdrant` or `milvus`.
        where: A URL, or a local folder (Qdrant) or file (Milvus Lite).
        collection: Its alias; the collection of a release has the release's name behind it.
        key: Of its API, as given: `env:NAME`; None: without.
    """

    kind: str
    where: str
    collection: str
    key: str | None


@dataclasses.dataclass(frozen=True)
class ExportRequest:
    """What `pinnerformer export` is asked for.

    Attributes:
        release: None: the newest committed one.
        kinds: Of `KINDS`.
        out: A folder; None where a database is given.
        replace: Whether an export that is there may go.
    """

    root: str
    release: str | None
    kinds: tuple[str, ...]
    out: str | None
    format: str
    replace: bool
    database: Database | None
    as_json: bool
    quiet: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer export`."""
    parser = Parser(prog="pinnerformer export", description=DESCRIPTION)
    add_root(parser)
    parser.add_argument("--release", metavar="ID", help="which one (default: the newest that was committed)")
    parser.add_argument("--only", choices=sorted(KINDS), help="users or pins (default: both; an index is of pins)")
    files = parser.add_argument_group("files")
    files.add_argument("--out", metavar="DIR", help="a new folder, or one of an earlier export")
    files.add_argument("--format", choices=FORMATS, default="parquet", help="of the files (default %(default)s)")
    files.add_argument("--replace", action="store_true", help="put it in place of the export that is there")
    databases = parser.add_argument_group("vector databases")
    databases.add_argument("--qdrant", metavar="WHERE", help="http://HOST:6333, or a folder for its local mode")
    databases.add_argument("--milvus", metavar="WHERE", help="http://HOST:19530, or a file, X.db, for Milvus Lite")
    text = "the name that is searched; it moves to the release's own collection once that is full"
    databases.add_argument("--collection", default="pinnerformer", metavar="NAME", help=f"{text} (default %(default)s)")
    databases.add_argument("--api-key", metavar="env:NAME", help="the environment variable that holds the key")
    add_json(parser)
    add_quiet(parser, QUIET)
    return parser


def parse(argv: list[str]) -> ExportRequest:
    """Reads the flags of `pinnerformer export`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    given = [name for name in ("out", "qdrant", "milvus") if getattr(found, name)]
    if len(given) != 1:
        raise UsageError("say where to: one of --out DIR, --qdrant WHERE, --milvus WHERE")
    if found.api_key is not None and not found.api_key.startswith("env:"):
        raise UsageError("--api-key: a key on a command line is seen by everybody here; say env:NAME")
    # Of an index, and of a database that retrieval searches, the users are the queries.
    pins_only = found.out is None or found.format in WRITERS
    if pins_only and found.only == "users" and found.out is not None:
        raise UsageError(f"--format {found.format} is an index of pins; users are what it is asked with")
    kinds = (found.only,) if found.only else ("pins",) if pins_only else tuple(KINDS)
    database = None
    if found.out is None:
        database = Database(given[0], getattr(found, given[0]), found.collection, found.api_key)
    return ExportRequest(
        found.root, found.release, kinds, found.out, found.format, found.replace, database, found.json, found.quiet
    )
