"""Runs the towers over many users and pins, best batched."""

from collections.abc import Callable

import numpy as np
import torch

from pinnerformer_model.config import TOKEN_BUDGET
from pinnerformer_model.packed import PackedWindows, pack_sequences
from pinnerformer_model.pin_tower import PinTower
from pinnerformer_model.sequences import Sequences, form_batches
from pinnerformer_model.user_tower import UserTower


class UserEncoder:
    """Embeds users in batches of like lengths under a token budget, without padding.

    Args:
        user_tower: In eval mode, on `device`.
        token_budget: Tokens per batch; None: the device's `TOKEN_BUDGET`.
        device: `cpu` or `cuda`.
    """

    def __init__(self, user_tower: UserTower, token_budget: int | None = None, device: str = "cpu"):
        self._tower = user_tower
        self.token_budget = token_budget or TOKEN_BUDGET[torch.device(device).type]
        self.device = device

    @property
    def embedding_dim(self) -> int:
        return self._tower.head_out.out_features

    @torch.inference_mode()
    def encode_batch(self, batch: PackedWindows) -> np.ndarray:
        """float16 [B, d] of one batch, as the tower gives it."""
        return self._tower.newest(batch.to(self.device)).cpu().numpy().astype(np.float16)

    def encode(self, sequences: Sequences, on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """The served embedding of every user.

        Args:
            sequences: N users; none is fine.
            on_batch: Called with the number of users of every batch that is done.

        Returns:
            float16 [N, d] in the order of `sequences.user_ids`; unit vectors up to float16's rounding.
        """
        out = np.empty((len(sequences.user_ids), self.embedding_dim), np.float16)
        for rows in form_batches(sequences.lengths, self.token_budget):
            out[rows] = self.encode_batch(pack_sequences(sequences, rows))
            if on_batch:
                on_batch(len(rows))
        return out


@torch.inference_mode()
def encode_pins(pin_tower: PinTower, vectors: np.ndarray, batch_size: int = 1024) -> np.ndarray:
    """Embeds pins.

    Args:
        vectors: float16 or float32 [P, D].
        batch_size: Pins at a time; larger ones leave the cache.

    Returns:
        float16 [P, d], unit vectors up to float16's rounding.
    """
    device = pin_tower.outer.weight.device
    out = np.empty((len(vectors), pin_tower.outer.out_features), np.float16)
    for start in range(0, len(vectors), batch_size):
        piece = torch.from_numpy(np.array(vectors[start : start + batch_size], np.float32)).to(device)
        out[start : start + batch_size] = pin_tower(piece).cpu().numpy()
    return out
