"""`pinnerformer gc`: removes old releases, leftovers of runs, and generations that the store no longer serves."""

import time

from pipelines.arguments import Parser, positive, seconds
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


def run(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = Parser(prog="pinnerformer gc", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--root", required=True, metavar="DIR")
    parser.add_argument("--kv", action="append", default=[], metavar="URL", help="may be repeated")
    parser.add_argument("--namespace", default="pinnerformer")
    parser.add_argument("--keep", type=positive, default=7, metavar="N", help="releases as a whole (%(default)s)")
    parser.add_argument(
        "--keep-snapshots", type=positive, default=400, metavar="N", help="user embeddings of so many (%(default)s)"
    )
    parser.add_argument(
        "--keep-staging", type=seconds, default="7d", metavar="7d", help="leftovers of runs that did not commit"
    )
    parser.add_argument(
        "--keep-generation", type=seconds, default="2d", metavar="2d", help="vectors of a model served no longer"
    )
    parser.add_argument(
        "--grace",
        type=seconds,
        default="1h",
        metavar="1h",
        help="age of files that nothing names: some may be in writing",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    arguments = parser.parse_args(argv)
    root = Root(arguments.root)
    require_layout(root)
    stores = [open_store(url, arguments.namespace) for url in arguments.kv]
    retention = Retention(arguments.keep, arguments.keep_snapshots, arguments.keep_staging, arguments.grace)
    with hold_lease(root, "gc"):
        served = {current.release for store in stores if (current := store.current())}
        collected = collect(root, retention, served, dry_run=arguments.dry_run)
        swept = sum(
            sweep_generations(store, arguments.keep_generation, arguments.dry_run, protected(root)) for store in stores
        )
    for store in stores:
        store.close()
    would = "would be " if arguments.dry_run else ""
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
    current, users = store.current(), 0
    for name, found in store.generations().items():
        if current is None or name == current.generation:
            continue
        unfinished = found.release is None and found.model_digest not in digests
        old = found.retired_at is not None and time.time() - found.retired_at > keep_s
        if unfinished or old:
            users += store.count(name) if dry_run else store.delete_generation(name)
    return users
