"""The user tower over windows side by side, padded and masked: what the packed one is compared with."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from pinnerformer_model.sequences import TOKEN_COLUMNS, Sequences
from pinnerformer_model.user_tower import Block, TokenFeatures, UserTower


@dataclasses.dataclass(frozen=True)
class PaddedBatch:
    """B users, newest token first, padded after the oldest to the longest of them, M tokens: tensors [B, M, ...]."""

    pin_vectors: torch.Tensor
    action: torch.Tensor
    surface: torch.Tensor
    timestamp_ms: torch.Tensor
    duration_s: torch.Tensor
    lengths: torch.Tensor

    @property
    def since_latest_ms(self) -> torch.Tensor:
        return self.timestamp_ms[:, :1] - self.timestamp_ms

    @property
    def gap_ms(self) -> torch.Tensor:
        gap = torch.zeros_like(self.timestamp_ms)
        # Padding repeats the oldest token, whose gap is therefore 0.
        gap[:, :-1] = self.timestamp_ms[:, :-1] - self.timestamp_ms[:, 1:]
        return gap


def pad(sequences: Sequences) -> PaddedBatch:
    """All users in one batch; padding repeats the oldest token."""
    lengths = sequences.lengths
    token = sequences.offsets[:-1, None] + np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    columns = {name: torch.from_numpy(getattr(sequences, name)[token]) for name in TOKEN_COLUMNS}
    return PaddedBatch(
        pin_vectors=torch.from_numpy(sequences.pin_vectors[token]).float(),
        **{name: c if c.is_floating_point() else c.long() for name, c in columns.items()},
        lengths=torch.from_numpy(lengths),
    )


def encode(tower: UserTower, batch: PaddedBatch) -> torch.Tensor:
    """Every position's embedding: float32 [B, M, d]; those of padding mean nothing."""
    length = batch.action.shape[1]
    v = tower.projection(TokenFeatures.forward(tower.features, batch))
    if tower.positioned:
        v = v + tower.position[:length]
    real = torch.arange(length) < batch.lengths[:, None]
    older = torch.ones(length, length, dtype=torch.bool).triu()  # row i sees columns j >= i
    visible = (older & real[:, None, None, :]) | torch.eye(length, dtype=torch.bool)
    for block in tower.blocks:
        v = _block(block, v, visible)
    return F.normalize(tower.head_out(F.gelu(tower.head_in(tower.head_norm(v)))), dim=-1)


def _block(block: Block, v: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    q, k, value = (
        part.unflatten(-1, (block.num_heads, -1)).transpose(1, 2)
        for part in block.qkv(block.attention_norm(v)).chunk(3, dim=-1)
    )
    attended = F.scaled_dot_product_attention(q, k, value, attn_mask=visible)
    u = v + block.attention_out(attended.transpose(1, 2).flatten(2))
    return u + block.ffn_out(F.gelu(block.ffn_in(block.ffn_norm(u))))
