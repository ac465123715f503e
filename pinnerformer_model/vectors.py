"""Vectors as numpy has them; numpy only, for whoever needs no torch."""

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """The same vectors at unit length, float32; those of zeros stay."""
    vectors = np.array(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
