"""CURRENT, and the chain of releases behind it."""

import datetime
from collections.abc import Iterator

from stores.errors import StoreError
from stores.files import Root
from stores.manifests import Manifest, read_manifest

CURRENT = "CURRENT"


def current_release(root: Root) -> str | None:
    """The id of the newest committed release; None on an empty root."""
    try:
        return root.read_bytes(CURRENT).decode().strip() or None
    except FileNotFoundError:
        return None


def read_current(root: Root) -> Manifest | None:
    """The manifest of the newest committed release; None on an empty root."""
    release = current_release(root)
    return None if release is None else read_manifest(root, release)


def move_current(root: Root, previous: str | None, release: str) -> None:
    """Moves CURRENT from `previous` to `release`; does nothing if it is there already.

    Raises:
        StoreError: CURRENT names something else by now: another run was faster.
    """
    expected = None if previous is None else f"{previous}\n".encode()
    if root.compare_and_swap(CURRENT, expected, f"{release}\n".encode()):
        return
    found = current_release(root)
    if found != release:
        raise StoreError(
            f"{root.path(CURRENT)}: names {found}, this run was built on {previous}; "
            "another run committed meanwhile, start this one again"
        )


def chain(root: Root, start: str | None = None) -> Iterator[Manifest]:
    """The releases from `start` (default: CURRENT) back to the first, newest first."""
    release = start or current_release(root)
    seen = set()
    while release is not None:
        if release in seen:
            raise StoreError(f"{root.path('releases/' + release)}: is its own ancestor; restore its manifest")
        seen.add(release)
        manifest = read_manifest(root, release)
        yield manifest
        release = manifest.previous


def next_release_id(root: Root, date: datetime.date) -> str:
    """The id the next release of a date gets: `2026-11-24`, then `2026-11-24.2`, `2026-11-24.3`, ...

    A manifest that a killed run wrote without committing it takes no id: it is written over.
    """
    taken = {manifest.release for manifest in chain(root)}
    release, attempt = date.isoformat(), 1
    while release in taken:
        attempt += 1
        release = f"{date.isoformat()}.{attempt}"
    return release
