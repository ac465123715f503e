"""What a shard of pins was made of: what the next release compares its own with, and keeps where nothing differs."""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.hnsw import IndexParameters
from stores.indexes import builder_id
from stores.manifests import Manifest

PIN_SHARDS = "pin_shards"  # under a manifest's `statistics`: shard, as text -> what it was made of
Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ShardBefore:
    """A shard of the release before.

    Attributes:
        vectors: Checksum of the vector table that its embeddings were made of.
        embeddings: Its file of `pin_embeddings`.
        indexes: Its files of `indexes`.
        built: As `built_with` gives it; of the index.
        find_ef: Smallest `ef` that finds every pin by its own vector, of those that can be found at all.
        unfindable: The others.
    """

    vectors: str
    embeddings: FileEntry
    indexes: tuple[FileEntry, ...]
    built: Facts
    find_ef: int
    unfindable: int


def built_with(parameters: IndexParameters) -> Facts:
    """What an index depends on beside its vectors."""
    return {**dataclasses.asdict(parameters), "library": builder_id()}


def index_facts(built: Facts, find_ef: int, unfindable: int) -> Facts:
    """What a manifest keeps of a shard's index."""
    return {"built": built, "find_ef": find_ef, "unfindable": unfindable}


def facts_of_shards(reports: Iterable[Mapping[str, Facts]]) -> dict[str, Facts]:
    """What a manifest keeps of its shards, put together from what several steps said of each; by number."""
    found: dict[str, Facts] = {}
    for facts in reports:
        for part, more in facts.items():
            found[part] = found.get(part, {}) | more
    return {part: found[part] for part in sorted(found, key=int)}


def shards_before(manifest: Manifest | None, model_digest: str) -> dict[int, ShardBefore]:
    """The shards of a release that one of the model given can be compared with.

    None of a first release, of another model's, of one that `gc` has emptied, and of one of a version that did not say
    what its shards were made of.
    """
    if manifest is None or manifest.model_digest != model_digest:
        return {}
    facts = manifest.statistics.get(PIN_SHARDS)
    indexes, found = manifest.parts("indexes"), {}
    for part, entries in manifest.parts("pin_embeddings").items():
        one = facts.get(str(part)) if isinstance(facts, dict) else None
        if len(entries) == 1 and isinstance(one, dict) and _is_whole(one):
            known = (one["built"], one["find_ef"], one["unfindable"])
            found[part] = ShardBefore(one["vectors"], entries[0], tuple(indexes.get(part, ())), *known)
    return found


def _is_whole(one: Mapping[str, Any]) -> bool:
    kinds = {"vectors": str, "built": dict, "find_ef": int, "unfindable": int}
    return all(isinstance(one.get(name), kind) for name, kind in kinds.items())


def date_of(entry: FileEntry) -> datetime.date:
    """The date in whose folder a file of a table lies."""
    return datetime.date.fromisoformat(entry.path.split("/")[1])


def are_sound(root: Root, entries: Iterable[FileEntry]) -> bool:
    """Whether files are there and hold what they were written with: their sizes first, then their sha256."""
    try:
        return all(
            root.size(entry.path) == entry.bytes and root.checksum(entry.path) == entry.checksum for entry in entries
        )
    except (OSError, StoreError):
        return False
