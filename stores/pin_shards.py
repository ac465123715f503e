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
# Of a graph: the smallest `ef` that finds every pin by its own vector, of those that can be found; how many cannot.
GraphFacts = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ShardBefore:
    """A shard of the release before.

    Attributes:
        vectors: Checksum of the vector table that its embeddings were made of.
        embeddings: Its file of `pin_embeddings`.
        indexes: Its files of `indexes`.
        built: As `built_with` gives it; of the index.
        graphs: What is known of its graphs, the old one first.
    """

    vectors: str
    embeddings: FileEntry
    indexes: tuple[FileEntry, ...]
    built: Facts
    graphs: tuple[GraphFacts, ...]


def built_with(parameters: IndexParameters) -> Facts:
    """What an index depends on beside its vectors."""
    return {**dataclasses.asdict(parameters), "library": builder_id()}


def index_facts(built: Facts, graphs: Iterable[GraphFacts]) -> Facts:
    """What a manifest keeps of a shard's index."""
    return {"built": built, "graphs": [{"find_ef": ef, "unfindable": unfindable} for ef, unfindable in graphs]}


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
    indexes, found = manifest.parts("indexes"), dict[int, ShardBefore]()
    for part, entries in manifest.parts("pin_embeddings").items():
        one: Any = facts.get(str(part)) if isinstance(facts, dict) else None
        try:
            graphs = tuple((int(graph["find_ef"]), int(graph["unfindable"])) for graph in one["graphs"])
            vectors, built = str(one["vectors"]), dict(one["built"])
        except (KeyError, TypeError, ValueError):
            continue  # of another version
        if len(entries) == 1 and graphs:
            found[part] = ShardBefore(vectors, entries[0], tuple(indexes.get(part, ())), built, graphs)
    return found


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
