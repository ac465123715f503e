"""Pin indexes: one HNSW file a shard, built by one thread, searched together, checked against exact search."""

import contextlib
import dataclasses
import datetime
import os

import hnswlib
import numpy as np

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.tables import part_stem

TIE = 1e-5  # scores this near are the same: float32 sums of 256 products differ by their order
EF_CANDIDATES = (64, 128, 256, 512)  # widths of a search that a release may be served with
FIND_K = 10
REBUILDS = 2
_CHUNK = 4096


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
        rebuilds: How often the graph was made anew.
    """

    find_ef: int
    unfindable: int
    rebuilds: int


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k best pins a query, best first, equal scores by pin_id.

    Attributes:
        pin_ids: int64 [Q, k]; -1 where there are fewer than k pins.
        scores: float32 [Q, k], inner products; -inf where there is no pin.
    """

    pin_ids: np.ndarray
    scores: np.ndarray


def build_index(ids: np.ndarray, embeddings: np.ndarray, parameters: IndexParameters) -> hnswlib.Index:
    """Builds a graph with ONE thread: the same input in the same order gives the same bytes.

    Args:
        ids: int64 [N] >= 0, unique.
        embeddings: float16 or float32 [N, d], unit norm.
    """
    index = hnswlib.Index(space="ip", dim=embeddings.shape[1])
    index.init_index(max(1, len(ids)), M=parameters.m, ef_construction=parameters.ef_construction, random_seed=100)
    for start in range(0, len(ids), _CHUNK):
        part = slice(start, start + _CHUNK)
        index.add_items(embeddings[part].astype(np.float32), ids[part], num_threads=1)
    return index


def find_pins(index: hnswlib.Index, ids: np.ndarray, embeddings: np.ndarray) -> tuple[int, int]:
    """How wide a search must be for every pin to be found by its own vector.

    A pin is found if it is among the first `FIND_K`. Among pins of equal vectors any of them counts: a score as good
    as the pin's own is an answer as good. Crowds of nearly equal pins are what needs a wide search.

    Returns:
        The smallest `ef` of `EF_CANDIDATES` that finds all, or the largest; how many even that one misses.
    """
    missed = np.arange(len(ids))
    for ef in EF_CANDIDATES:
        pending, missed = missed, np.empty(0, np.int64)
        for start in range(0, len(pending), _CHUNK):
            rows = pending[start : start + _CHUNK]
            vectors = embeddings[rows].astype(np.float32)
            found = _search(index, vectors, FIND_K, ef, threads=1)
            hit = (found.pin_ids == ids[rows][:, None]).any(axis=1)
            hit |= found.scores[:, 0] >= np.einsum("nd,nd->n", vectors, vectors) - TIE
            missed = np.concatenate([missed, rows[~hit]])
        if not len(missed):
            break
    return ef, len(missed)


def build_findable_index(
    ids: np.ndarray, embeddings: np.ndarray, parameters: IndexParameters
) -> tuple[hnswlib.Index, BuildReport]:
    """Builds a graph in which every pin can be found; where one cannot, builds again with twice the effort.

    HNSW promises no such thing: a node can lose its last incoming link. Which effort is needed depends on the input
    only, so equal inputs still give equal bytes.

    Args:
        ids: int64 [N] >= 0, unique, in the order of insertion.
        embeddings: float16 or float32 [N, d], unit norm.
    """
    for rebuilds in range(REBUILDS + 1):
        effort = 2**rebuilds
        index = build_index(
            ids, embeddings, IndexParameters(parameters.m * effort, parameters.ef_construction * effort)
        )
        find_ef, unfindable = find_pins(index, ids, embeddings)
        if not unfindable:
            break
    return index, BuildReport(find_ef, unfindable, rebuilds)


def write_index(root: Root, date: datetime.date, shard: int, index: hnswlib.Index) -> FileEntry:
    """Writes one shard to `indexes/<date>/part-NNNNN-<digest>.hnsw`; any hnswlib reads it (space `ip`)."""
    return root.write_named_by_content(
        f"indexes/{date.isoformat()}",
        part_stem(shard),
        ".hnsw",
        shard,
        index.get_current_count(),
        index.save_index,
    )


def load_index(root: Root, entry: FileEntry, dim: int) -> hnswlib.Index:
    """Reads one shard.

    Raises:
        StoreError: the file is missing or not the one that the manifest names.
    """
    path = root.path(entry.path)
    size = None
    with contextlib.suppress(OSError):
        size = os.path.getsize(path)
    if size != entry.bytes:
        found = "is missing" if size is None else f"has {size} bytes, its manifest says {entry.bytes}"
        raise StoreError(f"{path}: {found}; restore the file from a backup, or start from another release")
    index = hnswlib.Index(space="ip", dim=dim)
    try:
        index.load_index(path)
    except RuntimeError as error:
        raise StoreError(f"{path}: not a readable index ({error}); restore the file from a backup") from error
    if index.get_current_count() != entry.rows:
        raise StoreError(f"{path}: holds {index.get_current_count()} pins, its manifest says {entry.rows}")
    return index


def _padded(pin_ids: np.ndarray, scores: np.ndarray, k: int) -> Neighbours:
    """Orders candidates, best first and equal scores by pin_id, and keeps or pads to k."""
    order = np.lexsort((pin_ids, -scores), axis=-1)[:, :k]
    pin_ids, scores = np.take_along_axis(pin_ids, order, 1), np.take_along_axis(scores, order, 1)
    lacking = k - pin_ids.shape[1]
    if lacking > 0:
        pin_ids = np.pad(pin_ids, ((0, 0), (0, lacking)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, lacking)), constant_values=-np.inf)
    return Neighbours(pin_ids.astype(np.int64), scores.astype(np.float32))


def _search(index: hnswlib.Index, queries: np.ndarray, k: int, ef: int, threads: int) -> Neighbours:
    available = min(k, index.get_current_count())
    if not available or not len(queries):
        return _padded(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
    index.set_ef(max(ef, available))
    labels, distances = index.knn_query(queries, k=available, num_threads=threads)
    return _padded(labels.astype(np.int64), 1.0 - distances, k)


def search_shards(indexes: list[hnswlib.Index], queries: np.ndarray, k: int, ef: int) -> Neighbours:
    """Searches every shard and merges what they found.

    Args:
        queries: float32 [Q, d].
        k: How many pins a query.
        ef: Candidates kept during the search of one shard (Malkov and Yashunin, algorithm 5); at least k is used.
    """
    threads = -1 if len(queries) > 16 else 1
    return merge_top_k([_search(index, queries, k, ef, threads) for index in indexes], k)


def exact_top_k(queries: np.ndarray, pin_ids: np.ndarray, embeddings: np.ndarray, k: int) -> Neighbours:
    """The k largest inner products, every pin looked at.

    Args:
        queries: float32 [Q, d].
        pin_ids: int64 [P].
        embeddings: float16 or float32 [P, d].
    """
    best = _padded(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
    rows = 1 << 14
    for start in range(0, len(pin_ids), rows):
        scores = queries @ embeddings[start : start + rows].astype(np.float32).T  # [Q, rows]
        kept = min(k, scores.shape[1])
        at = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
        chosen = Neighbours(pin_ids[start : start + rows][at], np.take_along_axis(scores, at, 1))
        best = merge_top_k([best, chosen], k)
    return best


def merge_top_k(parts: list[Neighbours], k: int) -> Neighbours:
    """The k best of several answers to the same queries."""
    return _padded(
        np.concatenate([part.pin_ids for part in parts], axis=1),
        np.concatenate([part.scores for part in parts], axis=1),
        k,
    )


def tie_aware_recall(found: Neighbours, exact: Neighbours) -> float:
    """Share of the true k best that were found; a pin that scores as well as the k-th best counts as one of them.

    Args:
        found: From the index.
        exact: From `exact_top_k` over all shards, of the same queries and k.
    """
    wanted = np.isfinite(exact.scores)
    if not wanted.any():
        return 1.0
    last = np.where(wanted, exact.scores, np.inf).min(axis=1, keepdims=True)
    good = np.isfinite(found.scores) & (found.scores >= last - TIE)
    return float(np.minimum(good.sum(axis=1), wanted.sum(axis=1)).sum() / wanted.sum())
