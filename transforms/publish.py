"""Brings a key-value store to a release: by a difference where it is known what the store holds, else as a whole.

What a store holds is known by three facts that it keeps itself: `current`, `contents` (root, release and digest of the
snapshot, by generation), and the note of a publish that is under way. A name alone tells nothing: a new root, a root
that was restored or a chain that was done again has releases of the same names.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stores.errors import OvertakenError, StoreError
from stores.files import Root
from stores.id_names import USERS
from stores.kv import open_store
from stores.kv.base import Content, Current, Generation, KeyValueStore, PublishNote, UploadResult, facts_of_ids
from stores.kv.parts import PartedStore
from stores.layout import read_root_id
from stores.manifests import Manifest, read_manifest
from stores.releases import chain
from stores.tables import read_files
from transforms.publish_buckets import (
    BucketWriter,
    Compared,
    Difference,
    add_results,
    batches,
    read_later,
    values_of,
)


@dataclasses.dataclass(frozen=True)
class PublishTarget:
    """Where a release is published; none of it is written to disk, because a URL may hold a password.

    Attributes:
        rewrite: Write all of it into a new generation, whatever the store says that it holds.
    """

    url: str
    namespace: str
    rewrite: bool = False


def snapshot_digest(manifest: Manifest) -> str:
    """Hex sha256 that names the user embeddings of a release, whatever the release is called."""
    files = sorted((entry.part, entry.checksum) for entry in manifest.tables["user_embeddings"])
    return hashlib.sha256(json.dumps([manifest.model_digest, files]).encode()).hexdigest()


def content_of(root: Root, manifest: Manifest) -> Content:
    """What a generation holds when it is brought to a release."""
    return Content(read_root_id(root), manifest.release, snapshot_digest(manifest))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a release gets into a store.

    Attributes:
        generation: Where it is written.
        bases: What the generation may hold, each a release of this root; users that differ from any of them are sent.
        fresh: A whole new generation, which readers do not see until it is complete.
        note: Left in the store before the first value.
    """

    generation: str
    bases: tuple[Manifest, ...]
    fresh: bool
    note: PublishNote


def publish(root: Root, release: str, target: PublishTarget, *, unless_overtaken: bool = False) -> dict[str, Any]:
    """Brings the key-value store to a release.

    Into a generation of the same model of which it is known what it holds: what differs. From nothing, from another
    model or from another root: a new generation, complete and counted before readers see it. Nothing is sent only where
    the store says that it holds this very snapshot, and no publish was cut off since.

    Args:
        unless_overtaken: Refuse a release that CURRENT does not name, looked at once nobody else can write and again
            before readers are moved: a run that was stopped on its way and goes on much later changes nothing.

    Returns:
        Counters users_sent, users_deleted, users_stored (all of the release); `warnings`, lines to be shown, if there
        are any.

    Raises:
        StoreError: the store failed.
        OvertakenError: another command is ahead of this one.
    """

    def refuse() -> None:
        if unless_overtaken:
            refuse_overtaken(root, release)

    refuse()  # before the writes are taken from whoever has them: that may be the one that is ahead
    with open_store(target.url, target.namespace) as store, store.hold_writes(f"publishing {release} of {root.url}"):
        refuse()
        manifest = read_manifest(root, release)
        mine = content_of(root, manifest)
        served = None if target.rewrite else already_served(store, mine)
        if served is not None:
            return served
        if isinstance(store, PartedStore):
            difference = begin_publish(root, store, manifest, mine, rewrite=target.rewrite)
            writer = BucketWriter(root, store, difference)
            result = add_results(map(writer.write, writer.buckets()))
            if difference.upload.fresh:  # now that all are sent: what came later may have evicted what came first
                result = dataclasses.replace(result, stored=sum(map(writer.count, writer.buckets())))
            return finish_publish(store, difference, result, refuse)
        plan = plan_publish(root, store, manifest, mine, rewrite=target.rewrite)
        gone: list[np.ndarray] = []
        current = current_of(manifest, plan.generation)
        compared = Compared.of(plan.bases, manifest)
        result = store.upload(
            plan.generation,
            batches(root, manifest, compared, compared.buckets(), gone),
            deletes=read_later(gone),
            fresh=plan.fresh,
            current=current,
            note=plan.note,
            confirm=refuse,
        )
        return _counts(store, result, current)


def begin_publish(
    root: Root, store: PartedStore, manifest: Manifest, mine: Content, *, rewrite: bool = False, by: str = ""
) -> Difference:
    """Makes a store ready for the buckets of a release, for a handle that holds the writes.

    Args:
        by: As `PartedStore.begin_upload` takes it.
    """
    plan = plan_publish(root, store, manifest, mine, rewrite=rewrite)
    current = current_of(manifest, plan.generation)
    upload = store.begin_upload(plan.generation, fresh=plan.fresh, current=current, note=plan.note, by=by)
    return Difference(manifest.release, tuple(base.release for base in plan.bases), upload)


def finish_publish(
    store: PartedStore, difference: Difference, result: UploadResult, confirm: Callable[[], None]
) -> dict[str, Any]:
    """Moves readers, once all buckets are there, under the writes that they were written under.

    Args:
        result: What all buckets came to; where the generation is fresh `stored` was counted after the last.

    Returns:
        As `publish`.
    """
    store.finish_upload(difference.upload, result.sent, result.stored, confirm)
    return _counts(store, result, difference.upload.current)


def _counts(store: KeyValueStore, result: UploadResult, current: Current) -> dict[str, Any]:
    # What was sent alone is no count of the store: a night sends what differs.
    counts = {"users_sent": result.sent, "users_deleted": result.deleted, "users_stored": current.users}
    return {**counts, **warnings_of(store)}


def already_served(store: KeyValueStore, mine: Content) -> dict[str, Any] | None:
    """What `publish` returns where the store serves a snapshot, whole; None where it does not."""
    served = store.current()
    if served is None or not is_served(store, served, mine):
        return None
    return {"users_sent": 0, "users_deleted": 0, "users_stored": served.users, **warnings_of(store)}


def current_of(manifest: Manifest, generation: str) -> Current:
    """What a store says of itself once a generation holds a release; also how clients name its users."""
    rows = manifest.rows("user_embeddings")
    facts = facts_of_ids(USERS.kind(manifest))
    return Current(generation, manifest.release, manifest.model_digest, rows, extra=facts)


def warnings_of(store: KeyValueStore) -> dict[str, list[str]]:
    found = store.warnings()
    return {"warnings": found} if found else {}


def refuse_overtaken(root: Root, release: str) -> None:
    """Keeps a release that is not the newest decision out of the store.

    Raises:
        OvertakenError: CURRENT names another; says what would be undone, and what to type.
    """
    newer = []
    for manifest in chain(root):
        if manifest.release == release:
            break
        newer.append(manifest.release)
    else:
        raise OvertakenError(f"release {release}: not in the chain of CURRENT any more; nothing was published")
    if newer:
        raise OvertakenError(
            f"release {release}: CURRENT is {newer[0]} by now, and to publish this one would undo "
            f"{', '.join(reversed(newer))}; nothing was published. To serve the older one on purpose: "
            f"pinnerformer rollback --root {root.url} --kv URL --to {release} --reason TEXT"
        )


def is_served(store: KeyValueStore, served: Current, mine: Content) -> bool:
    """Whether the store says that it serves a snapshot, whole."""
    return served.release == mine.release and store.note() is None and store.contents().get(served.generation) == mine


def plan_publish(root: Root, store: KeyValueStore, manifest: Manifest, mine: Content, *, rewrite: bool = False) -> Plan:
    """Where a release is written, and over what.

    Into the generation that is served, if it is of this model and it is known what it holds; else into another one of
    which that is true (a rollback to an older model); else into a new one, under a name that nothing has.
    """
    held, served, note = store.generations(), store.current(), store.note()
    plan = None
    for name in () if rewrite else ([served.generation] if served else []) + sorted(held, reverse=True):
        if held[name].model_digest == manifest.model_digest and held[name].release is not None:
            ends = _ends_of(root, store, name, held[name], note)
            bases = _releases_of(root, ends)
            if bases:
                ends = (*(end for end in ends if end != mine), mine)
                plan = Plan(name, bases, False, _note_of(note, name, ends))
                break
    if plan is None:
        fresh = f"{manifest.model_digest[:12]}-{manifest.release}"
        taken = {name for name in held if held[name].release is not None}
        names = itertools.chain([fresh], (f"{fresh}.{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        plan = Plan(name, (), True, _note_of(note, name, (mine,)))
    if note is not None and note.generation != plan.generation:
        _give_up(store, note.generation, held)
    return plan


def _note_of(note: PublishNote | None, generation: str, ends: tuple[Content, ...]) -> PublishNote:
    """The note that is there, if it says just that, so that a publish which was cut off goes on; else a new one."""
    if note is not None and (note.generation, note.ends) == (generation, ends):
        return note
    return PublishNote(generation, ends, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))


def _give_up(store: KeyValueStore, generation: str, held: dict[str, Generation]) -> None:
    """Before the note on a half-written generation makes room for another's: what it holds is not known any more.

    One that was never finished is removed: nothing else would remember that it is nobody's.
    """
    store.set_contents({generation: None})
    if generation in held and held[generation].release is None:
        store.delete_generation(generation)


def _ends_of(
    root: Root, store: KeyValueStore, name: str, entry: Generation, note: PublishNote | None
) -> tuple[Content, ...]:
    """Every snapshot that a finished generation's values may be of; nothing if that is not known."""
    content = store.contents().get(name)
    if note is not None and note.generation == name:
        # `contents` may say what a publish was on the way to: it is written before `current` moves.
        return note.ends if entry.release in {end.release for end in note.ends} else ()
    if content is not None and content.release == entry.release and _releases_of(root, (content,)):
        return (content,)
    # An older version wrote it, which says of the release its name alone, or an erasure of it was cut off: the values
    # themselves have to tell. That ends at the first that differs.
    with contextlib.suppress(StoreError):
        claimed = read_manifest(root, str(entry.release))
        if "user_embeddings" not in claimed.dropped and claimed.model_digest == entry.model_digest:
            return (content_of(root, claimed),) if holds(root, store, name, claimed) else ()
    return ()


def _releases_of(root: Root, ends: Sequence[Content]) -> tuple[Manifest, ...] | None:
    """The releases of this root that some contents are; None where one is not, or lacks its snapshot; or of none."""
    own, found = read_root_id(root), []
    for end in dict.fromkeys(ends):
        if end.root != own:
            return None
        try:
            manifest = read_manifest(root, end.release)
        except StoreError:
            return None
        if "user_embeddings" in manifest.dropped or snapshot_digest(manifest) != end.snapshot:
            return None
        found.append(manifest)
    return tuple(found) or None


def holds(root: Root, store: KeyValueStore, generation: str, manifest: Manifest) -> bool:
    """Whether a generation's values are those of a release, every one, and no other; stops at the first difference."""
    for entries in manifest.parts("user_embeddings").values():
        rows = read_files(root, entries, verify=True)
        if store.get_many(generation, rows["user_id"].to_numpy()) != values_of(rows, manifest):
            return False
    return store.count(generation) == manifest.rows("user_embeddings")


def after_erasure(root: Root, store: KeyValueStore, before: dict[str, Content]) -> None:
    """Says what a store holds after users were erased from it and from the root, so that the next publish is small.

    Args:
        before: What `known_contents` gave before the erasure; what was published meanwhile says so itself.
    """
    with store.hold_writes(f"noting an erasure on {root.url}"):
        now, served = store.contents(), store.current()
        changed: dict[str, Content | None] = {}
        for name, content in now.items():
            with contextlib.suppress(StoreError):
                manifest = read_manifest(root, content.release)
                after = content_of(root, manifest)
                # One that was not known is of an erasure that this store was not named to: its values have to tell.
                if after == content or not (before.get(name) == content or _is_erased(root, store, name, manifest)):
                    continue
                changed[name] = after
                if served is not None and served.generation == name:
                    current = dataclasses.replace(served, users=manifest.rows("user_embeddings"))
                    store.upload(name, [], deletes=[], fresh=False, current=current)
        if changed:
            store.set_contents(changed)


def _is_erased(root: Root, store: KeyValueStore, generation: str, manifest: Manifest) -> bool:
    """Whether a generation holds what an erasure left of a release, which had more users when it was published."""
    entry = store.generations().get(generation)
    mine = entry is not None and (entry.release, entry.model_digest) == (manifest.release, manifest.model_digest)
    return mine and "user_embeddings" not in manifest.dropped and holds(root, store, generation, manifest)


def known_contents(root: Root, store: KeyValueStore) -> dict[str, Content]:
    """Generation -> content, of those that hold a release of this root exactly as its manifest says."""
    return {name: content for name, content in store.contents().items() if _releases_of(root, (content,)) is not None}
