"""What `pinnerformer study` trains: one cell for every row of the paper's tables, at sizes for one machine."""

import dataclasses
from typing import Any

from pinnerformer_model.negatives import MODES

# Table 6 of the paper; its features by our names.
FEATURES = ("pinsage", "time", "surface", "action", "duration", "position")
BASE = "dense_all_action_28"


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a study is; part of every cell's identity.

    Attributes:
        hidden_size, num_layers, num_heads, pin_hidden_size: Of the towers.
        embedding_dim: d of every cell that does not vary it.
        max_sequence_length: M of every cell that does not vary it.
        steps, users_per_step, positions, random_negatives: Of training.
        learning_rates: The best for the base cell, on the first half of the evaluation users, is every cell's.
        lengths, dims: The values of M and d that are tried.
    """

    hidden_size: int = 256
    num_layers: int = 1
    num_heads: int = 4
    pin_hidden_size: int = 512
    embedding_dim: int = 256
    max_sequence_length: int = 32
    steps: int = 150
    users_per_step: int = 64
    positions: int = 8
    random_negatives: int = 1024
    learning_rates: tuple[float, ...] = (2.5e-4, 5e-4, 1e-3)
    lengths: tuple[int, ...] = (4, 8, 16, 32, 64)
    dims: tuple[int, ...] = (32, 64, 128, 256)


FULL = Size()  # sized for two hours of a machine with two cores
SMALL = Size(hidden_size=128, pin_hidden_size=256, embedding_dim=128, steps=80, dims=(16, 32, 64, 128))
QUICK = Size(
    hidden_size=32,
    pin_hidden_size=256,
    embedding_dim=32,
    max_sequence_length=16,
    steps=40,
    users_per_step=32,
    random_negatives=512,
    learning_rates=(2e-3,),
    lengths=(4, 16),
    dims=(8, 32),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model to train and measure.

    Attributes:
        name: Of its file; says what differs from the base.
        objective, days: The training objective and its K.
        negatives, log_q: The loss.
        dropped: Features taken for zero.
        max_sequence_length, embedding_dim: M and d; None: the size's.
        frequencies: Inference frequencies to measure.
        shuffled: Every step's labels are dealt out at random: what a model learns from popularity alone.
    """

    name: str
    objective: str = "dense_all_action"
    days: int = 28
    negatives: str = "mixed"
    log_q: bool = True
    dropped: tuple[str, ...] = ()
    max_sequence_length: int | None = None
    embedding_dim: int | None = None
    frequencies: tuple[str, ...] = ("once",)
    shuffled: bool = False

    def as_json(self) -> dict[str, Any]:
        found = {**dataclasses.asdict(self), "dropped": list(self.dropped), "frequencies": list(self.frequencies)}
        if not self.shuffled:
            del found["shuffled"]
        return found


def make_grid(size: Size, features: tuple[str, ...] = FEATURES) -> list[Cell]:
    """Every cell once; the base first, those of the larger questions before those of the smaller.

    Args:
        features: Those that the data have: without durations, dropping them says nothing.
    """
    every = ("once", "daily", "realtime")
    cells = [
        Cell(BASE, frequencies=every),
        Cell("sasrec", objective="sasrec", frequencies=every),
        Cell("next_action", objective="next_action"),
        Cell("all_action_28", objective="all_action"),
        Cell("dense_all_action_14", days=14),
    ]
    for mode in MODES:
        for log_q in (True, False):
            if (mode, log_q) != ("mixed", True):
                cells.append(Cell(f"{mode}{'' if log_q else '_without_logq'}", negatives=mode, log_q=log_q))
    cells += [Cell(f"without_{name}", dropped=(name,)) for name in features]
    cells += [Cell(f"length_{m}", max_sequence_length=m) for m in size.lengths if m != size.max_sequence_length]
    cells += [Cell(f"dim_{d}", embedding_dim=d) for d in size.dims if d != size.embedding_dim]
    return [*cells, Cell("shuffled_labels", shuffled=True)]
