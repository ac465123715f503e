"""A tiny model's settings, and sequences that it takes."""

import numpy as np
import torch

from pinnerformer_model.config import ModelConfig, preset
from pinnerformer_model.packed import PackedWindows
from pinnerformer_model.sequences import Sequences
from pinnerformer_model.user_tower import UserTower

ACTIONS, SURFACES = ("click", "repin"), ("board", "home", "search")
NOW = 1_795_000_000_000


def tiny() -> ModelConfig:
    return preset("tiny", action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="v1")


def make_sequences(lengths: list[int], seed: int = 0) -> Sequences:
    """Users 0, 1, ... with so many tokens each, newest first within the last 90 days; two durations in five unknown."""
    random = np.random.default_rng(seed)
    total = sum(lengths)
    times = [np.sort(NOW - random.integers(0, 90 * 86_400_000, n))[::-1] for n in lengths]
    duration = random.exponential(20, total).astype(np.float32)
    duration[random.random(total) < 0.4] = np.nan
    return Sequences(
        user_ids=np.arange(len(lengths), dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pin_vectors=random.standard_normal((total, 256)).astype(np.float16) / 16,
        action=random.integers(0, 2, total).astype(np.int32),
        surface=random.integers(0, 3, total).astype(np.int32),
        timestamp_ms=np.concatenate(times),
        duration_s=duration,
    )


def windows_with(windows: PackedWindows, tokens: np.ndarray) -> np.ndarray:
    """bool [B]: which windows hold one of some tokens, bool [T]."""
    return np.logical_or.reduceat(tokens, windows.starts.numpy())


def every_position(tower: UserTower, windows: PackedWindows) -> torch.Tensor:
    """[T, d]: the embeddings of all tokens, newest first within a window."""
    row = torch.repeat_interleave(torch.arange(len(windows.lengths)), windows.lengths)
    return tower.at(windows, row, torch.cat([torch.arange(int(n)) for n in windows.lengths]))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.astype(np.float64) @ b / np.linalg.norm(a.astype(np.float64)) / np.linalg.norm(b))
