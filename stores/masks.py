"""Pins that a graph has and does not serve: they have changed, or gone, since it was built, or are hard to find in it.

The file of a graph stays as it is (hnswlib's own `mark_deleted` would change it), and such pins are taken out of what a
search of it returns.
"""

import dataclasses
import functools

import numpy as np

from stores.ids import find_sorted

NO_IDS = np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True)
class Mask:
    """The nodes of a graph that do not stand for their own pin any more.

    Attributes:
        nodes: int64 [D], ascending.
        served: int64 [D]: the pin that a node stands for now, the lowest of the twins that still have its vector; -1
            where there is none.
    """

    nodes: np.ndarray
    served: np.ndarray

    def __len__(self) -> int:
        """Nodes that stand for nobody."""
        return self._nobody

    @functools.cached_property
    def _nobody(self) -> int:
        return int((self.served < 0).sum())

    def apply(self, pin_ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a search returned, int64 and float32 of one shape, as it is served: -1 and -inf where it is nobody."""
        at, hit = find_sorted(self.nodes, pin_ids.ravel())
        if not hit.any():
            return pin_ids, scores
        hit = hit.reshape(pin_ids.shape)
        pin_ids = pin_ids.copy()
        pin_ids[hit] = self.served[at[hit.ravel()]]
        return pin_ids, np.where(pin_ids < 0, np.float32(-np.inf), scores)


NO_MASK = Mask(NO_IDS, NO_IDS)


def mask_pins(pin_id: np.ndarray, twin_of: np.ndarray, masked: np.ndarray) -> tuple[Mask, np.ndarray, np.ndarray]:
    """Takes pins out of a graph and its twins.

    A graph holds equal vectors once, under the lowest pin. Where that one is taken out, and twins of it are not, the
    lowest of those takes its place.

    Args:
        pin_id, twin_of: int64 [T], of the twins, by `twin_of`, then `pin_id`.
        masked: int64 [M], ascending: pins of the graph or twins.

    Returns:
        The mask of the graph; `pin_id` and `twin_of` of the twins that are left, in the same order.
    """
    nodes = np.setdiff1d(masked, pin_id, assume_unique=True)
    left = ~find_sorted(masked, pin_id)[1]
    pin_id, twin_of = pin_id[left], twin_of[left]
    first = np.ones(len(twin_of), bool)
    first[1:] = twin_of[1:] != twin_of[:-1]
    at, orphaned = find_sorted(nodes, twin_of)
    served = np.full(len(nodes), -1, np.int64)
    served[at[first & orphaned]] = pin_id[first & orphaned]
    twin_of = twin_of.copy()
    twin_of[orphaned] = served[at[orphaned]]
    rest = ~(first & orphaned)
    pin_id, twin_of = pin_id[rest], twin_of[rest]
    order = np.lexsort((pin_id, twin_of))
    return Mask(nodes, served), pin_id[order], twin_of[order]
