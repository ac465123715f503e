"""The pool of negatives of one step, shared by all of its positions (paper, section 4)."""

import dataclasses

import numpy as np

from pinnerformer_model.objectives import Draw
from pinnerformer_model.timelines import ranges
from pinnerformer_model.training_settings import Negatives


@dataclasses.dataclass(frozen=True)
class Pool:
    """The distinct pins of a step, each encoded once, and who competes with whom.

    Attributes:
        pins: int64 [N], rows of the matrix of pin vectors; sorted, unique.
        copies: int64 [N], how often a pin stands in the pool: 0 = it is a label only.
        in_batch_size, random_size: Of the pool, how many pins came which way.
        pair_pin: int64 [P], place of every pair's label in `pins`.
        masked_query, masked_pin: int64 [X]: a user's own labels, places in `pins`, are no negatives of its queries.
    """

    pins: np.ndarray
    copies: np.ndarray
    in_batch_size: int
    random_size: int
    pair_pin: np.ndarray
    masked_query: np.ndarray
    masked_pin: np.ndarray


def make_pool(
    draw: Draw, pin_row: np.ndarray, negatives: Negatives, corpus_size: int, random: np.random.Generator
) -> Pool:
    """Draws the pool of a step.

    Args:
        draw: Of the step, of all users of all ranks.
        pin_row: int32 [E], of the timelines.
        corpus_size: Pins there are; random ones are rows below it.
    """
    labels = pin_row[draw.pair_event].astype(np.int64)  # [P]
    in_batch = labels if negatives.mode != "random" else labels[:0]
    if len(in_batch) > negatives.in_batch_limit:
        in_batch = random.choice(in_batch, negatives.in_batch_limit, replace=False)
    drawn = np.empty(0, np.int64)
    if negatives.mode != "in_batch":
        drawn = random.choice(corpus_size, min(negatives.random, corpus_size), replace=False, shuffle=False)
    # Each distinct pin is encoded once, however often it is a label or drawn: copies go into the bias.
    pins, place = np.unique(np.concatenate([labels, in_batch, drawn]), return_inverse=True)
    copies = np.bincount(place[len(labels) :], minlength=len(pins))
    pair_pin = place[: len(labels)]

    # (user, label) pairs, each once; then every query of the user with every label of the user.
    _, user = np.unique(draw.rows, return_inverse=True)  # several windows may be one user's
    query_user = user[draw.query_window]
    # A user's other labels are things the user does like: as negatives they would be taught away.
    own = np.unique(query_user[draw.pair_query] * len(pins) + pair_pin)
    owner, pin = own // len(pins), own % len(pins)
    first = np.searchsorted(owner, query_user)
    width = np.searchsorted(owner, query_user, side="right") - first
    return Pool(
        pins=pins,
        copies=copies,
        in_batch_size=len(in_batch),
        random_size=len(drawn),
        pair_pin=pair_pin,
        masked_query=np.repeat(np.arange(len(query_user)), width),
        masked_pin=pin[ranges(first, width)],
    )


def pair_weights(draw: Draw, newest_weight: float | None = None) -> np.ndarray:
    """float64 [P], summing to 1: every user weighs the same, however many pairs it has.

    Args:
        newest_weight: The share of a user's weight that the pairs of newest positions get together, where the user has
            both kinds; None: they weigh what the others do.
    """
    _, user = np.unique(draw.rows, return_inverse=True)
    user = user[draw.query_window[draw.pair_query]]
    pairs = np.bincount(user)
    users = np.count_nonzero(pairs)
    if newest_weight is None:
        return 1 / (users * pairs[user])
    newest = draw.query_position[draw.pair_query] == 0
    of_newest = np.bincount(user, weights=newest)[user]
    of_others = pairs[user] - of_newest
    part, alike = np.where(newest, newest_weight, 1 - newest_weight), np.where(newest, of_newest, of_others)
    alone = (of_newest == 0) | (of_others == 0)
    return np.where(alone, 1.0, part) / (users * alike)
