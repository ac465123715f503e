"""CURRENT, and the chain of releases behind it."""

import dataclasses
import datetime
from collections.abc import Collection, Iterator
from typing import Any

from stores.errors import StoreError
from stores.files import Root
from stores.manifests import Manifest, check_release_id, manifest_path, read_manifest
from stores.upgrades import HOLD, MOVE, read_record, write_record

CURRENT = "CURRENT"


def current_release(root: Root) -> str | None:
    """The id of the newest committed release; None on an empty root.

    Raises:
        StoreError: CURRENT holds no id.
    """
    try:
        content = root.read_bytes(CURRENT)
    except FileNotFoundError:
        return None
    try:
        release = content.decode().strip()
        check_release_id(release)
    except ValueError:
        raise StoreError(
            f"{root.path(CURRENT)}: {content[:40]!r} is no release's id; it was damaged, restore it from a backup, or "
            "write into it the id of the release that `pinnerformer retrieve` answers from"
        ) from None
    return release


def read_current(root: Root) -> Manifest | None:
    """The manifest of the newest committed release; None on an empty root."""
    release = current_release(root)
    return None if release is None else read_manifest(root, release)


HELD = "HELD"
HELD_BEFORE = "PINNED"  # what the file was called at first: still read, and removed when a hold is lifted


@dataclasses.dataclass(frozen=True)
class Hold:
    """Why a root is held at a release: `ROOT/HELD`.

    Attributes:
        release: The one that it was rolled back to.
        rolled_back: The one that was newest before.
        reason: The operator's.
        since: When, UTC.
        extra: Keys of a newer version.
    """

    release: str
    rolled_back: str
    reason: str
    since: str
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def held_by(root: Root) -> str:
    """The name of the file that holds the root; empty if nothing does."""
    return next((name for name in (HELD, HELD_BEFORE) if root.exists(name)), "")


def read_hold(root: Root) -> Hold | None:
    """What holds the root at a release; None if nothing does.

    Raises:
        StoreError: the file is damaged, or of a format that this version does not read.
    """
    path = root.path(name := held_by(root) or HELD)
    try:
        return read_record(HOLD, Hold, root.read_json(name), path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(f"{path}: not understood ({error}); `pinnerformer rollback --lift-hold` removes it") from None


def write_hold(root: Root, hold: Hold) -> None:
    """Holds a root; whatever held it before does so no more."""
    root.write_json(HELD, write_record(hold))
    # After the new file is there: at no moment is a held root free.
    root.remove(HELD_BEFORE)


MOVED = "MOVED"


@dataclasses.dataclass(frozen=True)
class Move:
    """Where nights and readers of a root go on: `ROOT/MOVED`, written by `rebucket --switch`.

    Attributes:
        root_id: Of the root that took its place.
        url: Of that root.
        since: When, UTC.
        extra: Keys of a newer version.
    """

    root_id: str
    url: str
    since: str
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_move(root: Root) -> Move | None:
    """Which root took the place of this one; None if none did.

    Raises:
        StoreError: the file is damaged, or of a format that this version does not read.
    """
    path = root.path(MOVED)
    try:
        return read_record(MOVE, Move, root.read_json(MOVED), path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(f"{path}: not understood ({error}); {MOVE.way_out}") from None


def write_move(root: Root, move: Move) -> None:
    """From now on no run starts on a root, and its readers follow the store to the other."""
    root.write_json(MOVED, write_record(move))


def refuse_moved(root: Root) -> None:
    """Keeps a run off a root whose place another took: two roots that both publish would take readers to and fro.

    Raises:
        StoreError: names the other root, and what to type to go on here after all.
    """
    move = read_move(root)
    if move is not None:
        raise StoreError(
            f"{root.path(MOVED)}: {move.url} took the place of this root on {move.since}: give --root {move.url}; to "
            f"go on here after all: pinnerformer rollback --root {root.url} --lift-hold, and start this again"
        )


def remove_hold(root: Root) -> bool:
    """Lifts whatever keeps runs off a root, a damaged hold too; returns whether anything did."""
    held = bool(held_by(root)) or root.exists(MOVED)
    for name in (HELD, HELD_BEFORE, MOVED):
        root.remove(name)
    return held


def refuse_held(root: Root) -> None:
    """Keeps a run from building on a release that somebody rolled back to, until they say so.

    Raises:
        StoreError: the root is held, or another took its place; says since when, why and what to type.
    """
    refuse_moved(root)
    hold = read_hold(root)
    if hold is not None:
        raise StoreError(
            f"{root.path(held_by(root))}: {hold.rolled_back} was rolled back to {hold.release} on {hold.since} "
            f"({hold.reason}); once what made it bad is mended: pinnerformer rollback --root {root.url} --lift-hold, "
            "and start this again"
        )


def rolled_back_path(release: str) -> str:
    return f"releases/{release}/rolled_back.json"


def move_current(root: Root, previous: str | None, release: str) -> None:
    """Moves CURRENT from `previous` to `release`; does nothing if it is there already.

    Raises:
        StoreError: CURRENT names something else by now: another run was faster.
    """
    expected = None if previous is None else f"{previous}\n".encode()
    # The one place where a release becomes visible; two runs may get here, one swaps.
    if root.compare_and_swap(CURRENT, expected, f"{release}\n".encode()):
        return
    # Not swapped may also mean: swapped by an earlier attempt, or the answer was lost. What is there decides.
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
        # A manifest that was mended by hand may name itself; a loop would hang every command.
        if release in seen:
            raise StoreError(f"{root.path('releases/' + release)}: is its own ancestor; restore its manifest")
        seen.add(release)
        manifest = read_manifest(root, release)
        yield manifest
        release = manifest.previous


def committed_releases(root: Root) -> set[str]:
    """The releases of the chain, of the chains that its releases took the place of, and those rolled back."""
    heads: list[str | None] = [current_release(root)]
    found: set[str] = set()
    while heads:
        head = heads.pop()
        for manifest in chain(root, head) if head else ():
            if manifest.release in found:
                break
            found.add(manifest.release)
            # The chain that was replaced is no ancestor, but its releases keep their ids.
            over = manifest.settings.get("over")
            if over and root.exists(manifest_path(over)):
                heads.append(over)
    return found | {name for name in root.list("releases") if root.exists(rolled_back_path(name))}


def is_made_by(root: Root, release: str, run: str) -> bool:
    """Whether a release's manifest is there and a run of this name wrote it."""
    return root.exists(manifest_path(release)) and read_manifest(root, release).settings.get("run") == run


def next_release_id(root: Root, date: datetime.date, taken: Collection[str] | None = None) -> str:
    """The id the next release of a date gets: `2026-11-24`, then `2026-11-24.2`, `2026-11-24.3`, ...

    A manifest that a killed run wrote without committing it takes no id: it is written over. Releases of a chain that
    was done again, or that were rolled back, keep theirs.

    Args:
        taken: What `committed_releases` gave, for who asks for many dates.
    """
    taken = committed_releases(root) if taken is None else taken
    release, attempt = date.isoformat(), 1
    while release in taken:
        attempt += 1
        release = f"{date.isoformat()}.{attempt}"
    return release
