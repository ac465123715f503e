"""`pinnerformer gc`: removes old releases, leftovers of runs, and generations that the store no longer serves."""

import dataclasses
import time

from pipelines.arguments import Parser, add_quiet, add_root, add_stores, positive, seconds
from pipelines.operations.doing import QUIET, Doing
from stores.files import Root
from stores.kv import KeyValueStore, open_store
from stores.layout import require_layout
from stores.lease import hold_lease
from stores.releases import chain
from stores.retention import Retention, collect

DESCRIPTION = """\
Keeps the newest --keep releases as a whole and the user embeddings of the newest --keep-snapshots; of older ones the
manifest alone, which says what was read. Never touches a file that a kept manifest names, nor a release that a store
given with --kv serves, nor the two that a rollback concerns. Removes what runs left behind, and generations of vectors
that the stores have not served for --keep-generation.

Name EVERY store that this root is published to: a release that is served and not known to be would be slimmed.
"""

EPILOG = """\
examples:
  pinnerformer gc --root ROOT --kv lmdb:///var/lib/pinnerformer --dry-run
  pinnerformer gc --root ROOT --kv redis://HOST/0 --keep 7 --keep-snapshots 400 --keep-generation 2d
"""


@dataclasses.dataclass(frozen=True)
class GcRequest:
    """What `pinnerformer gc` is asked for.

    Attributes:
        stores: URLs of all stores that the root is published to.
        retention: What is kept.
        keep_generation_s: How long a generation stays that is served no longer.
        dry_run: Whether to say what would be removed, and remove nothing.
        quiet: Whether to say nothing of progress.
    """

    root: Root
    stores: tuple[str, ...]
    namespace: str
    retention: Retention
    keep_generation_s: float
    dry_run: bool
    quiet: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer gc`."""
    parser = Parser(prog="pinnerformer gc", description=DESCRIPTION, epilog=EPILOG)
    add_root(parser)
    add_stores(parser)
    parser.add_argument("--keep", type=positive, default=7, metavar="N", help="releases as a whole")
    parser.add_argument("--keep-snapshots", type=positive, default=400, metavar="N", help="user embeddings of so many")
    for flag, default, text in (
        ("--keep-staging", "7d", "leftovers of runs that did not commit"),
        ("--keep-generation", "2d", "vectors of a model served no longer"),
        ("--grace", "1h", "age of files that nothing names: some may be in writing"),
    ):
        parser.add_argument(flag, type=seconds, default=default, metavar=default, help=f"{text}")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    add_quiet(parser, QUIET)
    return parser


def parse(argv: list[str]) -> GcRequest:
    """Reads the flags of `pinnerformer gc`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    return GcRequest(
        root=Root(found.root),
        stores=tuple(found.kv),
        namespace=found.namespace,
        retention=Retention(found.keep, found.keep_snapshots, found.keep_staging, found.grace),
        keep_generation_s=found.keep_generation,
        dry_run=found.dry_run,
        quiet=found.quiet,
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    root, dry_run, doing = request.root, request.dry_run, Doing(not request.quiet)
    require_layout(root)
    stores = [open_store(url, request.namespace) for url in request.stores]
    with hold_lease(root, "gc"):
        served = {current.release for store in stores if (current := store.current())}
        with doing.piece("collect files"):
            collected = collect(root, request.retention, served, dry_run=dry_run)
        digests, swept = protected(root), 0
        for store in stores:
            with doing.piece(f"sweep {store.url_shown}"):
                swept += sweep_generations(store, request.keep_generation_s, dry_run, digests)
    for store in stores:
        store.close()
    would = "would be " if dry_run else ""
    for release, tables in collected.slimmed.items():
        print(f"release {release}: {would}slimmed by {', '.join(tables)}")
    for name in collected.runs:
        print(f"staging/{name}: {would}removed")
    print(
        f"{len(collected.files):,} files, {collected.bytes / 1e6:,.1f} MB {would}removed; {swept:,} users in old "
        f"generations {would}removed"
    )
    return 0


def protected(root: Root) -> set[str]:
    """Digests of the models that may be published any moment: CURRENT's."""
    newest = next(iter(chain(root)), None)
    return {newest.model_digest} if newest else set()


def sweep_generations(store: KeyValueStore, keep_s: float, dry_run: bool, digests: set[str]) -> int:
    """Removes generations that have not been served for so long, and unfinished ones of other models.

    Returns:
        How many users they had.
    """
    if dry_run:
        return sum(store.count(name) for name in old_generations(store, keep_s, digests))
    if not old_generations(store, keep_s, digests):
        return 0  # the writes are taken from nobody
    with store.hold_writes("gc of old generations"):
        return sum(store.delete_generation(name) for name in old_generations(store, keep_s, digests))


def old_generations(store: KeyValueStore, keep_s: float, digests: set[str]) -> list[str]:
    """Generations that have not been served for so long, and unfinished ones that nobody is writing."""
    current, note, found = store.current(), store.note(), []
    for name, entry in store.generations().items():
        if current is None or name == current.generation:
            continue
        left = note is None or note.generation != name  # a publish that goes on notes what it writes
        unfinished = entry.release is None and (left or entry.model_digest not in digests)
        if unfinished or (entry.retired_at is not None and time.time() - entry.retired_at > keep_s):
            found.append(name)
    return found
