"""`pinnerformer rollback`: serves an older release again, and keeps the next night from building on the bad one."""

import dataclasses
import datetime
import sys

from pipelines.arguments import Parser
from pipelines.outcomes import open_target
from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.lease import hold_lease
from stores.manifests import Manifest, read_manifest
from stores.releases import (
    PINNED,
    Pin,
    chain,
    current_release,
    move_current,
    read_pin,
    rolled_back_path,
)
from transforms.release import publish

DESCRIPTION = """\
Serves an older release again: moves CURRENT to it, then brings the key-value store to it as the difference of the two
snapshots. An older model's vectors are taken from its generation if the store still has it, else written anew.

The root is then PINNED: `daily` refuses to run until `rollback --unpin`. The next run builds on the release rolled back
to, and reads again what the bad one had read. May be repeated after any interruption.
"""

EPILOG = """\
examples:
  pinnerformer rollback --root ROOT --kv URL --reason "half of the log was missing"       # to the release before
  pinnerformer rollback --root ROOT --kv URL --to 2026-11-20 --reason "bad since the 21st"
  pinnerformer rollback --root ROOT --unpin                                               # the cause is mended
"""


def run(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = Parser(prog="pinnerformer rollback", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--root", required=True, metavar="DIR")
    parser.add_argument("--kv", metavar="URL", help="where the releases of this root are published")
    parser.add_argument("--namespace", default="pinnerformer")
    parser.add_argument("--publish", choices=("store", "none"), default="store", help="none: move CURRENT only")
    parser.add_argument("--to", metavar="RELEASE", help="default: the release before CURRENT")
    parser.add_argument("--reason", metavar="TEXT", help="why; shown to whoever comes next")
    parser.add_argument("--unpin", action="store_true", help="let `daily` run again")
    arguments = parser.parse_args(argv)
    root = Root(arguments.root)
    if arguments.unpin:
        if arguments.to or arguments.reason:
            raise UsageError("--unpin goes alone: it moves nothing")
        with hold_lease(root, "rollback --unpin"):
            pin = read_pin(root)
            root.remove(PINNED)
        print(f"unpinned; CURRENT is {current_release(root)}" if pin else "was not pinned", file=sys.stderr)
        return 0
    target = open_target(arguments)
    with hold_lease(root, "rollback"):
        to = roll_back(root, arguments.to, (arguments.reason or "").strip())
        sent = publish(root, to.release, target) if target else None
    words = f"{sent['users_sent']:,} users sent, {sent['users_deleted']:,} deleted" if sent else "nothing published"
    print(
        f"CURRENT is {to.release}; {words}\npinned: `daily` refuses to run until "
        f"pinnerformer rollback --root {root.url} --unpin",
        file=sys.stderr,
    )
    return 0


def roll_back(root: Root, to: str | None, reason: str) -> Manifest:
    """Pins the root at a release and moves CURRENT to it; goes on where an earlier attempt stopped.

    Args:
        to: The release; None: the one before CURRENT, or the one that an earlier attempt was on the way to.
        reason: Kept in PINNED.

    Returns:
        The manifest of the release that CURRENT names now.

    Raises:
        StoreError: there is no such release, or files of it are missing; nothing was moved.
        UsageError: no reason.
    """
    current = current_release(root)
    if current is None:
        raise StoreError(f"{root.url}: no release in it, nothing to roll back")
    pin = read_pin(root)
    if to is None:
        to = pin.release if pin else read_manifest(root, current).previous
    if to is None:
        raise StoreError(f"{root.url}: {current} is the first release, there is none before it")
    manifest = read_manifest(root, to)
    check_complete(root, manifest)
    if pin is None or pin.release != to:
        if not reason:
            raise UsageError("--reason is missing: whoever comes next has to know why")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
        pin = Pin(to, current, reason, now)
        root.write_json(PINNED, dataclasses.asdict(pin))
    ancestors = [found.release for found in chain(root)]
    if to in ancestors:  # forward again, there is nothing to mark
        for release in ancestors[: ancestors.index(to)]:
            root.write_json(rolled_back_path(release), dataclasses.asdict(pin))
    move_current(root, current, to)
    return manifest


def check_complete(root: Root, manifest: Manifest) -> None:
    """Refuses a release that cannot be served.

    Raises:
        StoreError: `gc` dropped tables of it, or a file is missing or of another size.
    """
    if manifest.dropped:
        raise StoreError(
            f"{root.url}: release {manifest.release} has no {', '.join(manifest.dropped)} any more (gc removed them); "
            "choose a later one"
        )
    for entries in manifest.tables.values():
        for entry in entries:
            size = root.size(entry.path)
            if size != entry.bytes:
                found = "is missing" if size is None else f"has {size} bytes instead of {entry.bytes}"
                raise StoreError(f"{root.path(entry.path)}: {found}; choose another release than {manifest.release}")
