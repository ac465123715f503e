"""Initial weights: a fresh model already embeds a user near the mean of the pins engaged with.

Ours, the paper does not say. With weights drawn at random, users and pins begin in spaces that have nothing to do with
each other, and most of a short training goes into bringing them together. Here both towers begin as linear maps of the
PinSage vector into one space: a pin is its vector, rotated; a token is its pin's vector, rotated, and hardly anything
else; the first block adds the mean of the tokens that a position sees. All of it is then trained.

Given vectors, the map whitens them: it keeps their strongest directions, each made equally strong, so that what all
pins have in common does not drown what tells them apart.

A linear map goes through a GELU layer exactly, because gelu(x) - gelu(-x) = x: each of its rows stands in the layer
twice, with either sign. Units that are left over are random.
"""

import math

import numpy as np
import torch
from torch import nn

from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.user_tower import Block, UserTower

STD = 0.02
TABLE_STD = 0.5
MEAN_SCALE = 3.0  # of the mean of the tokens, beside the newest one: at 1 the newest drowns it
TOKEN_SCALE = 8.0  # of a unit vector in a token
OTHER_STD = 0.002  # of the other features' weights: the times alone are some 150 numbers of size 1, and noise at first


@torch.no_grad()
def initialise(
    user_tower: UserTower,
    pin_tower: PinTower,
    seed: int,
    vectors: np.ndarray | None = None,
    mean_scale: float | None = None,
) -> None:
    """Fills both towers; the same seed gives the same weights, whatever was drawn before.

    Args:
        vectors: float [P, D], PinSage vectors to whiten; None: their space is rotated at random, and not whitened.
        mean_scale: In place of `MEAN_SCALE`.
    """
    generator = torch.Generator().manual_seed(seed)
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

    features = user_tower.features
    into, hidden = pin_tower.inner.in_features, user_tower.projection.out_features
    out = pin_tower.outer.out_features
    token = semi_orthogonal(hidden, into, generator)
    if vectors is not None:
        directions = whitening(vectors, hidden)
        token = nn.functional.pad(directions, (0, 0, 0, hidden - len(directions)))
        head = torch.eye(out, hidden)
        pin = head @ token
    elif hidden >= into:
        pin = semi_orthogonal(out, into, generator)
        head = pin @ token.T  # head @ token == pin
    else:
        head = semi_orthogonal(out, hidden, generator)
        pin = head @ token
    user_tower.projection.weight.mul_(OTHER_STD / STD)
    user_tower.projection.weight[:, :into] = TOKEN_SCALE * token
    end = user_tower.projection.in_features
    for encoder in (features.gap, features.since_latest, features.absolute_time):  # from the last column back
        user_tower.projection.weight[:, end - 1] /= 20  # the logarithm of a time is up to 21, not 1
        end -= encoder.width
    block = user_tower.blocks[0]
    assert isinstance(block, Block)
    _add_mean(block, semi_orthogonal(hidden, hidden, generator), MEAN_SCALE if mean_scale is None else mean_scale)
    _linear(user_tower.head_in, user_tower.head_out, semi_orthogonal(hidden, hidden, generator), head)
    identity = torch.eye(out)
    _linear(pin_tower.inner, pin_tower.outer, math.sqrt(into) * pin, identity, through=False)


def whitening(vectors: np.ndarray, most: int) -> torch.Tensor:
    """The principal directions of vectors, the strongest first, each divided by its strength.

    A hundredth of the largest variance is added to all, so that noise is not blown up. Scaled so that the mean squared
    norm of a vector is 1 afterwards.

    Args:
        vectors: float [P, D]; some 20,000 of them, evenly spaced, are looked at.
        most: Directions kept at most.

    Returns:
        float32 [min(most, D), D], a direction a row.
    """
    sample = torch.from_numpy(np.array(vectors[:: max(1, len(vectors) // 20_000)], np.float64))
    # Not centred: what all vectors have in common is their strongest direction, and is evened out with the others.
    strength, directions = torch.linalg.eigh(sample.T @ sample / len(sample))
    strength, directions = strength.flip(0), directions.flip(1)
    largest = directions.abs().argmax(0)  # an eigenvector's sign is free: the largest number is made positive
    directions = directions * directions[largest, torch.arange(len(largest))].sign()
    scaled = (directions / (strength + 0.01 * strength[0]).sqrt())[:, :most]
    norm = (sample @ scaled).square().sum(1).mean().sqrt()
    return (scaled / norm).T.float()


def semi_orthogonal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """A random matrix whose rows, or columns if they are fewer, are orthonormal: float32 [rows, columns]."""
    wide = torch.empty(rows, columns).normal_(generator=generator)
    return nn.init.orthogonal_(wide, generator=generator)


def _add_mean(block: Block, turn: torch.Tensor, scale: float) -> None:
    """Makes a block's attention, nearly uniform at first, hand on the normed tokens as they are.

    Args:
        turn: Orthogonal [H, H].
    """
    block.qkv.weight[2 * len(turn) :] = turn
    block.attention_out.weight.copy_(scale * turn.T)


def _linear(inner: nn.Linear, outer: nn.Linear, into: torch.Tensor, out: torch.Tensor, through: bool = True) -> None:
    """Makes outer(gelu(inner(x))) = out @ into.T @ into @ x (`through`), or out @ into @ x; plus small random parts.

    Does nothing if the layer is too narrow to hold every row of `into` twice.
    """
    width = len(into)
    if inner.out_features < 2 * width:
        return
    inner.weight[:width], inner.weight[width : 2 * width] = into, -into
    back = out @ into.T if through else out
    outer.weight[:, :width], outer.weight[:, width : 2 * width] = back, -back
