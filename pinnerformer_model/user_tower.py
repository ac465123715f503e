"""The user tower: engagements in, one embedding per position out (paper, sections 2 and 3)."""

import torch
import torch.nn.functional as F
from torch import nn

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.sequences import PaddedBatch
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS, TimeEncoder


class TokenFeatures(nn.Module):
    """The features of one engagement, side by side.

    PinSage vector, action, surface, log(1 + duration) and whether it was measured, and three encoded times: the
    engagement's own, the time since it up to the user's latest, and its gap to the engagement before it (the next older
    token; 0 for the oldest kept, so that nothing depends on what was cut off).

    Args:
        dropped: Features that are zero whatever the engagement, for ablations: of `pinsage`, `action`, `surface`,
            `duration`, `time`.
    """

    def __init__(
        self,
        pin_vector_dim: int,
        actions: int,
        action_dim: int,
        surfaces: int,
        surface_dim: int,
        dropped: tuple[str, ...] = (),
    ):
        super().__init__()
        self.dropped = dropped
        self.action = nn.Embedding(actions, action_dim)
        self.surface = nn.Embedding(surfaces, surface_dim)
        self.absolute_time = TimeEncoder(ABSOLUTE_PERIODS_MS)
        self.since_latest = TimeEncoder(RELATIVE_PERIODS_MS)
        self.gap = TimeEncoder(RELATIVE_PERIODS_MS)
        times = self.absolute_time.width + self.since_latest.width + self.gap.width
        self.width = pin_vector_dim + action_dim + surface_dim + 2 + times

    def forward(self, batch: PaddedBatch) -> torch.Tensor:
        """-> float32 [B, M, width]."""
        at = batch.timestamp_ms
        since_latest = at[:, :1] - at  # newest first: never negative
        gap = torch.zeros_like(at)
        gap[:, :-1] = at[:, :-1] - at[:, 1:]  # padding repeats the oldest token, whose gap is therefore 0
        unmeasured = ~torch.isfinite(batch.duration_s)  # NaN; infinity in histories that an older version wrote
        duration = torch.log1p(batch.duration_s.masked_fill(unmeasured, 0.0))
        features = {
            "pinsage": [batch.pin_vectors],
            "action": [self.action(batch.action)],
            "surface": [self.surface(batch.surface)],
            "duration": [torch.stack([duration, unmeasured.float()], dim=-1)],
            "time": [self.absolute_time(at), self.since_latest(since_latest), self.gap(gap)],
        }
        for name in self.dropped:
            features[name] = [torch.zeros_like(part) for part in features[name]]
        return torch.cat([part for parts in features.values() for part in parts], dim=-1)


class Block(nn.Module):
    """u = v + MHSA(LN(v)); v' = u + FFN(LN(u)), with one fused projection to queries, keys and values."""

    def __init__(self, hidden_size: int, num_heads: int, ffn_size: int):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.ffn_norm = nn.LayerNorm(hidden_size)
        self.ffn_in = nn.Linear(hidden_size, ffn_size)
        self.ffn_out = nn.Linear(ffn_size, hidden_size)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, M, H / heads]

    def forward(self, v: torch.Tensor, visible: torch.Tensor, queries: int | None = None) -> torch.Tensor:
        """One block.

        Args:
            v: float32 [B, M, H].
            visible: bool, broadcastable to [B, heads, Q, M]: which keys a query sees.
            queries: Compute only the first so many positions, Q; None: all M.

        Returns:
            float32 [B, Q, H].
        """
        normed = self.attention_norm(v)
        if queries is None:
            q, k, value = self.qkv(normed).chunk(3, dim=-1)
        else:
            hidden = v.shape[-1]
            # Slices of the fused projection, so that checkpoints know one form; keys and values are needed of all
            # positions.
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(normed[:, :queries], weight[:hidden], bias[:hidden])
            k, value = F.linear(normed, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)
            v = v[:, :queries]
        attended = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(value), attn_mask=visible)
        u = v + self.attention_out(attended.transpose(1, 2).flatten(2))
        return u + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(u))))


class UserTower(nn.Module):
    """Sequences of engagements -> unit vectors, one per position; the newest position's is the one that is served.

    Args:
        features: Makes a token's features.
        hidden_size: H.
        num_layers: L.
        num_heads: Attention heads.
        ffn_size: Inner width of a block.
        max_sequence_length: Longest sequence there is a position for.
        embedding_dim: d.
        positioned: Whether positions are learned; off for ablations only.
    """

    def __init__(
        self,
        features: TokenFeatures,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        ffn_size: int,
        max_sequence_length: int,
        embedding_dim: int,
        positioned: bool = True,
    ):
        super().__init__()
        self.positioned = positioned
        self.features = features
        self.projection = nn.Linear(features.width, hidden_size)
        self.position = nn.Parameter(torch.zeros(max_sequence_length, hidden_size))
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, ffn_size) for _ in range(num_layers))
        self.head_norm = nn.LayerNorm(hidden_size)
        self.head_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.head_out = nn.Linear(4 * hidden_size, embedding_dim)

    def _head(self, v: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.head_out(F.gelu(self.head_in(self.head_norm(v)))), dim=-1)

    def _tokens(self, batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        length = batch.action.shape[1]
        v = self.projection(self.features(batch))
        if self.positioned:
            v = v + self.position[:length]
        # Padding stands after the oldest token, where "itself and older" would see it: the mask hides it by length.
        real = torch.arange(length, device=v.device) < batch.lengths[:, None]
        older = torch.ones(length, length, dtype=torch.bool, device=v.device).triu()  # row i sees columns j >= i
        visible = older & real[:, None, None, :]
        return v, visible | torch.eye(length, dtype=torch.bool, device=v.device)  # padding sees itself: no empty row

    def _blocks(self, batch: PaddedBatch, queries: int | None = None) -> torch.Tensor:
        """float32 [B, Q, H]: the newest Q positions after the last block, which computes no other; None: all M."""
        v, visible = self._tokens(batch)
        for block in self.blocks[:-1]:
            v = block(v, visible)
        return self.blocks[-1](v, visible if queries is None else visible[:, :, :queries], queries)

    def forward(self, batch: PaddedBatch) -> torch.Tensor:
        """Every position's embedding: float32 [B, M, d]; those of padding mean nothing."""
        return self._head(self._blocks(batch))

    def newest(self, batch: PaddedBatch) -> torch.Tensor:
        """The newest position's embedding: float32 [B, d]; the last block computes no other."""
        return self._head(self._blocks(batch, queries=1))[:, 0]

    def at(self, batch: PaddedBatch, row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """The embeddings of some positions, for training: float32 [K, d]; the head computes no other.

        Args:
            row: int64 [K], rows of the batch.
            position: int64 [K], 0 = the newest.
        """
        queries = int(position.max()) + 1
        length = batch.action.shape[1]
        return self._head(self._blocks(batch, queries if queries < length else None)[row, position])


def build_user_tower(config: ModelConfig) -> UserTower:
    """An uninitialised user tower of a config's sizes; `checkpoint.new_model` initialises it."""
    return UserTower(
        TokenFeatures(
            config.pin_vector_dim,
            len(config.action_vocabulary),
            config.action_dim,
            len(config.surface_vocabulary),
            config.surface_dim,
            tuple(name for name in config.dropped_features if name != "position"),
        ),
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        ffn_size=config.ffn_size,
        max_sequence_length=config.max_sequence_length,
        embedding_dim=config.embedding_dim,
        positioned="position" not in config.dropped_features,
    )
