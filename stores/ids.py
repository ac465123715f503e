"""Where an id belongs: the same bucket and shard on every machine, in every process, forever."""

from typing import Any

import numpy as np


def splitmix64(ids: np.ndarray) -> np.ndarray:
    """Mixes ids so that consecutive ones spread evenly.

    Args:
        ids: int64 or uint64 [N].

    Returns:
        uint64 [N]: the finaliser of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014),
        applied to `id + 0x9e3779b97f4a7c15`. A bijection: distinct ids keep distinct hashes.
    """
    z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def as_ids(values: Any) -> np.ndarray:
    """Ids that a caller gives, as they are; nothing is rounded, cut off or parsed.

    Args:
        values: Whole numbers [N]: a list, an array of any integer type, a pandas or Arrow column without nulls.

    Returns:
        int64 [N].

    Raises:
        TypeError: not whole numbers. What a join or a missing value makes of int64 in pandas is float64, in which ids
            past 2**53 are other ids.
        ValueError: not one-dimensional, or an id that no int64 holds.
    """
    found = np.asarray(values)
    if found.ndim != 1:
        raise ValueError(f"ids must be one-dimensional, got an array of shape {found.shape}")
    if found.dtype.kind == "O":
        strange = [v for v in found if isinstance(v, bool) or not isinstance(v, (int, np.integer))]
    else:
        strange = [] if found.dtype.kind in "iu" else found[:1].tolist()
    if strange and isinstance(strange[0], str):
        raise TypeError(
            f"ids must be integers, got {strange[0]!r}; the ids here are whole numbers (int64): give them as the logs "
            "have them"
        )
    if strange:
        raise TypeError(
            f"ids must be integers, got {strange[0]!r} in a column of {found.dtype}; keep the column int64, in pandas "
            "without missing values or as Int64"
        )
    if found.dtype.kind in "uO" and len(found) and not (found.min() >= -(1 << 63) and found.max() < 1 << 63):
        raise ValueError(f"ids must fit int64, got {max(found.tolist(), key=abs)}")
    return found.astype(np.int64)


def bucket_of(ids: np.ndarray, count: int) -> np.ndarray:
    """The bucket (of a user) or shard (of a pin) each id belongs to.

    Args:
        ids: int64 [N].
        count: Number of buckets or shards, > 0.

    Returns:
        int32 [N] in [0, count).
    """
    if count <= 0:
        raise ValueError(f"count must be positive, got {count}")
    return (splitmix64(ids) % np.uint64(count)).astype(np.int32)


def uniform_of(ids: np.ndarray, salt: int) -> np.ndarray:
    """A number in [0, 1) that belongs to an id and a salt, for splits: share of users below x = x, for every x.

    Hashed twice, so that it tells nothing of the bucket that an id is in.

    Args:
        ids: int64 [N].
        salt: Another salt is another, independent split.

    Returns:
        float64 [N].
    """
    key = splitmix64(np.array([salt], np.int64))
    return (splitmix64(splitmix64(ids) ^ key) >> np.uint64(11)).astype(np.float64) / 2**53


def find_sorted(table: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where values stand in a sorted table without repeats: position int64 [N], and whether it is there bool [N]."""
    at = np.searchsorted(table, values)
    hit = at < len(table)
    hit[hit] = table[at[hit]] == values[hit]
    return at, hit
