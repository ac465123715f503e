"""The pin tower: an MLP on the PinSage vector alone (paper, section 3)."""

import torch
import torch.nn.functional as F
from torch import nn

from pinnerformer_model.config import ModelConfig


class PinTower(nn.Module):
    """PinSage vector -> Linear -> GELU -> Linear -> unit vector."""

    def __init__(self, pin_vector_dim: int, hidden_size: int, embedding_dim: int):
        super().__init__()
        self.inner = nn.Linear(pin_vector_dim, hidden_size)
        self.outer = nn.Linear(hidden_size, embedding_dim)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """float32 [..., D] -> float32 [..., d]."""
        return F.normalize(self.outer(F.gelu(self.inner(vectors))), dim=-1)


def build_pin_tower(config: ModelConfig) -> PinTower:
    """An uninitialised pin tower of a config's sizes."""
    return PinTower(config.pin_vector_dim, config.pin_hidden_size, config.embedding_dim)
