"""The index of a shard: that of the release before where nothing changed, a small graph beside its where little did."""

import dataclasses
import datetime

import numpy as np

from stores.files import FileEntry, Root
from stores.ids import find_sorted
from stores.index_files import CHANGED, MASKED, count_twins, has_role, read_masked, write_masked
from stores.indexes import IndexParameters, build_findable_index, build_shard, load_changed, write_built, write_shard
from stores.names import Counter
from stores.pin_shards import Facts, GraphFacts, ShardBefore, are_sound, date_of
from stores.schemas import from_binary_column
from stores.tables import read_files
from transforms.pin_reuse import KnownPins, read_known

# Of a shard's pins, those that its old graph lacks or has wrongly. Up to here a second graph is made of them, past it
# one graph of all: two graphs are two searches, and the second is made again every night.
GROWN_SHARE = 0.15


@dataclasses.dataclass(frozen=True)
class IndexedShard:
    """The index of a shard, however it came about.

    Attributes:
        files: Of the table `indexes`.
        graphs: What is known of each, the old one first.
        reused: Pins that are served from files of the release before.
        rebuilds: How often a graph was built again, so that every pin of it can be found.
        whole: Whether all files are those of the release before.
        grown: Whether a graph of the changed pins was put beside the old one.
        damaged: Whether files would have been reused, were they sound.
    """

    files: list[FileEntry]
    graphs: tuple[GraphFacts, ...]
    reused: int = 0
    rebuilds: int = 0
    whole: bool = False
    grown: bool = False
    damaged: bool = False

    @property
    def find_ef(self) -> int:
        """The width of search that finds every pin of all graphs."""
        return max(find_ef for find_ef, _ in self.graphs)

    def counters(self, pins: int) -> dict[str, int]:
        """What a manifest counts of it, whoever made it; `pins` are those of the shard."""
        return {
            Counter.PINS_INDEXED: pins,
            Counter.TWINS: count_twins(self.files),
            Counter.PINS_UNFINDABLE: sum(unfindable for _, unfindable in self.graphs),
            Counter.REBUILDS: self.rebuilds,
        }


def index_shard(
    root: Root,
    date: datetime.date,
    entry: FileEntry,
    before: ShardBefore | None,
    parameters: IndexParameters,
    built: Facts,
) -> IndexedShard:
    """Makes the index of a shard, or what of it is not there yet.

    What comes of it depends on the release before, tonight's embeddings and the parameters alone.

    Args:
        date: Of the release; files that are made lie in the folder of its name.
        entry: Tonight's file of pin_embeddings.
        before: The shard in the release before, where it may be kept.
        built: As `built_with` gives it.
    """
    damaged = False
    comparable = before is not None and before.built == built and before.indexes
    if before is not None and comparable and before.embeddings.checksum == entry.checksum:
        if are_sound(root, before.indexes):
            return IndexedShard(list(before.indexes), before.graphs, reused=entry.rows, whole=True)
        # What is made again in place of a damaged file goes to its folder: of the same content it has the same name,
        # and the release before is whole again.
        date, damaged = date_of(before.indexes[0]), True
    # From the file and not from the embedding step: a shard that was embedded before the run was cut off is indexed
    # alike.
    rows = read_files(root, [entry])
    ids, embeddings = rows["pin_id"].to_numpy(), from_binary_column(rows["embedding"])
    if before is not None and comparable and not damaged:
        known = read_known(root, before.embeddings)
        same = unchanged(known, ids, embeddings) if known is not None else np.zeros(len(ids), bool)
        if known is not None and may_grow(before, same):
            if are_sound(root, before.indexes):
                grown = _grow(root, date, entry.part, before, known.ids, ids, embeddings, same, parameters)
                if grown is not None:
                    return grown
            else:
                damaged = True
    made = build_shard(ids, embeddings, parameters)
    files = write_built(root, date, entry.part, made)
    return IndexedShard(files, made.graphs, rebuilds=made.rebuilds, damaged=damaged)


def unchanged(known: KnownPins, ids: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """bool [N]: which pins, int64 [N] ascending, have to the last bit the embedding, float16 [N, d], that is known."""
    at, same = find_sorted(known.ids, ids)
    there, were = embeddings[same].view(np.uint16), known.embeddings[at[same]].view(np.uint16)
    same[same] = (there == were).all(axis=1)
    return same


def may_grow(before: ShardBefore, same: np.ndarray) -> bool:
    """Whether so little changed since the night before that the old graph may stay; of which every pin is found.

    Args:
        same: bool [N]: which of tonight's pins have the embedding of before.
    """
    changed = len(same) - int(np.count_nonzero(same))
    return changed <= GROWN_SHARE * len(same) and not any(unfindable for _, unfindable in before.graphs)


@dataclasses.dataclass(frozen=True)
class Divided:
    """Which graph of a shard serves which pin.

    Attributes:
        masked: int64, ascending: pins that the old graph has and does not serve.
        small: bool [N]: of tonight's pins those that the second graph serves.
    """

    masked: np.ndarray
    small: np.ndarray


def divide(
    before: np.ndarray, in_small: np.ndarray, masked: np.ndarray, ids: np.ndarray, same: np.ndarray
) -> Divided | None:
    """Decides which graph serves which pin; None where the second would serve too many.

    Args:
        before: int64, ascending: the pins of the release before.
        in_small: Those of them that its second graph serves, ascending.
        masked: Of the release before.
        ids: int64 [N], ascending: tonight's pins.
        same: bool [N]: which have the embedding of before.
    """
    # A pin that changes back to what the old graph has stays masked there: what it once had nobody knows.
    old = np.setdiff1d(before, in_small, assume_unique=True)
    stay = np.intersect1d(old, ids[same], assume_unique=True)
    masked = np.union1d(masked, np.setdiff1d(old, stay, assume_unique=True))
    small = ~find_sorted(stay, ids)[1]
    if len(np.union1d(masked, ids[small])) > GROWN_SHARE * len(ids):
        return None
    return Divided(masked, small)


def _grow(
    root: Root,
    date: datetime.date,
    part: int,
    before: ShardBefore,
    known: np.ndarray,
    ids: np.ndarray,
    embeddings: np.ndarray,
    same: np.ndarray,
    parameters: IndexParameters,
) -> IndexedShard | None:
    """Puts a graph of the pins that the old one does not serve beside it; None where those are too many.

    Args:
        known, ids, same: As `divide` takes them.
    """
    files = list(before.indexes)
    changed = load_changed(root, files, embeddings.shape[1])
    in_small = changed.pin_ids() if changed is not None else np.empty(0, np.int64)
    were_masked = read_masked(root, files)
    divided = divide(known, in_small, were_masked, ids, same)
    if divided is None:
        return None
    kept = [entry for entry in files if not has_role(entry, CHANGED) and not has_role(entry, MASKED)]
    masks = [entry for entry in files if has_role(entry, MASKED)]
    if not np.array_equal(divided.masked, were_masked):
        masks = [write_masked(root, date, part, divided.masked)]
    small, found = build_findable_index(ids[divided.small], embeddings[divided.small], parameters)
    # Beside it even where it is empty: a version that knows of one graph a shard finds two and says so, where without
    # it pins that are gone would be served.
    written = write_shard(root, date, part, small, changed=True)
    return IndexedShard(
        [*kept, *masks, *written],
        (before.graphs[0], (found.find_ef, found.unfindable)),
        reused=len(ids) - int(divided.small.sum()),
        rebuilds=found.rebuilds,
        grown=True,
    )
