"""Ragged token sequences of many users, and the padded batches the user tower takes."""

import dataclasses
from typing import Any

import numpy as np
import torch

# What a token has beside its pin's vector: columns of `Sequences` and `PaddedBatch`, and of the events of `Timelines`.
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
    """Cuts users into batches of like lengths, so that little is padded.

    Args:
        lengths: int64 [N], > 0.
        token_budget: Users times the longest of a batch stays within this; one user may exceed it.

    Returns:
        Row numbers of users, batch by batch, shortest first; ties keep their order. Every user once. The same lengths
        give the same batches.
    """
    # By length: a batch is padded to its longest, and the sort was worth a factor of about three in users per second.
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    batches = []
    start = 0
    while start < len(order):
        # The longest prefix with (users) x (length of its last) <= budget; that product grows with the prefix.
        most = max(1, token_budget // int(ordered[start]))
        window = ordered[start : start + most]
        fits = int(np.searchsorted(window * np.arange(1, len(window) + 1), token_budget, side="right"))
        stop = start + max(1, fits)
        batches.append(order[start:stop])
        start = stop
    return batches


@dataclasses.dataclass(frozen=True)
class PaddedBatch:
    """B users, newest token first, padded after the oldest to the longest of them, M tokens.

    Attributes:
        pin_vectors: float32 [B, M, D].
        action, surface: int64 [B, M].
        timestamp_ms: int64 [B, M].
        duration_s: float32 [B, M]; NaN = not measured.
        lengths: int64 [B].
    """

    pin_vectors: torch.Tensor
    action: torch.Tensor
    surface: torch.Tensor
    timestamp_ms: torch.Tensor
    duration_s: torch.Tensor
    lengths: torch.Tensor

    def to(self, device: str | torch.device) -> "PaddedBatch":
        """The same batch on a device."""
        return PaddedBatch(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


def token_tensors(columns: Any, tokens: np.ndarray) -> dict[str, torch.Tensor]:
    """The columns of some tokens as a batch has them: whole numbers as int64, others as they are.

    Args:
        columns: `Sequences` or `Timelines`: has `TOKEN_COLUMNS`.
        tokens: int64 [B, M], places in them.

    Returns:
        Column -> [B, M].
    """
    found = {name: torch.from_numpy(getattr(columns, name)[tokens]) for name in TOKEN_COLUMNS}
    return {name: values if values.is_floating_point() else values.long() for name, values in found.items()}


def pad_batch(sequences: Sequences, rows: np.ndarray) -> PaddedBatch:
    """Gathers some users into one padded batch.

    Padding repeats the user's oldest token: any finite values do, since the tower does not look at them.

    Args:
        rows: int64 [B], row numbers of users.
    """
    lengths = sequences.lengths[rows]
    step = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)  # [B, M]
    token = sequences.offsets[rows][:, None] + step
    return PaddedBatch(
        pin_vectors=torch.from_numpy(sequences.pin_vectors[token]).float(),
        **token_tensors(sequences, token),
        lengths=torch.from_numpy(lengths),
    )
