"""What a root keeps, and for how long: releases as a whole, then their user embeddings, then what they read."""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

from stores.errors import StoreError
from stores.files import Root
from stores.manifests import Manifest, manifest_path, read_manifest, write_manifest
from stores.releases import chain, read_hold
from stores.tables import KNOWN_TABLES, SORTED

COLLECTING = "gc.json"  # what a `gc` is about to remove: it is there while one is under way, or was cut off


@dataclasses.dataclass(frozen=True)
class Retention:
    """What stays.

    Attributes:
        releases: The newest so many, as a whole.
        snapshots: The newest so many, their table user_embeddings alone: downstream training joins on dates.
        staging_s: Age past which the leftovers of a run that did not commit are removed.
        grace_s: Age past which a file that nothing names, or of a temporary name, is nobody's. Before, it may be being
            written: by a worker that outlived its driver, or by a detached run, which holds no lease.
    """

    releases: int = 7
    snapshots: int = 400
    staging_s: float = 7 * 86_400.0
    grace_s: float = 3_600.0


@dataclasses.dataclass(frozen=True)
class Collected:
    """What `collect` removed, or would.

    Attributes:
        slimmed: Release -> tables dropped from its manifest.
        runs: Folders under `staging/`.
        files: Paths of table files.
        bytes: Of those files.
    """

    slimmed: dict[str, list[str]]
    runs: list[str]
    files: list[str]
    bytes: int


def plan_slimming(root: Root, retention: Retention, served: Iterable[str]) -> dict[str, list[str]]:
    """Release -> tables that its manifest gives up.

    A manifest itself is never removed: the chain stays whole, and which log files were read stays known, which is what
    finds late files.

    Args:
        served: Releases that a key-value store serves: they stay whole.
    """
    # By the chain and not by date: a release that was replaced or rolled back is old, however young.
    newest = [manifest.release for manifest in chain(root)]
    whole = {*newest[: retention.releases], *served}
    hold = read_hold(root)
    # Both stay whole: the one that is served, and the one that somebody is about to look into.
    if hold is not None:
        whole |= {hold.release, hold.rolled_back}
    with_snapshot = {*newest[: max(retention.releases, retention.snapshots)]}
    slimmed = {}
    for release in root.list("releases"):
        if release in whole or not root.exists(manifest_path(release)):
            continue
        keeps = {"user_embeddings"} if release in with_snapshot else set()
        manifest = read_manifest(root, release)
        drops = [
            table for table in KNOWN_TABLES if table in manifest.tables and table not in {*keeps, *manifest.dropped}
        ]
        if drops:
            slimmed[release] = drops
    return slimmed


def slim(manifest: Manifest, tables: list[str]) -> Manifest:
    """A manifest without the files of some tables."""
    left = {name: [] if name in tables else entries for name, entries in manifest.tables.items()}
    dropped = [name for name in manifest.tables if name in tables or name in manifest.dropped]
    return dataclasses.replace(manifest, tables=left, dropped=dropped, revision=manifest.revision + 1)


def old_runs(root: Root, retention: Retention, slimmed: Iterable[str], now: float) -> list[str]:
    """Runs whose folder under `staging/` nobody needs: of a release not kept as a whole, or given up long ago."""
    releases = {name for name in root.list("releases") if root.exists(manifest_path(name))} - set(slimmed)
    whole = {m.settings.get("run") for m in (read_manifest(root, name) for name in releases) if not m.dropped}
    found = []
    for run in root.list("staging"):
        if run in whole:
            continue
        if is_committed(root, run):
            found.append(run)
            continue
        touched = max((root.modified(path) for path in walk(root, f"staging/{run}")), default=0.0)
        if now - touched > retention.staging_s:
            found.append(run)
    return found


def is_committed(root: Root, run: str) -> bool:
    """Whether a run got as far as its release: then the manifest, and not the run, says what is kept."""
    found = _read_if_whole(root, f"staging/{run}/outcome.json")
    return isinstance(found, dict) and found.get("outcome") == "committed"


def _read_if_whole(root: Root, relative: str) -> Any:
    """Content of a JSON file of a run; None where it is missing, or a power cut damaged it: it counts for nothing."""
    try:
        return root.read_json(relative)
    except (FileNotFoundError, StoreError):
        return None


def walk(root: Root, folder: str) -> Iterator[str]:
    """Paths of every file under a folder, relative to the root."""
    for name in root.list(folder, temporary=True):
        path = f"{folder}/{name}"
        if root.size(path) is None:
            yield from walk(root, path)
        else:
            yield path


def temporary_files(root: Root, folder: str) -> Iterator[str]:
    """Names that killed writers left in a folder and, of folders that are not the root's own, below it."""
    for name in root.list(folder, temporary=True):
        path = f"{folder}/{name}" if folder else name
        if name.startswith(".tmp-"):
            yield path
        elif folder and root.size(path) is None:
            yield from temporary_files(root, path)


def named_files(value: Any) -> Iterator[str]:
    """Paths of the file entries anywhere in a JSON value: manifests, markers, reports."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and "checksum" in value:
            yield value["path"]
        else:
            for inner in value.values():
                yield from named_files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from named_files(inner)


def kept_files(root: Root, slimmed: dict[str, list[str]], removed_runs: Iterable[str]) -> set[str]:
    """Paths that a manifest, once slimmed, or a run that may go on, names."""
    kept: set[str] = set()
    for release in root.list("releases"):
        if root.exists(manifest_path(release)):
            manifest = read_manifest(root, release)
            manifest = slim(manifest, slimmed[release]) if release in slimmed else manifest
            kept |= {entry.path for entries in manifest.tables.values() for entry in entries}
    for run in set(root.list("staging")) - set(removed_runs):
        if is_committed(root, run):
            continue
        for path in walk(root, f"staging/{run}"):
            if path.endswith(".json"):
                kept |= set(named_files(_read_if_whole(root, path)))
    return kept


def collect(root: Root, retention: Retention, served: Iterable[str], *, dry_run: bool = False) -> Collected:
    """Removes what nothing kept names any more; the caller holds the lease, so that no run is under way.

    Manifests are slimmed first, so that at no moment one names a file that is gone; stopped halfway and started again
    it removes the rest, which it has noted in `gc.json`.
    """
    slimmed = plan_slimming(root, retention, served)
    now = time.time()
    runs = old_runs(root, retention, slimmed, now)
    # `known` are files that a manifest or run named before: nobody is writing them, so they need no grace.
    kept, known = kept_files(root, slimmed, runs), kept_files(root, {}, ())
    files = [path for table in KNOWN_TABLES for path in walk(root, table) if path not in kept]
    files += [path for folder in ("", "releases", "erasures", SORTED) for path in temporary_files(root, folder)]
    left = _left_by_gc(root)
    files = [
        path
        for path in files
        if path in known or (written := root.modified(path)) < left.get(path, 0.0) or now - written > retention.grace_s
    ]
    size = sum(root.size(path) or 0 for path in files)
    if not dry_run:
        # This order: manifests, then files. The other way round a kill would leave a manifest that names what is gone.
        if files:
            root.write_json(COLLECTING, {"files": files})
        for release, tables in slimmed.items():
            write_manifest(root, slim(read_manifest(root, release), tables))
        for run in runs:
            root.remove(f"staging/{run}")
        for path in files:
            root.remove(path)
        root.remove(COLLECTING)
    return Collected(slimmed, runs, files, size)


def _left_by_gc(root: Root) -> dict[str, float]:
    """Files that a `gc` which was cut off was about to remove -> since when nothing named them, as it saw it."""
    found = _read_if_whole(root, COLLECTING)
    if not isinstance(found, dict) or not isinstance(found.get("files"), list):
        return {}
    return dict.fromkeys(filter(lambda path: isinstance(path, str), found["files"]), root.modified(COLLECTING))
