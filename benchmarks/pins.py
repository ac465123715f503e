"""Pins that benchmarks of the index look for, and users who ask: of a root, or a mixture of clusters."""

import argparse
import dataclasses

import numpy as np

from stores.files import Root
from stores.ids import bucket_of
from stores.manifests import Manifest
from stores.releases import read_current
from stores.schemas import from_binary_column
from stores.tables import read_drawn, read_files


@dataclasses.dataclass(frozen=True)
class Pins:
    """What is looked for, and by whom.

    Attributes:
        ids: int64 [P], ascending.
        vectors: float16 [P, d], unit norm.
        users: float32 [Q, d], unit norm.
    """

    ids: np.ndarray
    vectors: np.ndarray
    users: np.ndarray

    def shard(self, number: int, shards: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and vectors of one shard."""
        mine = bucket_of(self.ids, shards) == number
        return self.ids[mine], self.vectors[mine]


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", help="take pins and users of its newest release, and not a mixture")
    parser.add_argument("--pins", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=2000)
    parser.add_argument("--noise", type=float, default=1.0, help="norm of what a pin adds to its cluster's unit vector")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--users", type=int, default=300)


def pins_of(found: argparse.Namespace) -> Pins:
    """Those that the flags ask for."""
    if found.root:
        root = Root(found.root)
        manifest: Manifest = read_current(root)
        parts = [read_files(root, [entry]) for entry in manifest.tables["pin_embeddings"]]
        ids = np.concatenate([part["pin_id"].to_numpy() for part in parts])
        vectors = np.concatenate([from_binary_column(part["embedding"]) for part in parts])
        users = read_drawn(root, manifest.tables["user_embeddings"], found.users, 0, ["embedding"])
        order = np.argsort(ids)
        asked = np.concatenate([from_binary_column(part["embedding"]) for part in users]).astype(np.float32)
        return Pins(ids[order], vectors[order], asked)
    mixture = _mixture(found.pins + found.users, found.dim, found.clusters, found.noise)
    return Pins(np.arange(found.pins), mixture[: found.pins], mixture[found.pins :].astype(np.float32))


def _mixture(count: int, dim: int, clusters: int, noise: float) -> np.ndarray:
    """float16 [count, d], unit norm: each its cluster's plus noise; some clusters are large, most are small."""
    draw = np.random.default_rng(1)
    centres = draw.standard_normal((clusters, dim), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    popularity = 1 / np.arange(10, clusters + 10)
    member = draw.choice(clusters, count, p=popularity / popularity.sum())
    vectors = np.empty((count, dim), np.float16)
    for start in range(0, count, 1 << 14):
        mine = member[start : start + (1 << 14)]
        some = centres[mine] + noise / np.sqrt(dim) * draw.standard_normal((len(mine), dim), np.float32)
        vectors[start : start + len(mine)] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return vectors
