"""Pin indexes: a graph of the distinct vectors of each shard and its pins of equal vectors, searched together.

Pins of one and the same vector are a trap in an HNSW graph: past a few dozen they link to nothing but one another, a
search that enters the crowd cannot leave it, and what lies outside is not found at any width. So a graph holds every
vector once, under the lowest pin_id that has it, and the other pins stand beside it, as twins.
"""

import dataclasses
import datetime
import struct

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.neighbours import TIE, Neighbours, merge_top_k, ordered_top_k
from stores.tables import part_stem, read_files

# Doubled each time, so that the width kept is at most twice what is needed.
EF_CANDIDATES = (64, 128, 256, 512)  # widths of a search that a release may be served with
FIND_K = 10
# A graph of four times the links is as far as it goes: what is not found then is counted, and a gate decides.
REBUILDS = 2
GRAPH = ".hnsw"
_CHUNK = 4096
_HEADER = struct.Struct("<6Q")  # offset, room, pins, bytes per pin, two offsets: what hnswlib makes room by


@dataclasses.dataclass(frozen=True)
class IndexParameters:
    """How an HNSW graph is built (Malkov and Yashunin, arXiv:1603.09320, section 4).

    Attributes:
        m: Links a node keeps on each upper layer; twice as many on the lowest.
        ef_construction: Candidates looked at for each insertion.
    """

    m: int = 16
    ef_construction: int = 100

    def __post_init__(self):
        if self.m < 2 or self.ef_construction < self.m:
            raise ValueError(f"expected 2 <= m <= ef_construction, got m {self.m}, {self.ef_construction}")


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """What it took to make every pin findable.

    Attributes:
        find_ef: Smallest `ef` with which a search for each pin's own vector finds it.
        unfindable: Pins that no `ef` of `EF_CANDIDATES` finds.
        rebuilds: How often the graph was built again.
    """

    find_ef: int
    unfindable: int
    rebuilds: int


@dataclasses.dataclass(frozen=True)
class Twins:
    """Pins that have the vector of another pin of their shard, to the last bit.

    Attributes:
        pin_id: int64 [T].
        twin_of: int64 [T], ascending, then by `pin_id`: the lowest pin_id of that vector, the one in the graph.
    """

    pin_id: np.ndarray
    twin_of: np.ndarray


NO_TWINS = Twins(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclasses.dataclass(frozen=True)
class IndexShard:
    """One shard, open for search."""

    graph: hnswlib.Index
    twins: Twins

    def __len__(self) -> int:
        """Pins in it, twins included."""
        return self.graph.get_current_count() + len(self.twins.pin_id)


def split_twins(ids: np.ndarray, embeddings: np.ndarray) -> tuple[np.ndarray, Twins]:
    """Finds pins of equal vectors.

    Args:
        ids: int64 [N], ascending.
        embeddings: [N, d]; compared by their bytes.

    Returns:
        The rows of the graph, int64, ascending; the twins of all other rows.
    """
    if not len(ids):
        return np.empty(0, np.int64), NO_TWINS
    # By their bytes, as one opaque value per row: float comparison would call -0.0 and 0.0 equal, and would compare 256
    # columns one by one.
    rows = np.ascontiguousarray(embeddings).view(np.dtype((np.void, embeddings.shape[1] * embeddings.itemsize)))[:, 0]
    _, first, group = np.unique(rows, return_index=True, return_inverse=True)
    # `ids` ascend and `unique` gives the first place, so this is the lowest pin_id of each vector, whatever the order
    # of files.
    twin_of = ids[first[group]]
    others = np.flatnonzero(twin_of != ids)
    others = others[np.lexsort((ids[others], twin_of[others]))]
    return np.sort(first), Twins(ids[others], twin_of[others])


def build_index(ids: np.ndarray, embeddings: np.ndarray, parameters: IndexParameters) -> IndexShard:
    """Builds a shard with ONE thread: the same input gives the same bytes.

    Args:
        ids: int64 [N] >= 0, ascending, unique: the order of insertion.
        embeddings: float16 or float32 [N, d], unit norm.
    """
    rows, twins = split_twins(ids, embeddings)
    index = hnswlib.Index(space="ip", dim=embeddings.shape[1])
    # A fixed seed and one thread: levels are drawn at random and links depend on what is there already, so that only
    # this gives equal bytes.
    index.init_index(max(1, len(rows)), M=parameters.m, ef_construction=parameters.ef_construction, random_seed=100)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        index.add_items(embeddings[part].astype(np.float32), ids[part], num_threads=1)
    return IndexShard(index, twins)


def find_pins(shard: IndexShard, ids: np.ndarray, embeddings: np.ndarray) -> tuple[int, int]:
    """How wide a search must be for every pin to be found by its own vector.

    A pin is found if it, or a pin of a score as good as its own, is among the first `FIND_K`. Crowds of nearly equal
    pins are what needs a wide search.

    Returns:
        The smallest `ef` of `EF_CANDIDATES` that finds all, or the largest; how many even that one misses.
    """
    # Only those that a narrow search missed are searched again, wider: those found at 64 cost nothing more.
    missed = np.flatnonzero(~np.isin(ids, shard.twins.pin_id))  # a twin is found where the pin in the graph is
    for ef in EF_CANDIDATES:
        pending, missed = missed, np.empty(0, np.int64)
        for start in range(0, len(pending), _CHUNK):
            rows = pending[start : start + _CHUNK]
            vectors = embeddings[rows].astype(np.float32)
            found = _search(shard.graph, vectors, FIND_K, ef, threads=1)
            hit = (found.pin_ids == ids[rows][:, None]).any(axis=1)
            # A pin whose vector nearly equals others' may be pushed out of the ten by them: whoever asks gets pins as
            # good.
            hit |= found.scores[:, 0] >= np.einsum("nd,nd->n", vectors, vectors) - TIE
            missed = np.concatenate([missed, rows[~hit]])
        if not len(missed):
            break
    return ef, len(missed)


def build_findable_index(
    ids: np.ndarray, embeddings: np.ndarray, parameters: IndexParameters
) -> tuple[IndexShard, BuildReport]:
    """Builds a shard in which every pin can be found; where one cannot, builds again with twice the effort.

    HNSW promises no such thing: a node can lose its last incoming link. Which effort is needed depends on the input
    only, so equal inputs still give equal bytes.

    Args:
        ids: int64 [N] >= 0, ascending, unique: the order of insertion.
        embeddings: float16 or float32 [N, d], unit norm.
    """
    for rebuilds in range(REBUILDS + 1):
        effort = 2**rebuilds
        # Twice the links and twice the candidates: more incoming links make it less likely that a node loses its last
        # one.
        shard = build_index(
            ids, embeddings, IndexParameters(parameters.m * effort, parameters.ef_construction * effort)
        )
        find_ef, unfindable = find_pins(shard, ids, embeddings)
        if not unfindable:
            break
    return shard, BuildReport(find_ef, unfindable, rebuilds)


def write_shard(root: Root, date: datetime.date, number: int, shard: IndexShard) -> list[FileEntry]:
    """Writes one shard: `indexes/<date>/part-NNNNN-<digest>.hnsw`, which any hnswlib reads (space `ip`), and, if it has
    twins, a `.parquet` of `pin_id, twin_of` beside it."""
    folder, stem = f"indexes/{date.isoformat()}", part_stem(number)
    count = shard.graph.get_current_count()
    entries = [root.write_named_by_content(folder, stem, GRAPH, number, count, shard.graph.save_index)]
    if len(shard.twins.pin_id):
        rows = pa.table(dataclasses.asdict(shard.twins))
        entries.append(
            root.write_named_by_content(
                folder, stem, ".parquet", number, rows.num_rows, lambda path: pq.write_table(rows, path)
            )
        )
    return entries


def load_shards(root: Root, entries: list[FileEntry], dim: int) -> list[IndexShard]:
    """Reads the shards that a manifest names, in the order of their numbers.

    Args:
        entries: Of the table `indexes`.
        dim: Width of a vector.

    Raises:
        StoreError: a file is missing or not the one that the manifest names.
    """
    shards = []
    for number in sorted({entry.part for entry in entries}):
        mine = [entry for entry in entries if entry.part == number]
        graphs = [_load_graph(root, entry, dim) for entry in mine if entry.path.endswith(GRAPH)]
        if len(graphs) != 1:
            raise StoreError(f"{root.url}: the manifest names {len(graphs)} graphs for index shard {number}, not one")
        twins = NO_TWINS
        rest = [entry for entry in mine if not entry.path.endswith(GRAPH)]
        if rest:
            rows = read_files(root, rest)
            twins = Twins(rows["pin_id"].to_numpy(), rows["twin_of"].to_numpy())
        shards.append(IndexShard(graphs[0], twins))
    return shards


def _load_graph(root: Root, entry: FileEntry, dim: int) -> hnswlib.Index:
    path, size = root.path(entry.path), root.size(entry.path)
    if size != entry.bytes:
        found = "is missing" if size is None else f"has {size} bytes, its manifest says {entry.bytes}"
        raise StoreError(f"{path}: {found}; restore the file from a backup, or start from another release")
    local = root.local_copy(entry)
    with open(local, "rb") as file:
        header = file.read(_HEADER.size)
    # Before `load_index`, which makes whatever room the header asks for: a flipped bit there would take all memory.
    if len(header) == _HEADER.size:
        _, room, count, element, _, _ = _HEADER.unpack(header)
        most = size // count if count else 1 << 20
        if room != max(1, entry.rows) or count != entry.rows or not 4 * dim <= element <= most:
            raise StoreError(
                f"{path}: its header asks for room for {room:,} pins of {element:,} bytes, its manifest says "
                f"{entry.rows:,} pins in {size:,} bytes; restore the file from a backup"
            )
    index = hnswlib.Index(space="ip", dim=dim)
    try:
        index.load_index(local)
    except RuntimeError as error:
        raise StoreError(f"{path}: not a readable index ({error}); restore the file from a backup") from error
    if index.get_current_count() != entry.rows:
        raise StoreError(f"{path}: holds {index.get_current_count()} pins, its manifest says {entry.rows}")
    return index


def _search(index: hnswlib.Index, queries: np.ndarray, k: int, ef: int, threads: int) -> Neighbours:
    available = min(k, index.get_current_count())
    if not available or not len(queries):
        return ordered_top_k(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
    index.set_ef(max(ef, available))
    labels, distances = index.knn_query(queries, k=available, num_threads=threads)
    return ordered_top_k(labels.astype(np.int64), 1.0 - distances, k)


def _add_twins(found: Neighbours, twins: Twins, k: int) -> Neighbours:
    """Puts the twins of the pins found beside them; as many as an answer of k can hold."""
    if not len(twins.pin_id) or not found.pin_ids.size:
        return found
    pins = found.pin_ids.ravel()
    begin = np.searchsorted(twins.twin_of, pins, side="left")
    # Every pin found stands for itself and its twins. No more of them are laid out than an answer can hold: a crowd may
    # have thousands.
    count = 1 + np.minimum(np.searchsorted(twins.twin_of, pins, side="right") - begin, k - 1)
    count = count.reshape(found.pin_ids.shape)
    place = np.cumsum(count, axis=1) - count  # of each pin found, among those of its query
    count = np.where(place < k, count, 0)
    # The twins of all pins of all queries at once: `cell` says whose place is filled, `rank` which of the crowd fills
    # it; 0 is the pin in the graph.
    cell = np.repeat(np.arange(count.size), count.ravel())
    rank = np.arange(len(cell)) - np.repeat(np.cumsum(count.ravel()) - count.ravel(), count.ravel())
    ids = np.where(rank == 0, pins[cell], twins.pin_id[np.maximum(begin[cell] + rank - 1, 0) % len(twins.pin_id)])
    at = (cell // found.pin_ids.shape[1], place.ravel()[cell] + rank)
    width = int(count.sum(axis=1).max())
    pin_ids = np.full((len(count), width), -1, np.int64)
    scores = np.full((len(count), width), -np.inf, np.float32)
    pin_ids[at], scores[at] = ids, found.scores.ravel()[cell]
    return ordered_top_k(pin_ids, scores, k)


def search_shards(shards: list[IndexShard], queries: np.ndarray, k: int, ef: int) -> Neighbours:
    """Searches every shard and merges what they found.

    Args:
        queries: float32 [Q, d].
        k: How many pins per query.
        ef: Candidates kept during the search of one shard (Malkov and Yashunin, algorithm 5); at least k is used.
    """
    # One user's query is not worth starting threads; a batch, as a gate asks it, takes all cores.
    threads = -1 if len(queries) > 16 else 1
    return merge_top_k(
        [_add_twins(_search(shard.graph, queries, k, ef, threads), shard.twins, k) for shard in shards], k
    )
