"""`pinnerformer verify`: compares a release with what it says of itself."""

import dataclasses
import secrets
from collections.abc import Sequence

import numpy as np

from pinnerformer_model.config import ModelError
from pipelines.arguments import Parser, add_lookback, add_names, add_quiet, add_root, add_stores, positive
from pipelines.operations.doing import QUIET, Doing
from stores.column_names import ColumnNames
from stores.erasure import check_erased, find_users
from stores.errors import InputError, StoreError, UsageError
from stores.files import Root
from stores.id_names import PINS, USERS
from stores.kv import KeyValueStore, open_store
from stores.layout import check_layout, require_layout
from stores.locations import join
from stores.manifests import Manifest, read_manifest
from stores.pin_vectors import describe_vectors
from stores.releases import chain, current_release
from stores.rewritten import advise, find_rewritten_logs
from stores.string_ids import STRING
from stores.tables import read_dim
from stores.user_lists import read_erased, read_user_list
from transforms.verification import (
    MIN_COSINE,
    Findings,
    check_absent,
    check_files,
    check_indexes,
    check_names,
    check_older,
    check_store,
    check_tables,
    check_users,
    draw_rows,
    with_vectors_of_then,
)

DESCRIPTION = """\
Looks at a release and changes nothing: size and checksum of every file; rows, their order, the part they are in; the
ids in the indexes and their recall; the files of the releases that a rollback may go to; ROOT/erased. With --kv, what
the store says of itself, what it answers for users drawn at random (others each time), and how many it has.
With --model and --pins, the vectors of users drawn at random, made again from their histories by a plain, unbatched
implementation; those who were carried over from a night with other --pins are left out. With --logs, that the log files
that were read are still what they were. With --erased, that nobody in a list is left anywhere.

Exits with 1 if anything is wrong; the first line names the first of it.
"""

EPILOG = """\
examples:
  pinnerformer verify --root ROOT --kv lmdb:///var/lib/pinnerformer --model MODEL --pins WORLD/pins --users 200
  pinnerformer verify --root ROOT --release 2026-11-20
  pinnerformer verify --root ROOT --kv redis://HOST/0 --erased leavers.txt
"""
SHOWN = 20


@dataclasses.dataclass(frozen=True)
class VerifyRequest:
    """What `pinnerformer verify` is asked for.

    Attributes:
        release: None: CURRENT.
        stores: URLs of the stores to ask.
        users: How many are drawn.
        seed: Of the draw; None: another one each time.
        this_only: Whether the releases before it are left out.
        model, pins: To make vectors again with; both or none.
        columns: How the vectors call their columns.
        min_cosine: Of a vector made again, to the one stored.
        logs: Whose files are compared with what was read; None: none.
        lookback: How many partitions of them.
        erased: A file that lists users who may not be anywhere; None: nobody.
        quiet: Whether to say nothing of progress.
    """

    root: Root
    release: str | None
    stores: tuple[str, ...]
    namespace: str
    users: int
    seed: int | None
    this_only: bool
    model: str | None
    pins: str | None
    columns: ColumnNames
    min_cosine: float
    logs: str | None
    lookback: int
    erased: str | None
    quiet: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer verify`."""
    parser = Parser(prog="pinnerformer verify", description=DESCRIPTION, epilog=EPILOG, own=("model", "pins", "logs"))
    add_root(parser)
    parser.add_argument("--release", metavar="RELEASE", help="which one (default CURRENT)")
    add_stores(parser)
    parser.add_argument("--users", type=positive, default=100, metavar="N", help="drawn at random")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="draw the users that an earlier call drew; it shows its seed"
    )
    parser.add_argument("--this-only", action="store_true", help="leave the releases before it out")
    parser.add_argument("--model", metavar="DIR", help="the release's model, to make vectors again")
    parser.add_argument("--pins", metavar="DIR", help="its PinSage vectors")
    add_names(parser)
    text = "of a vector made again, to the one stored"
    parser.add_argument("--min-cosine", type=float, default=MIN_COSINE, metavar="C", help=text)
    parser.add_argument("--logs", metavar="DIR", help="that what was read of the last --lookback days is what it was")
    add_lookback(parser, "as `daily --lookback`, for --logs")
    parser.add_argument(
        "--erased", metavar="FILE", help="one user id per line, as the logs have them: nobody of them may be anywhere"
    )
    add_quiet(parser, QUIET)
    return parser


def parse(argv: list[str]) -> VerifyRequest:
    """Reads the flags of `pinnerformer verify`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    if bool(found.model) != bool(found.pins):
        raise UsageError("--model and --pins go together: a vector is made of both")
    return VerifyRequest(
        root=Root(found.root),
        release=found.release,
        stores=tuple(found.kv),
        namespace=found.namespace,
        users=found.users,
        seed=found.seed,
        this_only=found.this_only,
        model=found.model,
        pins=found.pins,
        columns=ColumnNames.parse(found.column),
        min_cosine=found.min_cosine,
        logs=found.logs,
        lookback=found.lookback,
        erased=found.erased,
        quiet=found.quiet,
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    root, doing = request.root, Doing(not request.quiet)
    layout = require_layout(root)
    release = request.release or current_release(root)
    if release is None:
        raise StoreError(f"--root {root.url}: no release in it")
    manifest, found = read_manifest(root, release), Findings()
    check_layout(root, layout, manifest.settings, release)
    stores = [open_store(url, request.namespace) for url in request.stores]
    with doing.piece(f"files of {release}"):
        files = check_files(root, manifest)
    found.note(f"files of {release}", files)
    with doing.piece("files of releases before it"):
        found.note_if_wrong("files of releases before it", [] if request.this_only else check_older(root, release))
    found.note_if_wrong("ROOT/erased", check_erased(root))
    if not files:  # what is damaged is not read: one flipped bit gives one problem, not a hundred
        check_content(request, manifest, stores, found, doing)
    if request.logs:
        with doing.piece("log files"):
            problems = check_logs(request.logs, list(chain(root, release)), request.lookback)
        found.note(f"log files read by {release} and before", problems)
    if request.erased:
        with doing.piece("erased users"):
            check_nobody(root, stores, read_user_list(request.erased, layout.user_ids, "--erased"), found)
        if not stores:
            found.looked_at.append("no store was given (--kv), and so none looked at")
    for store in stores:
        store.close()
    for words in found.looked_at:
        print(words)
    if found.problems:
        rest = found.problems[1:SHOWN]
        more = [f"and {len(found.problems) - SHOWN:,} more"] if len(found.problems) > SHOWN else []
        raise StoreError("\n".join([found.problems[0], *rest, *more]))
    return 0


def check_content(
    request: VerifyRequest, manifest: Manifest, stores: Sequence[KeyValueStore], found: Findings, doing: Doing
) -> None:
    """Looks at what a release's whole files hold, and at what the stores serve of it."""
    root, release, whole = request.root, manifest.release, not manifest.dropped
    with doing.piece(f"rows and order of {release}"):
        found.note(f"rows and order of {release}", check_tables(root, manifest))
    if any(of.kind(manifest) == STRING for of in (USERS, PINS)):
        found.note("names of users and pins", check_names(root, manifest))
    if whole and manifest.tables["pin_embeddings"]:
        entry = manifest.tables["pin_embeddings"][0]
        dim = read_dim(root, entry)
        with doing.piece("indexes"):
            found.note("indexes", check_indexes(root, manifest, dim))
    if not manifest.rows("user_embeddings"):
        return
    seed = secrets.randbelow(1 << 32) if request.seed is None else request.seed
    drawn = draw_rows(root, manifest, request.users, seed)
    found.looked_at.append(f"{len(drawn):,} users drawn with --seed {seed}")
    if whole and request.model and request.pins and not found.problems:
        digest = digest_of(request.model)
        if digest != manifest.model_digest:
            raise InputError(
                f"--model {request.model}: is model {digest[:12]}, {release} is of {manifest.model_digest[:12]}; give "
                "the model that made it"
            )
        version, width = manifest.settings["pinsage_version"], width_of(request.model)
        vectors = describe_vectors(request.pins, version, width, request.columns)
        asked = with_vectors_of_then(root, manifest, drawn)
        with doing.piece("users made again"):
            problems = check_users(root, manifest, asked, request.model, vectors, request.min_cosine)
        left = f", {len(drawn) - len(asked):,} of a night with other --pins left out" if len(asked) < len(drawn) else ""
        found.note(f"{len(asked):,} users made again{left}", problems)
    for store in stores:
        with doing.piece(f"users in {store.url_shown}"):
            found.note(f"{len(drawn):,} users in {store.url_shown}", check_store(store, manifest, drawn, root))


def check_nobody(root: Root, stores: Sequence[KeyValueStore], gone: np.ndarray, found: Findings) -> None:
    """Whether nobody of a list is left under the root or in a store, and all of them are kept out."""
    problems = [
        f"{root.path(path)}: holds one of the erased users, or cannot be read" for path in find_users(root, gone)
    ]
    missing = len(set(gone.tolist()) - set(read_erased(root).tolist()))
    if missing:
        problems.append(f"{root.path('erased')}: lacks {missing} of the users; the next delivery brings them back")
    found.note(f"{len(gone):,} erased users", problems + check_absent(stores, gone))


def check_logs(logs: str, releases: list[Manifest], lookback: int) -> list[str]:
    """Log files that the releases read and that have changed or gone since; every footer is looked at."""
    changed = find_rewritten_logs(logs, releases, lookback, thorough=True)
    return [f"{join(logs, *one.name.split('/'))}: {one.what}; {advise(changed)}" for one in changed]


def digest_of(model: str) -> str:
    """The digest of a model's folder.

    Raises:
        InputError: there is no model in it.
    """
    from pinnerformer_model.checkpoint import model_digest  # brings torch, which only --model computes with

    try:
        return model_digest(model)
    except ModelError as error:
        raise InputError(str(error)) from None


def width_of(model: str) -> int:
    """How wide the vectors are that a model reads.

    Raises:
        InputError: there is no model in the folder.
    """
    from pinnerformer_model.checkpoint import load_config

    try:
        return load_config(model).pin_vector_dim
    except ModelError as error:
        raise InputError(str(error)) from None
