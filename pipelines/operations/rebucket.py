"""`pinnerformer rebucket`: makes a root of other counts from an old one, and sends nights and readers there."""

import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Sequence

from pipelines.operations.outcomes import warn
from pipelines.operations.rollback import check_complete
from pipelines.planning.rebucket_request import RebucketRequest, parse
from pipelines.telemetry.lines import say
from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.kv import open_store
from stores.kv_urls import without_password
from stores.layout import FILE_MODE, check_layout, find_root_id, read_root_id, require_layout
from stores.lease import hold_lease
from stores.manifests import Manifest, read_manifest
from stores.releases import Move, chain, current_release, read_current, read_move, refuse_held, write_move
from transforms.publish import PublishTarget, publish
from transforms.rebucket import BEGUN, Rebucketing, begin, rebucket
from transforms.verification import check_files

PROGRESS_S = 2.0


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    source, out = request.root, request.out
    targets = [PublishTarget(url, request.namespace) for url in request.stores] if request.switch else []
    for target in targets:
        with open_store(target.url, target.namespace) as store:
            store.check()
    require_layout(source)
    # The source's lease: neither `gc` nor `erase` takes away what is read, and no night commits what would be left.
    with hold_lease(source, "rebucket"):
        made = find_made(source, out) if request.switch else None
        if made is None:
            job = plan_rebucket(request)
            begin(job)
            with hold_lease(out, f"rebucket of {source.url}"):
                made = rebucket(job)
                print_made(job, made)
        if request.switch:
            switch(source, out, targets)
    return 0


def plan_rebucket(request: RebucketRequest) -> Rebucketing:
    """Looks at the old root and refuses what cannot be taken over, before anything is written.

    Raises:
        StoreError: the root is held, or its release damaged or slimmed.
        UsageError: nothing would change.
    """
    source = request.root
    layout = require_layout(source)
    refuse_held(source)
    release = request.release or current_release(source)
    if release is None:
        raise StoreError(f"--root {source.url}: no release in it")
    manifest = read_manifest(source, release)
    check_layout(source, layout, manifest.settings, release)
    check_complete(source, manifest)
    wanted = dataclasses.replace(
        layout,
        user_buckets=request.user_buckets or layout.user_buckets,
        pin_shards=request.pin_shards or layout.pin_shards,
    )
    if wanted == layout:
        raise UsageError(
            f"--user-buckets, --pin-shards: {source.url} has {layout.user_buckets:,} and {layout.pin_shards:,} of "
            "them; give another number of one"
        )
    show = progress(request.quiet)
    show("checking the files of the old root")
    problems = check_files(source, manifest)
    if problems:
        raise StoreError("\n".join([*problems[:20], "restore these files, or give another --release"]))
    file_mode = source.read_json("layout.json").get(FILE_MODE)
    return Rebucketing(source, manifest, request.out, layout, wanted, file_mode, show)


def find_made(source: Root, out: Root) -> Manifest | None:
    """The newest release of a root that was made from another earlier; None where it was not, or not to its end."""
    current = read_current(out)
    if current is None or out.exists(BEGUN):
        return None
    own = find_root_id(source)
    came = [manifest.settings.get("rebucketed", {}).get("root") for manifest in chain(out)]
    return current if own is not None and own in came else None


def switch(source: Root, out: Root, targets: Sequence[PublishTarget]) -> None:
    """Sends nights and readers of a root to the one made from it; may be repeated after any interruption.

    Raises:
        UsageError: the old root has gone on since, and readers would be taken back.
        StoreError: another root took its place; a store failed.
    """
    newest, current = read_current(source), read_current(out)
    assert newest is not None and current is not None  # the caller made or found both
    if current.day < newest.day:
        raise UsageError(
            f"--out {out.url}: is at {current.release}, and {source.url} at {newest.release}; run `pinnerformer daily "
            f"--root {out.url} --date {newest.date} --publish none` first, then this again"
        )
    moved, new_id = read_move(source), read_root_id(out)
    if moved is not None and moved.root_id != new_id:
        raise StoreError(f"{source.path('MOVED')}: {moved.url} took its place already; give --root {moved.url}")
    if moved is None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
        # Before the stores: from the moment that one serves the new root, readers of the old one find their way.
        write_move(source, Move(new_id, out.url, now))
    with hold_lease(out, f"rebucket --switch of {source.url}"):
        for target in targets:
            sent = publish(out, current.release, target, unless_overtaken=True)
            warn(sent)
            counts = f"{sent['users_sent']:,} users sent, {sent['users_deleted']:,} deleted"
            say(f"{without_password(target.url)}: serves {current.release} of {out.url}; {counts}")
    say(f"{source.url}: nights are refused from now on; give --root {out.url}")


def print_made(job: Rebucketing, made: Manifest) -> None:
    """Says what was made."""
    rows = ", ".join(f"{made.rows(table):,} of {table}" for table in made.tables if table != "indexes")
    say(
        f"{job.out.url}: {made.release} in {job.layout.user_buckets:,} user buckets and {job.layout.pin_shards:,} pin "
        f"shards; rows: {rows}"
    )


def progress(quiet: bool) -> Callable[[str], None]:
    """A function that shows a line at most every two seconds; where nobody sits and looks, every half minute."""
    every_s = PROGRESS_S if sys.stderr.isatty() else 15 * PROGRESS_S
    shown = time.monotonic() - every_s

    def show(words: str) -> None:
        nonlocal shown
        if not quiet and time.monotonic() - shown >= every_s:
            shown = time.monotonic()
            say(words)

    return show
