"""A random order of n things that is never written down: any place of it is computed alone."""

from collections.abc import Sequence

import numpy as np

ROUNDS = 8


def permuted(places: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """What stands at some places of a pseudo-random permutation of 0 ... size - 1.

    A Feistel network is a permutation of the pairs of two halves of bits, whatever the function of its rounds is; of
    the numbers below the next power of four, those past the size are sent on until they come back below it (Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002, there "cycle walking"): fewer than four times on average.

    Args:
        places: int64 [K], in [0, size).
        size: n, at least 1.
        key: Of the permutation; the same key and size give the same one.

    Returns:
        int64 [K]. All n places give every number once.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence(list(key)).generate_state(ROUNDS, np.uint64)
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    # At least once, so that a place below the size does not stay where it is.
    while len(outside):
        found[outside] = _feistel(found[outside], np.uint64(half), keys)
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """uint64 [K]: a permutation of the numbers of 2 `half` bits."""
    low = np.uint64((1 << int(half)) - 1)
    left, right = values >> half, values & low
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & low)
    return left << half | right


def _mixed(words: np.ndarray) -> np.ndarray:
    """uint64 [K]: every bit of a word depends on all of them (the finaliser of SplitMix64; products wrap)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
