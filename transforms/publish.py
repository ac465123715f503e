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
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from stores.errors import OvertakenError, StoreError
from stores.files import Root
from stores.id_names import USERS
from stores.kv import open_store
from stores.kv.base import Batch, Content, Current, Generation, KeyValueStore, PublishNote, facts_of_ids
from stores.kv.codec import encode_values
from stores.layout import read_root_id
from stores.manifests import Manifest, read_manifest
from stores.releases import chain
from stores.schemas import from_binary_column
from stores.tables import read_files
from stores.user_lists import read_erased


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
        mine, served = content_of(root, manifest), store.current()
        if served is not None and not target.rewrite and is_served(store, served, mine):
            return {"users_sent": 0, "users_deleted": 0, "users_stored": served.users, **_warnings(store)}
        plan = plan_publish(root, store, manifest, mine, rewrite=target.rewrite)
        gone: list[np.ndarray] = []
        current = current_of(manifest, plan.generation)
        result = store.upload(
            plan.generation,
            _batches(root, manifest, plan, gone),
            deletes=_read_later(gone),
            fresh=plan.fresh,
            current=current,
            note=plan.note,
            confirm=refuse,
        )
        # What was sent alone is no count of the store: a night sends what differs.
        counts = {"users_sent": result.sent, "users_deleted": result.deleted, "users_stored": current.users}
        return {**counts, **_warnings(store)}


def current_of(manifest: Manifest, generation: str) -> Current:
    """What a store says of itself once a generation holds a release; also how clients name its users."""
    rows = manifest.rows("user_embeddings")
    facts = facts_of_ids(USERS.kind(manifest))
    return Current(generation, manifest.release, manifest.model_digest, rows, extra=facts)


def _warnings(store: KeyValueStore) -> dict[str, list[str]]:
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
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    plan = None
    for name in () if rewrite else ([served.generation] if served else []) + sorted(held, reverse=True):
        if held[name].model_digest == manifest.model_digest and held[name].release is not None:
            ends = _ends_of(root, store, name, held[name], note)
            bases = _releases_of(root, ends)
            if bases:
                plan = Plan(name, bases, False, PublishNote(name, (*(end for end in ends if end != mine), mine), now))
                break
    if plan is None:
        fresh = f"{manifest.model_digest[:12]}-{manifest.release}"
        taken = {name for name in held if held[name].release is not None}
        names = itertools.chain([fresh], (f"{fresh}.{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        plan = Plan(name, (), True, PublishNote(name, (mine,), now))
    if note is not None and note.generation != plan.generation:
        _give_up(store, note.generation, held)
    return plan


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


def _batches(root: Root, manifest: Manifest, plan: Plan, gone: list[np.ndarray]) -> Iterator[Batch]:
    """Users to send and their values; users to delete are added to `gone`.

    Nobody in ROOT/erased is sent, though an erasure that was cut off may not have come to this release yet.
    """
    erased = read_erased(root)
    for deleted, rows in changed_rows(root, plan.bases, manifest):
        hit = np.isin(rows["user_id"].to_numpy(), erased)
        gone.append(np.concatenate([deleted, rows["user_id"].to_numpy()[hit]]))
        rows = rows.filter(pa.array(~hit))
        if rows.num_rows:
            yield rows["user_id"].to_numpy(), values_of(rows, manifest)


def _read_later(gone: list[np.ndarray]) -> Iterator[np.ndarray]:
    yield from gone  # filled while the batches are read, which is before this


def values_of(rows: pa.Table, manifest: Manifest) -> list[bytes]:
    """What the store holds for each row of a snapshot."""
    day = rows["embedding_date"].cast(pa.int32()).to_numpy()
    return encode_values(from_binary_column(rows["embedding"]), day, manifest.model_digest)


def changed_rows(root: Root, bases: Sequence[Manifest], new: Manifest) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Compares a snapshot with others, bucket by bucket; a bucket that all have in the same files is not opened.

    Args:
        bases: What may be there before, one model's; none: everything is new.

    Yields:
        (user_id int64 of the users that some base has and `new` has not, the rows of `new` that one of the bases lacks
        or has with another vector or day).
    """
    before = [base.parts("user_embeddings") for base in bases] or [{}]
    after = new.parts("user_embeddings")
    for bucket in sorted(set(after).union(*before)):
        held = [parts.get(bucket) for parts in before]
        if all(entries == after.get(bucket) for entries in held):
            continue
        shape = after.get(bucket) or next(entries for entries in held if entries)
        rows = read_files(root, shape, verify=True)
        rows = rows if bucket in after else rows.slice(0, 0)
        ids = rows["user_id"].to_numpy()
        same, gone = np.ones(len(ids), bool), np.empty(0, np.int64)
        for entries in held:
            if entries == after.get(bucket):
                continue
            stored = read_files(root, entries, verify=True) if entries else rows.slice(0, 0)
            same &= _is_same(rows, stored)
            old = stored["user_id"].to_numpy()
            gone = np.union1d(gone, old[~np.isin(old, ids)])
        yield gone, rows.filter(pa.array(~same))


def _is_same(rows: pa.Table, stored: pa.Table) -> np.ndarray:
    """bool [N]: whether `stored` has a row's user with the same vector and day."""
    ids, old_ids = rows["user_id"].to_numpy(), stored["user_id"].to_numpy()
    _, at, old_at = np.intersect1d(ids, old_ids, assume_unique=True, return_indices=True)
    same = np.zeros(len(ids), bool)
    vectors, old_vectors = from_binary_column(rows["embedding"]), from_binary_column(stored["embedding"])
    days, old_days = rows["embedding_date"].to_numpy(), stored["embedding_date"].to_numpy()
    same[at] = (vectors[at].view(np.uint16) == old_vectors[old_at].view(np.uint16)).all(axis=1)
    same[at] &= days[at] == old_days[old_at]
    return same


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
