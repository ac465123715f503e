"""The user tower on slices of few and of many users, against a padded `nn.TransformerEncoder` and against its floor.

    OMP_NUM_THREADS=1 python -m benchmarks.tower

Alternates, round by round, over the same users (lengths lognormal, median 60, mean 85, at most 256), by CPU time:

    tower   `UserEncoder.encode`, as every job runs it
    sorted  the same batches of like lengths, padded to the longest, through `nn.TransformerEncoder` with the same
            weights: plainly causal, of the last layer every position, the head at the newest
    padded  likewise, batches of at most 64 users as they come
    floor   the matrix products that the tower cannot do without, at its shapes, in memory that is there already; of
            attention nothing counts, nor do features

Before the clock starts, the three towers' vectors are compared.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.daily import LONGEST, MEAN, MEDIAN, draw_lengths
from benchmarks.floor import Floor, Product
from benchmarks.measuring import alternate, median_ratio
from benchmarks.records import record
from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import PRESETS, ModelConfig, preset
from pinnerformer_model.days import DAY_MS
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.packed import PackedWindows, pack_sequences
from pinnerformer_model.sequences import Sequences, form_batches
from pinnerformer_model.user_tower import UserTower

ACTIONS, SURFACES = ("click", "closeup", "repin"), ("board", "home", "search")
COMPARED = {
    "sorted": "`nn.TransformerEncoder`, batches of like lengths",
    "padded": "`nn.TransformerEncoder`, batches as they come",
    "floor": "bare matrix products of the same tokens",
}
USERS_A_BATCH = 64
NOW_MS = 1_790_000_000_000


def draw_slice(users: int, seed: int) -> Sequences:
    """Random sequences of a slice's users."""
    random = np.random.default_rng(seed)
    lengths = draw_lengths(users, MEDIAN, MEAN, random)
    total = int(lengths.sum())
    owner = np.repeat(np.arange(users), lengths)
    at = NOW_MS - random.integers(0, 60 * DAY_MS, total)
    duration = random.exponential(20, total).astype(np.float32)
    return Sequences(
        user_ids=np.arange(users),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        pin_vectors=(random.standard_normal((total, 256)) / 16).astype(np.float16),
        action=random.integers(0, len(ACTIONS), total).astype(np.int32),
        surface=random.integers(0, len(SURFACES), total).astype(np.int32),
        timestamp_ms=at[np.lexsort((-at, owner))],
        duration_s=np.where(random.random(total) < 0.4, np.nan, duration).astype(np.float32),
    )


class PaddedTower:
    """The same tower as `nn.TransformerEncoder` runs it: windows padded to the longest of their batch."""

    def __init__(self, tower: UserTower, config: ModelConfig):
        self._tower = tower
        layer = nn.TransformerEncoderLayer(
            config.hidden_size, config.num_heads, config.ffn_size, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self._encoder = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False).eval()
        names = {
            "self_attn.in_proj_": "qkv.",
            "self_attn.out_proj.": "attention_out.",
            "linear1.": "ffn_in.",
            "linear2.": "ffn_out.",
            "norm1.": "attention_norm.",
            "norm2.": "ffn_norm.",
        }
        weights = tower.state_dict()
        self._encoder.load_state_dict(
            {
                f"layers.{n}.{theirs}{kind}": weights[f"blocks.{n}.{ours}{kind}"]
                for n in range(config.num_layers)
                for theirs, ours in names.items()
                for kind in ("weight", "bias")
            }
        )

    def newest(self, windows: PackedWindows) -> torch.Tensor:
        """float32 [B, d]; features are made before anything is padded, as ours are."""
        v = self._tower.projection(windows.side_by_side(self._tower.features(windows)))
        ages = windows.lengths[:, None] - 1 - torch.arange(windows.longest)
        v = v + self._tower.position[ages.clamp(min=0)]
        mask = nn.Transformer.generate_square_subsequent_mask(windows.longest)
        # Oldest first: padding stands where no real token looks.
        v = self._encoder(v, mask=mask, is_causal=True)
        return self._tower._head(v[torch.arange(len(v)), windows.lengths - 1])

    @torch.inference_mode()
    def encode(self, sequences: Sequences, batches: list[np.ndarray]) -> np.ndarray:
        """float16 [N, d]."""
        out = np.empty((len(sequences.user_ids), self._tower.head_out.out_features), np.float16)
        for rows in batches:
            out[rows] = self.newest(pack_sequences(sequences, rows)).numpy().astype(np.float16)
        return out


def as_they_come(sequences: Sequences) -> list[np.ndarray]:
    """Batches of at most `USERS_A_BATCH` users."""
    return np.split(np.arange(len(sequences.user_ids)), range(USERS_A_BATCH, len(sequences.user_ids), USERS_A_BATCH))


def products_of(lengths: np.ndarray, token_budget: int, config: ModelConfig, width: int) -> list[Product]:
    """The matrix products of a slice, attention's left out.

    Args:
        width: Features of a token.
    """
    hidden, ffn = config.hidden_size, config.ffn_size
    found = []
    for rows in form_batches(lengths, token_budget):
        tokens, users = int(lengths[rows].sum()), len(rows)
        found.append((tokens, width, hidden))
        for count in [tokens] * (config.num_layers - 1) + [users]:
            # Of the last block, queries alone, and what values become: it makes no keys and values of tokens.
            attended = 3 * hidden if count == tokens else 2 * hidden
            found += [(count, hidden, attended), (count, hidden, hidden), (count, hidden, ffn), (count, ffn, hidden)]
        found += [(users, hidden, 4 * hidden), (users, 4 * hidden, config.embedding_dim)]
    return [Product(*shape) for shape in found]


def compare(one: np.ndarray, other: np.ndarray) -> float:
    """The least cosine of two sets of vectors."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def measure(slices: list[Sequences], tower: UserTower, config: ModelConfig, rounds: int) -> dict[str, list[float]]:
    """Tokens per CPU second of every candidate, one figure a round."""
    encoder, padded = UserEncoder(tower), PaddedTower(tower, config)

    def by_length(sequences: Sequences) -> list[np.ndarray]:
        return form_batches(sequences.lengths, encoder.token_budget)

    width = tower.features.width
    floors = [Floor(products_of(s.lengths, encoder.token_budget, config, width)) for s in slices]
    tokens = sum(len(s.timestamp_ms) for s in slices)
    work: dict[str, Callable[[], list]] = {
        "tower": lambda: [encoder.encode(s) for s in slices],
        "sorted": lambda: [padded.encode(s, by_length(s)) for s in slices],
        "padded": lambda: [padded.encode(s, as_they_come(s)) for s in slices],
        "floor": lambda: [floor() for floor in floors],
    }
    found = {name: once() for name, once in work.items()}  # the first pass allocates
    least = min(
        compare(a, b) for name in ("sorted", "padded") for a, b in zip(found["tower"], found[name], strict=True)
    )
    print(f"{sum(f.flops for f in floors) / tokens / 1e6:.2f} MFLOP a token; least cosine of two towers {least:.7f}")

    def timed(once: Callable[[], list]) -> Callable[[], float]:
        def figure() -> float:
            started = time.process_time()
            once()
            return tokens / (time.process_time() - started)

        return figure

    return alternate(rounds, {name: timed(once) for name, once in work.items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 16, 78, 376], metavar="N", help="users of a slice")
    parser.add_argument("--users", type=int, default=80, help="a round, at least a slice (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = preset(arguments.preset, action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v")
    config = dataclasses.replace(config, max_sequence_length=LONGEST)
    tower = new_model(config, 0)[0].eval().requires_grad_(False)
    for size in arguments.sizes:
        slices = [draw_slice(size, seed) for seed in range(max(1, arguments.users // size))]
        print(f"\nslices of {size} users, {len(slices)} a round; load {os.getloadavg()[0]:.1f}; tokens per CPU second:")
        figures = measure(slices, tower, config, arguments.rounds)
        for name, what in COMPARED.items():
            ratios = sorted(a / b for a, b in zip(figures["tower"], figures[name], strict=True))
            ratio, spread = median_ratio(figures["tower"], figures[name]), f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            print(f"tower / {name}: {ratio:.2f} ({spread})")
            record("tower", f"tower / {what}, slices of {size} users", ratio, note=spread)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
