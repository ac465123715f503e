"""Twins: pins of one vector, of which a graph holds the lowest and which stand beside it.

Where a search finds the one, its twins are as good an answer.
"""

import dataclasses

import numpy as np

from stores.neighbours import Neighbours, ordered_top_k


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


def add_twins(found: Neighbours, twins: list[Twins], k: int) -> Neighbours:
    """Puts the twins of the pins found beside them, and keeps the k best.

    Args:
        found: [Q, k], best first.
        twins: Of all graphs; a pin has twins in one of them at most.
    """
    if not twins or not found.pin_ids.size:
        return found
    pins = found.pin_ids.ravel()
    begin, owner, count = np.zeros((3, len(pins)), np.int64)
    for number, one in enumerate(twins):
        first = np.searchsorted(one.twin_of, pins, side="left")
        crowd = np.searchsorted(one.twin_of, pins, side="right") - first
        begin[crowd > 0], owner[crowd > 0] = first[crowd > 0], number
        # No more of them are laid out than an answer can hold: a crowd may have thousands.
        count += np.minimum(crowd, k - 1)
    if not count.any():
        return found
    counts = (count + 1).reshape(found.pin_ids.shape)  # every pin found stands for itself and its twins
    # A pin may be left out where k better ones stand before it. Of pins that score the same none may: which ids are the
    # lowest is known when their twins are there.
    better = np.cumsum(counts, axis=1) - counts
    tied = np.zeros(counts.shape, bool)
    tied[:, 1:] = found.scores[:, 1:] == found.scores[:, :-1]
    better = np.maximum.accumulate(np.where(tied, 0, better), axis=1)
    counts = np.where((better < k) & (found.pin_ids >= 0), counts, 0)
    # The twins of all pins of all queries at once: `cell` says whose place is filled, `rank` which of the crowd fills
    # it; 0 is the pin in the graph.
    each = counts.ravel()
    cell = np.repeat(np.arange(len(each)), each)
    rank = np.arange(len(cell)) - np.repeat(np.cumsum(each) - each, each)
    ids = pins[cell]
    for number, one in enumerate(twins):
        mine = np.flatnonzero((rank > 0) & (owner[cell] == number))
        ids[mine] = one.pin_id[begin[cell[mine]] + rank[mine] - 1]
    place = np.cumsum(counts, axis=1) - counts  # of each pin found, among those of its query
    at = (cell // found.pin_ids.shape[1], place.ravel()[cell] + rank)
    width = int(counts.sum(axis=1).max())
    pin_ids = np.full((len(counts), width), -1, np.int64)
    scores = np.full((len(counts), width), -np.inf, np.float32)
    pin_ids[at], scores[at] = ids, found.scores.ravel()[cell]
    return ordered_top_k(pin_ids, scores, k)
