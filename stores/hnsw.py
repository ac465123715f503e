"""The library behind an index shard: hnswlib, one HNSW graph (Malkov and Yashunin, arXiv:1603.09320).

Nothing outside this module knows hnswlib. `stores.indexes` has the list of the libraries whose files are read, and the
one that new shards are built with; twins, shards and how wide a search must be are the same for all of them.
"""

import dataclasses
import functools
import hashlib
import struct
from importlib import metadata

import hnswlib
import numpy as np

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.large_pages import on_large_pages

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

    def with_effort(self, factor: int) -> "IndexParameters":
        """For a shard in which some pin was not found: that much more of everything."""
        return IndexParameters(self.m * factor, self.ef_construction * factor)


class HnswGraph:
    """Distinct vectors under their pin ids, searched by inner product."""

    suffix = ".hnsw"

    def __init__(self, index: hnswlib.Index):
        self._index = index

    @staticmethod
    def build_id() -> str:
        """The version of hnswlib, and how this build of it rounds: equal ones give equal graphs of equal vectors."""
        return f"hnswlib {metadata.version('hnswlib')} {_rounding()}"

    def __len__(self) -> int:
        return self._index.get_current_count()

    def pin_ids(self) -> np.ndarray:
        """int64 [N], in any order."""
        return np.array(self._index.get_ids_list(), np.int64)

    @classmethod
    def build(
        cls, ids: np.ndarray, embeddings: np.ndarray, rows: np.ndarray, parameters: IndexParameters
    ) -> "HnswGraph":
        """Builds a graph with ONE thread: the same input gives the same bytes.

        Args:
            ids: int64 [P] >= 0, ascending, unique.
            embeddings: float16 or float32 [P, d], unit norm.
            rows: int64 [N], ascending: which of them go in.
        """
        index = hnswlib.Index(space="ip", dim=embeddings.shape[1])
        # A fixed seed and one thread: levels are drawn at random and links depend on what is there already, so that
        # only this gives equal bytes.
        with on_large_pages():
            index.init_index(
                max(1, len(rows)), M=parameters.m, ef_construction=parameters.ef_construction, random_seed=100
            )
        for start in range(0, len(rows), _CHUNK):  # float32 of a chunk at a time
            part = rows[start : start + _CHUNK]
            index.add_items(embeddings[part].astype(np.float32), ids[part], num_threads=1)
        return cls(index)

    def search(self, queries: np.ndarray, k: int, ef: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """The best pins of queries.

        Args:
            queries: float32 [Q, d], Q > 0.
            k: 0 < k <= N.
            ef: Candidates kept during the search (algorithm 5); at least k is used.
            threads: -1: as many as there are cores.

        Returns:
            pin ids int64 [Q, k]; inner products float32 [Q, k]. -1 and -inf at the end, where links lead to fewer.
        """
        self._index.set_ef(max(ef, k))
        try:
            labels, distances = self._index.knn_query(queries, k=k, num_threads=threads)
        except RuntimeError:
            return self._search_reachable(queries, k)
        return labels.view(np.int64), 1.0 - distances

    def _search_reachable(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Asks each query for as many as there are: hnswlib answers nobody where one finds fewer than k."""
        pin_ids = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for number in range(len(queries)):
            least, most = 0, k
            while least < most:
                count = (least + most + 1) // 2
                try:
                    labels, distances = self._index.knn_query(queries[number : number + 1], k=count, num_threads=1)
                except RuntimeError:
                    if count == 1:
                        raise
                    most = count - 1
                    continue
                least = count
                pin_ids[number, :count], scores[number, :count] = labels[0], 1.0 - distances[0]
        return pin_ids, scores

    def save(self, path: str) -> None:
        """Writes a file that any hnswlib reads (space `ip`)."""
        self._index.save_index(path)

    @classmethod
    def load(cls, root: Root, entry: FileEntry, dim: int) -> "HnswGraph":
        """Reads a file whose size is the one that its manifest says.

        Raises:
            StoreError: it is something else than the manifest says.
        """
        path, local = root.path(entry.path), root.local_copy(entry)
        with open(local, "rb") as file:
            header = file.read(_HEADER.size)
        # Before `load_index`, which makes whatever room the header asks for: a flipped bit there would take all memory.
        if len(header) == _HEADER.size:
            _, room, count, element, _, _ = _HEADER.unpack(header)
            most = entry.bytes // count if count else 1 << 20
            if room != max(1, entry.rows) or count != entry.rows or not 4 * dim <= element <= most:
                raise StoreError(
                    f"{path}: its header asks for room for {room:,} pins of {element:,} bytes, its manifest says "
                    f"{entry.rows:,} pins in {entry.bytes:,} bytes; restore the file from a backup"
                )
        # hnswlib follows links that it does not check: a flipped bit in one would end the process while it searches. A
        # copy from an object store was compared when it was made.
        if root.is_local and root.checksum(entry.path) != entry.checksum:
            raise StoreError(
                f"{path}: its content is not what its manifest says (sha256); restore the file from a backup"
            )
        index = hnswlib.Index(space="ip", dim=dim)
        try:
            with on_large_pages():
                index.load_index(local)
        except RuntimeError as error:
            raise StoreError(f"{path}: not a readable index ({error}); restore the file from a backup") from error
        if index.get_current_count() != entry.rows:
            raise StoreError(f"{path}: holds {index.get_current_count()} pins, its manifest says {entry.rows}")
        return cls(index)


@functools.cache
def _rounding() -> str:
    """8 hex digits of inner products, computed by hnswlib: it says nowhere which instructions it was compiled for.

    SSE, AVX, AVX-512 and fused products add up in other orders, so that the last bit of a sum differs, now and then the
    order of two neighbours, and with it links.
    """
    digest = hashlib.sha256()
    # It has one loop for multiples of 16, one for multiples of 4, and two for what is left over.
    for dim in (16, 20, 67, 256):
        numbers = np.arange(33 * dim, dtype=np.uint32) * np.uint32(2654435769) / np.float64(2**31) - 1
        vectors = numbers.astype(np.float32).reshape(33, dim)
        exact = hnswlib.BFIndex(space="ip", dim=dim)
        exact.init_index(len(vectors))
        exact.add_items(vectors)
        distances = exact.knn_query(vectors, k=len(vectors), num_threads=1)[1]
        digest.update(np.sort(distances, axis=1).astype("<f4").tobytes())
    return digest.hexdigest()[:8]
