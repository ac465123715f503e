"""Initial weights: a fresh model already embeds a user as the closed form of a linear model would.

Ours, the paper does not say. With weights drawn at random, users and pins begin in spaces that have nothing to do with
each other, and most of a short training goes into bringing them together. Here both towers begin as linear maps of the
PinSage vector z into one space. A pin is its vector as it is, turned to the axes in which the vectors vary most. A user
is

    u = (G + lambda I)^-1 (mean of z over the tokens + beta times the mean of z over everybody's last positives),

G the mean of z z' over the corpus: ridge regression of "who engaged with it" on the vectors, for which the inner
product u'z is the fitted value (the fold-in of a user into item factors: Hu, Koren and Volinsky, "Collaborative
filtering for implicit feedback datasets", 2008, equation 4, with every weight 1). It evens out what all vectors have in
common on the user's side only: pins keep their lengths and angles, and with them what the vectors say of popularity.

A token is (G + lambda I)^-1 z beside a constant, so that layer norm, which divides by the length of both, leaves
lengths nearly as they are; the first block adds the mean of the tokens that a position sees. All of it is then trained.

A linear map goes through a GELU layer exactly, because gelu(x) - gelu(-x) = x: each of its rows stands in the layer
twice, with either sign. Units that are left over are random on their way in, and add nothing at first.
"""

import dataclasses
import math

import numpy as np
import torch
from torch import nn

from pinnerformer_model.days import DAY_MS
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.timelines import Timelines
from pinnerformer_model.training_settings import StartSettings
from pinnerformer_model.user_tower import Block, UserTower

STD = 0.02
TABLE_STD = 0.5
TOKEN_SCALE = 8.0  # of a unit vector in a token, or of its constant
TURNED_MEAN_SCALE = 3.0  # of the mean of the tokens, beside the newest one, where nothing is known of the vectors
TURNED_OTHER_STD = 0.002
OTHER_STD = 0.0005  # of the other features' weights: the times alone are some 150 numbers of size 1, and noise at first


DEFAULT_START = StartSettings()


@dataclasses.dataclass(frozen=True)
class LinearStart:
    """The linear model that a fresh one is, in r directions.

    Attributes:
        directions: float64 [r, D], orthonormal, the strongest first.
        gain: float64 [r], 1 / (strength + lambda).
        prior: float64 [r], beta times the mean of everybody's last positives, along the directions.
        size: The 99th percentile of |gain * directions z| over the corpus.
        mean_scale: See `StartSettings`.
    """

    directions: np.ndarray
    gain: np.ndarray
    prior: np.ndarray
    size: float
    mean_scale: float


_GRAM_ROWS = 1 << 21  # vectors looked at, at most: a pass over them all, 2 D^2 operations each


@dataclasses.dataclass(frozen=True)
class Space:
    """What a corpus of vectors looks like.

    Attributes:
        strength: float64 [D], the mean squared length along each direction, the strongest first.
        directions: float64 [D, D], orthonormal.
        sample: float64 [S, D], some of the vectors.
    """

    strength: np.ndarray
    directions: np.ndarray
    sample: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Space":
        """Looks at float [P, D] vectors; at 2 million of them, evenly spaced, where there are more."""
        chosen = vectors[:: -(-len(vectors) // _GRAM_ROWS)]
        dim = chosen.shape[1]
        gram = np.zeros((dim, dim))
        for start in range(0, len(chosen), 1 << 14):
            piece = np.asarray(chosen[start : start + (1 << 14)], np.float64)
            gram += piece.T @ piece
        # Not centred: what all vectors have in common is their strongest direction, and gets the smallest gain.
        strength, axes = np.linalg.eigh(gram / len(chosen))
        strength, axes = np.maximum(strength[::-1], 0), axes[:, ::-1].T
        largest = np.abs(axes).argmax(1)  # an eigenvector's sign is free: the largest number is made positive
        axes = axes * np.sign(axes[np.arange(dim), largest])[:, None]
        return cls(strength, axes, np.asarray(vectors[:: max(1, len(vectors) // 20_000)], np.float64))


def linear_start(
    space: Space, most: int, settings: StartSettings = DEFAULT_START, everybody: np.ndarray | None = None
) -> LinearStart:
    """The ridge regression on a space; see above.

    Args:
        most: Directions kept at most: the strongest.
        everybody: float [D], the mean of the vectors of everybody's last positives; None: no prior.
    """
    ridge = settings.ridge * max(float(space.strength[1:].mean()) if len(space.strength) > 1 else 0.0, 1e-12)
    gain = 1 / (space.strength[:most] + ridge)
    directions = space.directions[:most]
    prior = np.zeros(len(gain)) if everybody is None else settings.prior * (directions @ everybody)
    size = float(np.percentile(np.linalg.norm(space.sample @ directions.T * gain, axis=1), 99))
    return LinearStart(directions, gain, prior, max(size, 1e-12), settings.mean_scale)


def everybody_lately(timelines: Timelines, vectors: np.ndarray, until_ms: int, days: int) -> np.ndarray:
    """The mean of the vectors of all positives of the `days` before a moment: float64 [D]; zeros without any.

    Args:
        timelines: Of the users whose taste counts.
        vectors: float [P, D].
    """
    counted = timelines.positive & (timelines.timestamp_ms < until_ms)
    counted &= timelines.timestamp_ms >= until_ms - days * DAY_MS
    pins, times = np.unique(timelines.pin_row[counted], return_counts=True)
    total = np.zeros(vectors.shape[1])
    for start in range(0, len(pins), 1 << 14):
        piece = slice(start, start + (1 << 14))
        total += times[piece] @ np.asarray(vectors[pins[piece]], np.float64)
    return total / max(1, times.sum())


@torch.no_grad()
def initialise(user_tower: UserTower, pin_tower: PinTower, seed: int, start: LinearStart | None = None) -> None:
    """Fills both towers; the same seed gives the same weights, whatever was drawn before, and on however many cores.

    On another kind of CPU the last bits may differ: torch and its linear algebra have other code there.

    Args:
        start: Of the vectors, with at most `rank_of` directions; None: see `_turn_space`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several add up in another order
    try:
        _fill(user_tower, pin_tower, torch.Generator().manual_seed(seed), start)
    finally:
        torch.set_num_threads(threads)


def _fill(user_tower: UserTower, pin_tower: PinTower, generator: torch.Generator, start: LinearStart | None) -> None:
    _draw(user_tower, pin_tower, generator)
    if start is None:
        _turn_space(user_tower, pin_tower, generator)
        return
    into, hidden = pin_tower.inner.in_features, user_tower.projection.out_features
    out, rank = pin_tower.outer.out_features, len(start.gain)
    axes = _axes_without_mean(hidden, rank + 1, generator)
    scaled = torch.from_numpy(start.gain[:, None] * start.directions / start.size).float()
    head, pin, prior = torch.zeros(out, hidden), torch.zeros(out, into), torch.zeros(out)
    head[:rank], pin[:rank] = axes[:, :rank].T, torch.from_numpy(start.directions).float()
    # As long as what layer norm makes of a token whose constant is 1.
    prior[:rank] = math.sqrt(hidden) * torch.from_numpy(start.gain * start.prior / start.size).float()
    _fill_projection(user_tower, into, axes[:, :rank] @ scaled, OTHER_STD)
    user_tower.projection.bias.copy_(TOKEN_SCALE * axes[:, rank])
    _silence_blocks(user_tower)
    _add_mean(user_tower, semi_orthogonal(hidden, hidden, generator), start.mean_scale)
    turn = semi_orthogonal(hidden, hidden, generator)
    _linear(user_tower.head_in, user_tower.head_out, turn, head, alone=True)
    user_tower.head_out.bias.copy_(prior)
    _linear(pin_tower.inner, pin_tower.outer, math.sqrt(into) * pin, torch.eye(out), through=False, alone=True)


def _turn_space(user_tower: UserTower, pin_tower: PinTower, generator: torch.Generator) -> None:
    """Begins with nothing known of the vectors: their space turned at random, and a user near the mean of the tokens.

    What `init-model` writes: the same seed writes what it always wrote.
    """
    into, hidden = pin_tower.inner.in_features, user_tower.projection.out_features
    out = pin_tower.outer.out_features
    token = semi_orthogonal(hidden, into, generator)
    if hidden >= into:
        pin = semi_orthogonal(out, into, generator)
        head = pin @ token.T  # head @ token == pin
    else:
        head = semi_orthogonal(out, hidden, generator)
        pin = head @ token
    _fill_projection(user_tower, into, token, TURNED_OTHER_STD)
    _add_mean(user_tower, semi_orthogonal(hidden, hidden, generator), TURNED_MEAN_SCALE)
    _linear(user_tower.head_in, user_tower.head_out, semi_orthogonal(hidden, hidden, generator), head)
    _linear(pin_tower.inner, pin_tower.outer, math.sqrt(into) * pin, torch.eye(out), through=False)


def rank_of(hidden_size: int, embedding_dim: int) -> int:
    """How many directions a model has room for: layer norm takes one of H, the constant another."""
    return min(hidden_size - 2, embedding_dim)


def _draw(user_tower: UserTower, pin_tower: PinTower, generator: torch.Generator) -> None:
    """Fills every parameter as if it were to be trained from nothing."""
    depth = 2 * len(user_tower.blocks)
    for name, parameter in [*user_tower.named_parameters(), *pin_tower.named_parameters()]:
        kind = name.rpartition(".")[2]
        if kind in ("cos_phase", "sin_phase"):
            parameter.uniform_(0, 2 * math.pi, generator=generator)
        elif "norm" in name:
            parameter.fill_(1.0 if kind == "weight" else 0.0)
        elif kind == "bias":
            parameter.zero_()
        elif name.startswith("features."):
            parameter.normal_(0, TABLE_STD, generator=generator)
        else:  # output projections of a block as in GPT-2
            last = "attention_out" in name or "ffn_out" in name
            parameter.normal_(0, STD / (depth**0.5 if last else 1.0), generator=generator)


def _silence_blocks(user_tower: UserTower) -> None:
    """Makes every block hand on what it is given: what it adds begins at 0, as in Goyal et al. (arXiv 1706.02677, 5.1).

    Random parts cost a fresh model a tenth of its recall, and more the smaller what tells pins apart is in a token.
    """
    for block in user_tower.blocks:
        assert isinstance(block, Block)
        block.attention_out.weight.zero_()
        block.ffn_out.weight.zero_()
    user_tower.position.mul_(OTHER_STD / STD)


def _fill_projection(user_tower: UserTower, into: int, token: torch.Tensor, other_std: float) -> None:
    """Makes tokens what `token` makes of their pin's vector, and hardly anything of everything else."""
    projection, features = user_tower.projection, user_tower.features
    projection.weight.mul_(other_std / STD)
    projection.weight[:, :into] = TOKEN_SCALE * token
    end = projection.in_features
    for encoder in (features.gap, features.since_latest, features.absolute_time):  # from the last column back
        projection.weight[:, end - 1] /= 20  # the logarithm of a time is up to 21, not 1
        end -= encoder.width


def _axes_without_mean(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Random orthonormal columns that sum to 0 each, so that layer norm has no mean to take off: float32."""
    drawn = torch.empty(rows, columns + 1).normal_(generator=generator)
    drawn[:, 0] = 1
    return torch.linalg.qr(drawn.double())[0][:, 1:].float()


def semi_orthogonal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """A random matrix whose rows, or columns if they are fewer, are orthonormal: float32 [rows, columns]."""
    wide = torch.empty(rows, columns).normal_(generator=generator)
    return nn.init.orthogonal_(wide, generator=generator)


def _add_mean(user_tower: UserTower, turn: torch.Tensor, scale: float) -> None:
    """Makes the first block's attention, nearly uniform at first, hand on the normed tokens as they are.

    Args:
        turn: Orthogonal [H, H].
    """
    block = user_tower.blocks[0]
    assert isinstance(block, Block)
    block.qkv.weight[2 * len(turn) :] = turn
    block.attention_out.weight.copy_(scale * turn.T)


def _linear(
    inner: nn.Linear,
    outer: nn.Linear,
    into: torch.Tensor,
    out: torch.Tensor,
    through: bool = True,
    alone: bool = False,
) -> None:
    """Makes outer(gelu(inner(x))) = out @ into.T @ into @ x (`through`), or out @ into @ x.

    Plus what the units that are left over add, small random parts, unless `alone`.

    Does nothing if the layer is too narrow to hold every row of `into` twice.
    """
    width = len(into)
    if inner.out_features < 2 * width:
        return
    inner.weight[:width], inner.weight[width : 2 * width] = into, -into
    back = out @ into.T if through else out
    outer.weight[:, :width], outer.weight[:, width : 2 * width] = back, -back
    if alone:
        outer.weight[:, 2 * width :] = 0
