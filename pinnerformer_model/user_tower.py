"""The user tower: engagements in, one embedding per position out (paper, sections 2 and 3)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.packed import PackedWindows, take_once
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
        return self._encode(batch, since_latest, gap)

    def packed(self, windows: PackedWindows) -> torch.Tensor:
        """-> float32 [T, width]."""
        return self._encode(windows, windows.since_latest_ms, windows.gap_ms)

    def _encode(
        self, batch: PaddedBatch | PackedWindows, since_latest: torch.Tensor, gap: torch.Tensor
    ) -> torch.Tensor:
        unmeasured = ~torch.isfinite(batch.duration_s)  # NaN; infinity in histories that an older version wrote
        duration = torch.log1p(batch.duration_s.masked_fill(unmeasured, 0.0))
        features = {
            "pinsage": [batch.pin_vectors],
            "action": [self.action(batch.action)],
            "surface": [self.surface(batch.surface)],
            "duration": [torch.stack([duration, unmeasured.float()], dim=-1)],
            "time": [self.absolute_time(batch.timestamp_ms), self.since_latest(since_latest), self.gap(gap)],
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

    def packed(self, v: torch.Tensor, windows: PackedWindows, dropout: float) -> torch.Tensor:
        """The same block of windows without padding, for training: float32 [T, H] -> [T, H].

        Args:
            dropout: Share of what either half adds that is left out, drawn from torch's generator.
        """
        q, k, value = windows.side_by_side(self.qkv(self.attention_norm(v))).chunk(3, dim=-1)
        # Oldest first, so no mask is read: what stands after a token is newer than it, or padding.
        attended = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(value), is_causal=True)
        return self._rest(v, windows.packed(attended.transpose(1, 2).flatten(2)), dropout)

    def packed_at(self, v: torch.Tensor, windows: PackedWindows, queries: "Queries", dropout: float) -> torch.Tensor:
        """What `packed` gives at K tokens, and computed for these alone: float32 [T, H] -> [K, H]."""
        hidden = v.shape[-1]
        normed = self.attention_norm(v)
        weight, bias = self.qkv.weight, self.qkv.bias
        q = queries.side_by_side(F.linear(take_once(normed, queries.token), weight[:hidden], bias[:hidden]))
        k, value = windows.side_by_side(F.linear(normed, weight[hidden:], bias[hidden:])).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._heads(q), self._heads(k), self._heads(value), attn_mask=queries.visible(windows.longest)
        )
        attended = take_once(attended.transpose(1, 2).flatten(2).flatten(0, 1), queries.place)
        return self._rest(take_once(v, queries.token), attended, dropout)

    def _rest(self, v: torch.Tensor, attended: torch.Tensor, dropout: float) -> torch.Tensor:
        u = v + F.dropout(self.attention_out(attended), dropout)
        return u + F.dropout(self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(u)))), dropout)


class Queries:
    """The tokens of packed windows that predict something, and where they stand in windows of queries side by side.

    Attributes:
        token: int64 [K], of the packed tokens.
        place: int64 [K], in [B * most], most = the queries of the window that has the most.

    Args:
        row: int64 [K], the query's window; no (window, position) twice.
        position: int64 [K], 0 = the newest.
    """

    def __init__(self, windows: PackedWindows, row: torch.Tensor, position: torch.Tensor):
        before = windows.lengths[row] - 1 - position  # tokens of the window before it
        self.token = windows.starts[row] + before
        self._windows, self._most = len(windows.lengths), int(torch.bincount(row).max())
        order = torch.argsort(row, stable=True)
        number = torch.empty_like(row)  # of a query within its window
        number[order] = torch.arange(len(row), device=row.device) - torch.searchsorted(row[order], row[order])
        self.place = row * self._most + number
        self._before = before

    def side_by_side(self, values: torch.Tensor) -> torch.Tensor:
        """[K, W] -> [B, most, W]; zeros where a window has fewer."""
        padded = values.new_zeros(self._windows * self._most, values.shape[1])
        return padded.index_copy(0, self.place, values).view(self._windows, self._most, -1)

    def visible(self, longest: int) -> torch.Tensor:
        """bool [B, 1, most, L]: a query sees itself and what is older; where there is none, the oldest token."""
        before = self._before.new_zeros(self._windows * self._most).index_copy(0, self.place, self._before)
        keys = torch.arange(longest, device=before.device)
        return (keys <= before[:, None]).view(self._windows, 1, self._most, longest)


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

    def at(
        self, windows: PackedWindows, row: torch.Tensor, position: torch.Tensor, dropout: float = 0.0
    ) -> torch.Tensor:
        """The embeddings of some positions, for training: float32 [K, d]; last block and head compute no other.

        Args:
            row: int64 [K], of the windows.
            position: int64 [K], 0 = the newest; no (row, position) twice.
            dropout: Of what the blocks add. It is here and in no module: what is served goes another way, whatever
                mode the modules are in.
        """
        v = self.projection(self.features.packed(windows))
        if self.positioned:
            v = v + F.embedding(windows.age, self.position)
        *blocks, last = (cast(Block, block) for block in self.blocks)
        for block in blocks:
            v = block.packed(v, windows, dropout)
        return self._head(last.packed_at(v, windows, Queries(windows, row, position), dropout))


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
