"""Ragged token sequences of many users, and how they are cut into batches."""

import dataclasses
from typing import Any

import numpy as np
import torch

# What a token has beside its pin's vector: columns of `Sequences`, `PackedWindows` and the events of `Timelines`.
TOKEN_COLUMNS = ("action", "surface", "timestamp_ms", "duration_s")


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Token sequences of N users with T tokens in all, NEWEST FIRST within a user.

    Attributes:
        user_ids: int64 [N].
        offsets: int64 [N + 1]: user i has tokens offsets[i] to offsets[i + 1], at least one.
        pin_vectors: float16 or float32 [T, D].
        action: int32 [T], codes of the model's action vocabulary.
        surface: int32 [T], codes of its surface vocabulary.
        timestamp_ms: int64 [T], UTC.
        duration_s: float32 [T]; NaN = not measured.
    """

    user_ids: np.ndarray
    offsets: np.ndarray
    pin_vectors: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    timestamp_ms: np.ndarray
    duration_s: np.ndarray

    def __post_init__(self):
        tokens = int(self.offsets[-1])
        for name in ("pin_vectors", *TOKEN_COLUMNS):
            if len(getattr(self, name)) != tokens:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, offsets say {tokens}")
        if len(self.offsets) != len(self.user_ids) + 1 or (len(self.user_ids) and self.lengths.min() < 1):
            raise ValueError("offsets must hold one more entry than user_ids and grow by at least one token per user")

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens per user."""
        return np.diff(self.offsets)


def form_batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Cuts users into batches of like lengths.

    Args:
        lengths: int64 [N], > 0.
        token_budget: Tokens of a batch; one user may exceed it.

    Returns:
        Row numbers of users, batch by batch, shortest first; ties keep their order. Every user once. The same lengths
        give the same batches.
    """
    # By length: attention takes users of one length together (`pinnerformer_model/packed.py`).
    order = np.argsort(lengths, kind="stable")
    tokens = np.cumsum(lengths[order])
    batches = []
    start = before = 0
    while start < len(order):
        stop = max(start + 1, int(np.searchsorted(tokens, before + token_budget, side="right")))
        batches.append(order[start:stop])
        start, before = stop, int(tokens[stop - 1])
    return batches


def token_tensors(columns: Any, tokens: np.ndarray) -> dict[str, torch.Tensor]:
    """The columns of some tokens as the tower takes them: whole numbers as int64, others as they are.

    Args:
        columns: `Sequences` or `Timelines`: has `TOKEN_COLUMNS`.
        tokens: int64 [T], places in them.

    Returns:
        Column -> [T].
    """
    found = {name: torch.from_numpy(getattr(columns, name)[tokens]) for name in TOKEN_COLUMNS}
    return {name: values if values.is_floating_point() else values.long() for name, values in found.items()}
