"""Pin indexes: a graph of the distinct vectors of each shard and its pins of equal vectors, searched together.

Pins of one and the same vector are a trap in an HNSW graph: past a few dozen they link to nothing but one another, a
search that enters the crowd cannot leave it, and what lies outside is not found at any width. So a graph holds every
vector once, under the lowest pin_id that has it, and the other pins stand beside it, as twins.

A shard in which few pins changed since its graph was built, or are hard to find in it, has a second one, of those
alone, and a file of the pins that the old one has and that are not served from it any more (`stores.masks`).

Which library makes and searches a graph is said in `LIBRARIES`; all else here is the same for any of them.
"""

import dataclasses
import datetime
import functools
import math
from collections.abc import MutableMapping
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.hnsw import HnswGraph, IndexParameters
from stores.index_files import CHANGED, MASKED, has_role, read_masked, write_masked
from stores.masks import NO_IDS, NO_MASK, Mask, mask_pins
from stores.neighbours import TIE, Neighbours, ordered_top_k, without
from stores.tables import PART, part_stem, read_files
from stores.twins import NO_TWINS, Twins, add_twins, split_twins

# Doubled each time, so that the width kept is at most twice what is needed.
EF_CANDIDATES = (64, 128, 256, 512)  # widths of a search that a release may be served with
# Narrower ones, which find most pins at a tenth of the cost; what they find the wider ones find too (`find_pins`).
_PROBES = (4, 12, 32)
# A graph of four times the links is as far as it goes: what is not found then is counted, and a gate decides.
REBUILDS = 2
# Of a shard's pins, those that its graph may miss and a second, small one has instead. The more nodes a graph has, the
# likelier one of them is lost; where more than a few are, it is the graph that is bad.
APART_SHARE = 0.01
_CHUNK = 4096
_SPARE = 2  # nodes asked for beyond those that are masked on average
SPREAD = 4.0  # standard deviations: one in 30,000 queries finds more in a shard than it was asked for
# What a second graph costs a search of one user is about what 128 in place of 64 does.
_WORTH_A_GRAPH = 128
Candidates = tuple[np.ndarray, np.ndarray]  # pin ids and scores of queries, in any order


class Graph(Protocol):
    """What a library's class does; `stores.hnsw.HnswGraph` says it in full.

    Attributes:
        suffix: Of its files: how a release that was made with another library is still read.
    """

    suffix: str

    def __len__(self) -> int: ...

    @staticmethod
    def build_id() -> str: ...

    def pin_ids(self) -> np.ndarray: ...

    @classmethod
    def build(
        cls, ids: np.ndarray, embeddings: np.ndarray, rows: np.ndarray, parameters: IndexParameters
    ) -> "Graph": ...

    def search(self, queries: np.ndarray, k: int, ef: int, threads: int) -> tuple[np.ndarray, np.ndarray]: ...

    def save(self, path: str) -> None: ...

    @classmethod
    def load(cls, root: Root, entry: FileEntry, dim: int) -> "Graph": ...


# Whose files are read, by suffix. New shards are built with the first; to build with another changes what equal inputs
# give: raise `transforms.markers.TASKS_VERSION`.
LIBRARIES: dict[str, type[Graph]] = {library.suffix: library for library in (HnswGraph,)}
_BUILT_WITH: type[Graph] = next(iter(LIBRARIES.values()))


def builder_id() -> str:
    """Names the library that new shards are built with, its version and its build: equal ones give equal files."""
    return _BUILT_WITH.build_id()


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """What it took to make every pin findable.

    Attributes:
        find_ef: Smallest `ef` with which a search for each pin's own vector finds it, but for those missed.
        missed: Rows, int64, of the nodes that it does not find.
        rebuilds: How often the graph was built again.
    """

    find_ef: int
    missed: np.ndarray
    rebuilds: int

    @property
    def unfindable(self) -> int:
        """How many nodes that search does not find."""
        return len(self.missed)


@dataclasses.dataclass(frozen=True)
class IndexShard:
    """One graph of a shard, open for search.

    Attributes:
        twins: Of the pins that its nodes stand for.
        mask: Its nodes that do not stand for their own pin.
    """

    graph: Graph
    twins: Twins
    mask: Mask = NO_MASK

    def __len__(self) -> int:
        """Pins that are served from it, twins included."""
        return len(self.graph) - len(self.mask) + len(self.twins.pin_id)

    def pin_ids(self) -> np.ndarray:
        """Of all of them: int64, ascending."""
        nodes = self.graph.pin_ids()
        served, _ = self.mask.apply(nodes, np.zeros(len(nodes), np.float32))
        return np.sort(np.concatenate([served[served >= 0], self.twins.pin_id]))


def build_index(ids: np.ndarray, embeddings: np.ndarray, parameters: IndexParameters) -> IndexShard:
    """Builds a shard with ONE thread: the same input gives the same bytes.

    Args:
        ids: int64 [N] >= 0, ascending, unique: the order of insertion.
        embeddings: float16 or float32 [N, d], unit norm.
    """
    rows, twins = split_twins(ids, embeddings)
    return IndexShard(_BUILT_WITH.build(ids, embeddings, rows, parameters), twins)


def find_pins(
    shard: IndexShard, ids: np.ndarray, embeddings: np.ndarray, missing: float = 0.0
) -> tuple[int, np.ndarray]:
    """How wide a search must be for every pin to be found by its own vector, or for all but a few.

    A pin is found if the best of the answer is the pin, or scores as well as the pin: crowds of nearly equal pins are
    what needs a wide search.

    What a narrow search looks at a wide one looks at too (Malkov and Yashunin, algorithm 2). Both walk the upper layers
    alike. On the lowest both expand the nearest candidate that is left; the wide one has more of them, but those that
    only it kept are farther than the worst of the `ef` that the narrow one keeps, and the narrow one ends before it
    expands any such. So the wide one expands the same pins in the same order, and then goes on. (Where two vectors
    score the same to the last bit, the wide one may expand the other first.)

    Args:
        missing: Share of the pins that may be missed.

    Returns:
        The smallest `ef` of `EF_CANDIDATES` that finds so many, or the largest; the rows that it misses, int64. Where
        128 finds all, that, and none.
    """
    missed = np.flatnonzero(~np.isin(ids, shard.twins.pin_id))  # a twin is found where the pin in the graph is
    few = None
    for ef in (*_PROBES, *EF_CANDIDATES):
        # Only those that a narrower search missed are searched again.
        missed = _missed(shard.graph, ids, embeddings, missed, ef)
        if not len(missed):
            break
        if few is None and ef in EF_CANDIDATES and len(missed) <= missing * len(ids):
            few = ef, missed
        if few is not None and ef >= _WORTH_A_GRAPH:
            return few
    return max(ef, EF_CANDIDATES[0]), missed


def _missed(graph: Graph, ids: np.ndarray, embeddings: np.ndarray, rows: np.ndarray, ef: int) -> np.ndarray:
    """Which of some rows, int64 [R], a search for their own vector does not find."""
    missed = [np.empty(0, np.int64)]
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        vectors = embeddings[part].astype(np.float32)
        pin_ids, scores = _search(graph, vectors, 1, ef, threads=1)
        # Whoever asks for a vector that nearly equals others' gets pins as good.
        as_good = scores >= np.einsum("nd,nd->n", vectors, vectors)[:, None] - TIE
        missed.append(part[~((pin_ids == ids[part][:, None]) | as_good).any(axis=1)])
    return np.concatenate(missed)


def build_findable_index(
    ids: np.ndarray, embeddings: np.ndarray, parameters: IndexParameters, missing: float = 0.0
) -> tuple[IndexShard, BuildReport]:
    """Builds a graph in which every pin can be found; where one cannot, builds again with twice the effort.

    HNSW promises no such thing: a node can lose its last incoming link. Which effort is needed depends on the input
    only, so equal inputs still give equal bytes.

    Args:
        ids: int64 [N] >= 0, ascending, unique: the order of insertion.
        embeddings: float16 or float32 [N, d], unit norm.
        missing: Share of the pins that may be missed without another build.
    """
    for rebuilds in range(REBUILDS + 1):
        # Twice the links and twice the candidates: more incoming links make it less likely that a node loses its last
        # one.
        shard = build_index(ids, embeddings, parameters.with_effort(2**rebuilds))
        find_ef, missed = find_pins(shard, ids, embeddings, missing)
        if len(missed) <= missing * len(ids):
            break
    return shard, BuildReport(find_ef, missed, rebuilds)


@dataclasses.dataclass(frozen=True)
class BuiltShard:
    """A shard as it is made anew: a graph of all pins, and where that misses a few, a small one of those.

    Attributes:
        whole: The graph of all pins.
        apart: int64, ascending: pins that the small graph serves in its place.
        small: That graph; None where none is missed.
        graphs: Of each the smallest `ef` that finds its pins, and how many it misses that no other has.
        rebuilds: How often one was built again.
    """

    whole: IndexShard
    apart: np.ndarray
    small: IndexShard | None
    graphs: tuple[tuple[int, int], ...]
    rebuilds: int


def build_shard(ids: np.ndarray, embeddings: np.ndarray, parameters: IndexParameters) -> BuiltShard:
    """Builds a shard in which every pin can be found; of a few that only a wide search finds, or none, a second graph.

    To build the first again with twice the links would take three times as long for the sake of a pin or two; to search
    it more widely for theirs would make every search slower.

    Args:
        ids, embeddings: As of `build_findable_index`.
    """
    whole, found = build_findable_index(ids, embeddings, parameters, APART_SHARE)
    if not 0 < found.unfindable <= APART_SHARE * len(ids):
        return BuiltShard(whole, NO_IDS, None, ((found.find_ef, found.unfindable),), found.rebuilds)
    # Whoever has the vector of a pin that is missed is missed with it.
    missed = ids[found.missed]
    apart = np.union1d(missed, whole.twins.pin_id[np.isin(whole.twins.twin_of, missed)])
    small, more = build_findable_index(apart, embeddings[np.searchsorted(ids, apart)], parameters)
    graphs = (found.find_ef, 0), (more.find_ef, more.unfindable)
    return BuiltShard(whole, apart, small, graphs, found.rebuilds + more.rebuilds)


def write_built(root: Root, date: datetime.date, number: int, built: BuiltShard) -> list[FileEntry]:
    """Writes a shard: as `write_shard`, and where it has a small graph, that one's files and the mask of the other.

    They are those of pins that changed since the other was built: a night that goes on from here leaves them there.
    """
    files = write_shard(root, date, number, built.whole)
    if built.small is not None:
        files.append(write_masked(root, date, number, built.apart))
        files += write_shard(root, date, number, built.small, changed=True)
    return files


def write_shard(
    root: Root, date: datetime.date, number: int, shard: IndexShard, *, changed: bool = False
) -> list[FileEntry]:
    """Writes one graph: `indexes/<date>/part-NNNNN-<digest>.hnsw`, which any hnswlib reads (space `ip`), and, if it has
    twins, a `.parquet` of `pin_id, twin_of` beside it. Another library's file ends in its own suffix.

    Args:
        changed: It is the second graph of a shard: `changed-NNNNN-...`.
    """
    folder, stem = f"indexes/{date.isoformat()}", part_stem(number, CHANGED if changed else PART)
    graph = shard.graph
    entries = [root.write_named_by_content(folder, stem, graph.suffix, number, len(graph), graph.save)]
    if len(shard.twins.pin_id):
        rows = pa.table(dataclasses.asdict(shard.twins))
        entries.append(
            root.write_named_by_content(
                folder, stem, ".parquet", number, rows.num_rows, lambda path: pq.write_table(rows, path)
            )
        )
    return entries


def load_shards(
    root: Root, entries: list[FileEntry], dim: int, known: MutableMapping[str, Graph] | None = None
) -> list[IndexShard]:
    """Reads the graphs of the shards that a manifest names, in the order of their numbers; of a shard that has two, the
    old one first.

    Args:
        entries: Of the table `indexes`.
        dim: Width of a vector.
        known: Graphs that are open already, by file and content: they are not read again. What is read is added.

    Raises:
        StoreError: a file is missing or not the one that the manifest names.
    """
    known, shards = {} if known is None else known, []
    for number in sorted({entry.part for entry in entries}):
        mine = [entry for entry in entries if entry.part == number]
        changed = [entry for entry in mine if has_role(entry, CHANGED)]
        old = [entry for entry in mine if not has_role(entry, CHANGED) and not has_role(entry, MASKED)]
        shards.append(_load_shard(root, number, old, dim, known, read_masked(root, mine)))
        if changed:
            shards.append(_load_shard(root, number, changed, dim, known))
    return shards


def load_changed(root: Root, entries: list[FileEntry], dim: int) -> IndexShard | None:
    """The second graph of ONE shard, of the pins that the old one does not serve; None where it has none.

    Args:
        entries: All files of the shard.

    Raises:
        StoreError: a file is missing or not the one that the manifest names.
    """
    changed = [entry for entry in entries if has_role(entry, CHANGED)]
    return _load_shard(root, changed[0].part, changed, dim, {}) if changed else None


def _load_shard(
    root: Root,
    number: int,
    entries: list[FileEntry],
    dim: int,
    known: MutableMapping[str, Graph],
    masked: np.ndarray = NO_IDS,
) -> IndexShard:
    rest = [entry for entry in entries if _library_of(entry) is None]
    graphs = [_load_graph(root, entry, dim, known) for entry in entries if entry not in rest]
    if len(graphs) != 1:
        raise StoreError(f"{root.url}: the manifest names {len(graphs)} graphs for index shard {number}, not one")
    twins = NO_TWINS
    if rest:
        rows = read_files(root, rest)
        twins = Twins(rows["pin_id"].to_numpy(), rows["twin_of"].to_numpy())
    if not len(masked):
        return IndexShard(graphs[0], twins)
    mask, pin_id, twin_of = mask_pins(twins.pin_id, twins.twin_of, masked)
    return IndexShard(graphs[0], Twins(pin_id, twin_of), mask)


def _library_of(entry: FileEntry) -> type[Graph] | None:
    return next((library for suffix, library in LIBRARIES.items() if entry.path.endswith(suffix)), None)


def _load_graph(root: Root, entry: FileEntry, dim: int, known: MutableMapping[str, Graph]) -> Graph:
    key = f"{root.path(entry.path)} {entry.checksum} {dim}"
    opened = known.get(key)
    if opened is not None:
        return opened
    path, size = root.path(entry.path), root.size(entry.path)
    if size != entry.bytes:
        found = "is missing" if size is None else f"has {size} bytes, its manifest says {entry.bytes}"
        raise StoreError(f"{path}: {found}; restore the file from a backup, or start from another release")
    library = _library_of(entry)
    assert library is not None  # the caller asked
    graph = known[key] = library.load(root, entry, dim)
    return graph


def _search(graph: Graph, queries: np.ndarray, k: int, ef: int, threads: int) -> Candidates:
    """The best pins of one graph, in any order: int64 and float32 [Q, min(k, N)]."""
    available = min(k, len(graph))
    if not available or not len(queries):
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    return graph.search(queries, available, ef, threads)


def _search_alive(shard: IndexShard, queries: np.ndarray, k: int, ef: int, threads: int, asked: int = 0) -> Candidates:
    """The best nodes of a graph that stand for a pin: k of them for every query, all if there are fewer.

    A graph cannot leave nodes out while it is searched: as many more are asked for as are masked on average, and twice
    as many again for the queries that this was too few for.

    Args:
        asked: How many nodes to ask for; 0: as said.
    """
    if not len(shard.mask.nodes):
        return _search(shard.graph, queries, k, ef, threads)
    masked, nodes = len(shard.mask), len(shard.graph)
    most = min(nodes, k + masked)
    asked = min(most, asked or k + -(-k * masked // max(1, nodes - masked)) + _SPARE)
    pin_ids, scores = shard.mask.apply(*_search(shard.graph, queries, asked, ef, threads))
    lacking = np.flatnonzero((pin_ids >= 0).sum(axis=1) < k)
    if asked == most or not len(lacking):
        return pin_ids, scores
    more_ids, more_scores = _search_alive(shard, queries[lacking], k, ef, threads, 2 * asked)
    wider = ((0, 0), (0, more_ids.shape[1] - pin_ids.shape[1]))
    pin_ids = np.pad(pin_ids, wider, constant_values=-1)
    scores = np.pad(scores, wider, constant_values=-np.inf)
    pin_ids[lacking], scores[lacking] = more_ids, more_scores
    return pin_ids, scores


def search_shards(
    shards: list[IndexShard],
    queries: np.ndarray,
    k: int,
    ef: int,
    exclude: np.ndarray | None = None,
    threads: int | None = None,
) -> Neighbours:
    """Searches every shard; what they found is ordered once, over all of them, and twins are put beside it.

    Args:
        queries: float32 [Q, d].
        k: How many pins per query.
        ef: Candidates kept during the search of one shard (Malkov and Yashunin, algorithm 5); at least k is used.
        exclude: Pins that no answer may hold, int64 [E], sorted.
        threads: Of this process; None: as many as there are cores where there are many queries. Answers are the same.
    """
    # One user's query is not worth starting threads; a batch, as a gate asks it, takes all cores.
    if threads is None:
        threads = -1 if len(queries) > 16 else 1
    exclude = np.empty(0, np.int64) if exclude is None else exclude
    ef = max(ef, k)
    asked, *wider = _rounds(tuple(map(len, shards)), k, len(exclude), ef)
    best, found = _search_once(shards, queries, k, ef, exclude, asked, threads)
    rows = np.arange(len(queries))
    for more in wider:
        # A shard of which all that was asked for is as good as the last of the answer may have more such pins.
        rows = rows[_worst(found, asked) >= best.scores[rows, -1]]
        if not len(rows):
            break
        asked = more
        again, found = _search_once(shards, queries[rows], k, ef, exclude, asked, threads)
        best.pin_ids[rows], best.scores[rows] = again.pin_ids, again.scores
    return best


@functools.lru_cache(1024)
def _rounds(sizes: tuple[int, ...], k: int, excluded: int, ef: int) -> list[list[int]]:
    """How many pins each shard is asked for, and how many by those queries to which that was too few.

    Ids are spread over shards by a hash: of the best pins each has its share, with the spread of a binomial
    distribution. A search that keeps `ef` candidates hands out as many at no cost.

    Args:
        sizes: Pins of each shard.
    """

    def likely(wanted: int, size: int) -> int:
        share = size / max(1, sum(sizes))
        return min(wanted, size, math.ceil(wanted * share + SPREAD * math.sqrt(wanted * share * (1 - share))))

    every = k + excluded  # of these k are left, whoever is excluded
    rounds = [
        # Most of what a user engaged with is not among the best.
        [min(likely(every, size), max(likely(k + excluded // 4, size), ef)) for size in sizes],
        [likely(every, size) for size in sizes],
        [min(every, size) for size in sizes],
    ]
    return [asked for number, asked in enumerate(rounds) if asked not in rounds[:number]]


def _search_once(
    shards: list[IndexShard],
    queries: np.ndarray,
    k: int,
    ef: int,
    exclude: np.ndarray,
    asked: list[int],
    threads: int,
) -> tuple[Neighbours, list[Candidates]]:
    """One round of `search_shards`.

    Returns:
        The k best of what was found, and what each shard found.
    """
    # A block of columns a graph. What it must not hold is (-1, -inf) there; neither order nor width is asked of it.
    blocks = [_search_alive(shard, queries, count, ef, threads) for shard, count in zip(shards, asked, strict=True)]
    pin_ids, scores = _side_by_side(blocks, len(queries))
    every = k + len(exclude)
    twins = [shard.twins for shard in shards if len(shard.twins.pin_id)]
    # Not made wider than what was found: most of it would be nothing.
    best = add_twins(ordered_top_k(pin_ids, scores, min(every, max(k, scores.shape[1]))), twins, every)
    return (without(best, exclude, k) if len(exclude) else best), blocks


def _side_by_side(blocks: list[Candidates], queries: int) -> Candidates:
    if len(blocks) == 1:
        return blocks[0]
    nothing = (np.empty((queries, 0), np.int64), np.empty((queries, 0), np.float32))
    pin_ids, scores = (np.concatenate(columns, axis=1) for columns in zip(nothing, *blocks, strict=True))
    return pin_ids, scores


def _worst(blocks: list[Candidates], asked: list[int]) -> np.ndarray:
    """Of each query, float32 [Q], the best of the worst that a shard found.

    One that found fewer than it was asked for has no more, and counts for nothing.
    """
    found = np.full(len(blocks[0][0]) if blocks else 0, -np.inf, np.float32)
    for (pin_ids, scores), count in zip(blocks, asked, strict=True):
        if not 0 < count <= pin_ids.shape[1]:
            continue
        some, worst = pin_ids >= 0, scores.min(axis=1)
        if not some.all():
            full = some.sum(axis=1) >= count
            worst = np.where(full, np.where(some, scores, np.inf).min(axis=1), -np.inf)
        found = np.maximum(found, worst)
    return found
