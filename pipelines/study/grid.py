"""What `pinnerformer study` trains: one cell for every row of the paper's tables, at sizes for one machine."""

import dataclasses
from typing import Any

from pinnerformer_model.training_settings import MODES

# Table 6 of the paper; its features by our names.
FEATURES = ("pinsage", "time", "surface", "action", "duration", "position")
BASE = "dense_all_action_28"
UNTRAINED = "untrained"
DEAREST = "next_action"  # one pair a window: as many pairs as the others' take many times the windows
EVERY = ("once", "daily", "realtime")


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a study is; part of every cell's identity.

    Attributes:
        hidden_size, num_layers, num_heads, pin_hidden_size: Of the towers.
        embedding_dim: d of every cell that does not vary it.
        max_sequence_length: M of every cell that does not vary it.
        steps: Of training.
        rate_steps: Of a training that tries a learning rate.
        checks: Times that a training is measured by the choosing users; the best of them is kept.
        users_per_step, positions: Of the base cell; other cells draw as many (position, label) pairs a step.
        random_negatives, token_budget: Of training.
        learning_rates: Tried for every objective first; widened while the best is at an edge.
        widenings: At most so often.
        lengths, dims: The values of M and d that are tried.
    """

    hidden_size: int = 256
    num_layers: int = 1
    num_heads: int = 4
    pin_hidden_size: int = 512
    embedding_dim: int = 256
    max_sequence_length: int = 32
    steps: int = 800
    rate_steps: int = 400
    checks: int = 4
    users_per_step: int = 32
    positions: int = 32
    random_negatives: int = 1024
    token_budget: int = 1024
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    widenings: int = 3
    lengths: tuple[int, ...] = (4, 8, 16, 32, 64)
    dims: tuple[int, ...] = (32, 64, 128, 256)

    def as_json(self) -> dict[str, Any]:
        """What a cell's result depends on: not on which other cells and learning rates are tried."""
        others = ("rate_steps", "learning_rates", "widenings", "lengths", "dims")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in others}


FULL = Size()
SMALL = Size(
    hidden_size=128,
    pin_hidden_size=256,
    embedding_dim=128,
    steps=200,
    rate_steps=100,
    checks=2,
    positions=16,
    dims=(16, 32, 64, 128),
)
QUICK = Size(
    hidden_size=32,
    pin_hidden_size=256,
    embedding_dim=32,
    max_sequence_length=16,
    steps=40,
    rate_steps=40,
    checks=1,
    users_per_step=32,
    positions=8,
    random_negatives=512,
    learning_rates=(2e-3,),
    widenings=0,
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
        longer: Training steps, in multiples of the size's.
        cpu_of: A cell; this one trains for as many CPU seconds. None: for its steps.
        extras: Further settings, (name, value): of the start (`START_EXTRAS`), of the objective or of training.
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
    longer: int = 1
    cpu_of: str | None = None
    extras: tuple[tuple[str, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What tells it from other cells; settings at their defaults are left out."""
        found = {**dataclasses.asdict(self), "dropped": list(self.dropped), "frequencies": list(self.frequencies)}
        found["extras"] = dict(self.extras)
        for name, default in (("shuffled", False), ("longer", 1), ("cpu_of", None), ("extras", {})):
            if found[name] == default:
                del found[name]
        return found


START_EXTRAS = ("ridge", "prior", "prior_days", "mean_scale")  # of `StartSettings`


def start_of(cell: Cell, size: Size) -> Cell:
    """The cell's model before its first training step; cells that begin alike have one start."""
    name, length, dim = UNTRAINED, cell.max_sequence_length, cell.embedding_dim
    length, dim = (None if length == size.max_sequence_length else length), (None if dim == size.embedding_dim else dim)
    extras = tuple((key, value) for key, value in cell.extras if key in START_EXTRAS)
    name += f"_length_{length}" * (length is not None) + f"_dim_{dim}" * (dim is not None)
    name += "".join(f"_without_{feature}" for feature in cell.dropped)
    name += "".join(f"_{key}_{value:g}" for key, value in extras)
    frequencies = EVERY if name == UNTRAINED else ("once",)
    return Cell(
        name,
        dropped=cell.dropped,
        max_sequence_length=length,
        embedding_dim=dim,
        frequencies=frequencies,
        extras=extras,
    )


def make_grid(size: Size, features: tuple[str, ...] = FEATURES) -> list[Cell]:
    """Every cell once; the base first, those of the larger questions before those of the smaller.

    Random negatives have one cell: log Q is a constant there, which a softmax does not see.

    Args:
        features: Those that the data have: without durations, dropping them says nothing.
    """
    cells = [
        Cell(BASE, frequencies=EVERY),
        Cell("all_action_28", objective="all_action"),
        Cell("sasrec", objective="sasrec", frequencies=EVERY),
        Cell("all_action_28_cpu", objective="all_action", cpu_of=BASE),
        Cell("dense_all_action_14", days=14),
        Cell("shuffled_labels", shuffled=True),
    ]
    for mode in MODES:
        for log_q in (True, False):
            if (mode, log_q) not in (("mixed", True), ("random", False)):
                cells.append(Cell(f"{mode}{'' if log_q else '_without_logq'}", negatives=mode, log_q=log_q))
    cells += [Cell(f"without_{name}", dropped=(name,)) for name in features]
    cells += [Cell(f"length_{m}", max_sequence_length=m) for m in size.lengths if m != size.max_sequence_length]
    cells += [Cell(f"dim_{d}", embedding_dim=d) for d in size.dims if d != size.embedding_dim]
    return [*cells, Cell("next_action", objective=DEAREST)]


# What may make a better model, and is no question of the paper's: chosen among by the choosing users.
LEVERS = (
    Cell(BASE, frequencies=EVERY),
    Cell("all_action_28", objective="all_action"),
    Cell("dense_start_mean_3", extras=(("mean_scale", 3.0),)),
    Cell("dense_start_ridge_03", extras=(("ridge", 0.3),)),
    Cell("dense_start_ridge_3", extras=(("ridge", 3.0),)),
    Cell("dense_start_everybody", extras=(("prior", 0.3), ("prior_days", 7))),
    Cell("dense_length_128", max_sequence_length=128),
    Cell("all_action_length_128", objective="all_action", max_sequence_length=128),
    Cell("all_action_longer", objective="all_action", longer=3),
    Cell("all_action_repeats_weigh_less", objective="all_action", extras=(("repeat_weight", 0.2),)),
    Cell("dense_newest_half", extras=(("newest_weight", 0.5),)),
    Cell("sasrec_newest_half", objective="sasrec", extras=(("newest_weight", 0.5),)),
    Cell("dense_full_windows", extras=(("full_windows", True),)),
    Cell("dense_dropout", extras=(("dropout", 0.1),)),
    Cell("dense_temperature", extras=(("temperature", 0.1),)),
)
