"""How often each pin has been a label so far: the Q of the log Q correction (paper, section 4)."""

import torch

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


class CountMinSketch:
    """Streaming counts in fixed memory: never too low, too high by at most 2 total / width in all but 2^-depth cases.

    Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch and its applications" (2005).

    Args:
        width: Counters a row, a power of two.
        depth: Rows, each with a hash of its own; at most 4.
        device: Where the counters lie.
    """

    def __init__(self, width: int = 1 << 20, depth: int = 2, device: str | torch.device = "cpu"):
        if width < 2 or width & (width - 1):
            raise ValueError(f"width must be a power of two, got {width}")
        if not 1 <= depth <= len(_MULTIPLIERS):
            raise ValueError(f"depth must be between 1 and {len(_MULTIPLIERS)}, got {depth}")
        self.table = torch.zeros(depth, width, dtype=torch.int64, device=device)
        self._bits = width.bit_length() - 1

    def _cells(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [depth, N]: multiply-shift (Dietzfelbinger and others, 1997) of a mixed id; int64 products wrap."""
        # Multipliers of its own per row: ids that share a cell in one row must not share one in the next, or the
        # smallest of the rows would be no better than any.
        cells = []
        for row in range(len(self.table)):
            mixed = (ids ^ (ids >> 31)) * _signed(_MULTIPLIERS[row])
            mixed = (mixed ^ (mixed >> 29)) * _signed(_MULTIPLIERS[row - 1])
            cells.append((mixed >> (63 - self._bits)) & ((1 << self._bits) - 1))
        return torch.stack(cells)

    def add(self, ids: torch.Tensor) -> None:
        """Counts ids, int64 [N], repeats included."""
        # `scatter_add_` and not indexing: an id may occur several times in one step.
        cells = self._cells(ids)
        self.table.scatter_add_(1, cells, torch.ones_like(cells))

    @property
    def total(self) -> torch.Tensor:
        """int64 []: how many ids were counted."""
        return self.table[0].sum()

    def counts(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [N]: how often each id was counted, at least."""
        # Collisions only add, so the smallest of the rows is nearest to the truth.
        return self.table.gather(1, self._cells(ids)).amin(0)


class ExactCounts:
    """The same from one counter an id: for corpora whose counters fit, and to test the sketch against.

    Args:
        size: Ids are in [0, size).
        device: Where the counters lie.
    """

    def __init__(self, size: int, device: str | torch.device = "cpu"):
        self.table = torch.zeros(1, size, dtype=torch.int64, device=device)

    def add(self, ids: torch.Tensor) -> None:
        """Counts ids, int64 [N], repeats included."""
        self.table[0].scatter_add_(0, ids, torch.ones_like(ids))

    @property
    def total(self) -> torch.Tensor:
        """int64 []: how many ids were counted."""
        return self.table.sum()

    def counts(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [N]: how often each id was counted."""
        return self.table[0][ids]
