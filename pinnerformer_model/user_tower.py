"""The user tower: engagements in, one embedding per position out (paper, sections 2 and 3)."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.packed import PackedWindows, take_once
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

    def forward(self, windows: PackedWindows) -> torch.Tensor:
        """-> float32 [T, width]."""
        unmeasured = ~torch.isfinite(windows.duration_s)  # NaN; infinity in histories that an older version wrote
        duration = torch.log1p(windows.duration_s.masked_fill(unmeasured, 0.0))
        features = {
            "pinsage": [windows.pin_vectors],
            "action": [self.action(windows.action)],
            "surface": [self.surface(windows.surface)],
            "duration": [torch.stack([duration, unmeasured.float()], dim=-1)],
            "time": [
                self.absolute_time(windows.timestamp_ms),
                self.since_latest(windows.since_latest_ms),
                self.gap(windows.gap_ms),
            ],
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
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)  # [..., heads, L, H / heads]

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """[n, L, 3 H] -> [n, L, H]."""
        q, k, value = (self._heads(part) for part in qkv.chunk(3, dim=-1))
        # Oldest first, so no mask is read: what stands after a token is newer than it, or padding.
        return F.scaled_dot_product_attention(q, k, value, is_causal=True).transpose(1, 2).flatten(2)

    def forward(self, v: torch.Tensor, windows: PackedWindows, dropout: float = 0.0) -> torch.Tensor:
        """The block at every token: float32 [T, H] -> [T, H].

        Args:
            dropout: Share of what either half adds that is left out, drawn from torch's generator.
        """
        qkv = self.qkv(self.attention_norm(v))
        return self._rest(v, windows.joined([self._attend(block) for block in windows.blocks(qkv)]), dropout)

    def newest(self, v: torch.Tensor, windows: PackedWindows) -> torch.Tensor:
        """What `forward` gives at every window's newest token, and computed for it alone: float32 [T, H] -> [B, H].

        With one query a window, keys and values need not be made. A score q . (K x + b) is (K' q) . x and a number
        that all tokens of the window share, which the softmax does not see; and the weighted mean of V x + c is V times
        the weighted mean of x, plus c.
        """
        normed = self.attention_norm(v)
        newest = windows.starts + windows.lengths - 1
        query, key, value = self.qkv.weight.unflatten(0, (3, self.num_heads, -1))  # [heads, H / heads, H] each
        query_bias, _, value_bias = self.qkv.bias.chunk(3)
        q = F.linear(normed[newest], query.flatten(0, 1), query_bias).unflatten(-1, (self.num_heads, -1))
        asked = torch.einsum("bnd,ndh->bnh", q / math.sqrt(q.shape[-1]), key)  # [B, heads, H]
        means, blocks, absent = [], windows.blocks(normed), windows.absent()
        for tokens, of_block in zip(blocks, asked.split([len(block) for block in blocks]), strict=True):
            scores = of_block @ tokens.transpose(1, 2)  # [n, heads, L]
            if absent is not None:
                scores = scores.masked_fill(absent, -math.inf)
            means.append(scores.softmax(-1) @ tokens)
        attended = torch.einsum("bnh,ndh->bnd", torch.cat(means), value).flatten(1) + value_bias
        return self._rest(v[newest], attended, 0.0)

    def at(self, v: torch.Tensor, windows: PackedWindows, queries: "Queries", dropout: float) -> torch.Tensor:
        """What `forward` gives at K tokens, and computed for these alone: float32 [T, H] -> [K, H]."""
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
        return padded.index_copy_(0, self.place, values).view(self._windows, self._most, -1)

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

    def _tokens(self, windows: PackedWindows) -> torch.Tensor:
        v = self.projection(self.features(windows))
        return v + F.embedding(windows.age, self.position) if self.positioned else v

    def newest(self, windows: PackedWindows) -> torch.Tensor:
        """Every window's newest position's embedding, which is served: float32 [B, d]."""
        v = self._tokens(windows)
        *blocks, last = (cast(Block, block) for block in self.blocks)
        for block in blocks:
            v = block(v, windows)
        return self._head(last.newest(v, windows))

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
        v = self._tokens(windows)
        *blocks, last = (cast(Block, block) for block in self.blocks)
        for block in blocks:
            v = block(v, windows, dropout)
        return self._head(last.at(v, windows, Queries(windows, row, position), dropout))


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
