"""What both peers take from `pinnerformer_model`: the tower and its weights, as a library.

A peer reads, joins and writes in its own way; what it calls here turns the rows of some users into vectors. Nothing of
it needs Beam, a store or a root, so that it runs in the peers' own environment.
"""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.sequences import Sequences


@dataclasses.dataclass(frozen=True)
class NightInputs:
    """What a night reads: files that the product's root has, and nothing of how the product reads them.

    Attributes:
        histories: The files of yesterday's histories, one per bucket of users.
        snapshot: The files of yesterday's user embeddings, of the same buckets in the same order.
        logs: The files of tonight's log.
        vectors: The file of pin vectors.
        model: The folder of the model.
        day: Tonight, YYYY-MM-DD.
    """

    histories: list[str]
    snapshot: list[str]
    logs: list[str]
    vectors: str
    model: str
    day: str

    def write(self, path: str) -> None:
        with open(path, "w") as file:
            json.dump(dataclasses.asdict(self), file)

    @classmethod
    def read(cls, path: str) -> "NightInputs":
        with open(path) as file:
            return cls(**json.load(file))


class VectorTable:
    """Vectors of pins by id.

    Args:
        path: Parquet of pin_id int64 and vector, a list of float16 of one length.
    """

    def __init__(self, path: str):
        table = pq.read_table(path, columns=["pin_id", "vector"]).combine_chunks()
        self._ids = table["pin_id"].to_numpy()
        if (np.diff(self._ids) <= 0).any():
            raise ValueError(f"{path}: benchmarks sort pins by id")
        self._vectors = table["vector"].chunk(0).flatten().to_numpy().reshape(len(table), -1)

    def take(self, pin_ids: np.ndarray) -> np.ndarray:
        """float16 [N, D]; every pin has a vector."""
        at = np.searchsorted(self._ids, pin_ids)
        if not np.array_equal(self._ids[np.minimum(at, len(self._ids) - 1)], pin_ids):
            raise ValueError("a pin of the rows has no vector; benchmarks give every pin one")
        return self._vectors[at]


class Embedder:
    """The user tower of a model folder, on one thread.

    Args:
        model: The folder.
    """

    def __init__(self, model: str):
        torch.set_num_threads(1)
        loaded = load_model(model)
        self._encoder = UserEncoder(loaded.user_tower)
        self._config = loaded.config

    def embed(
        self,
        owner: np.ndarray,
        pin_vectors: np.ndarray,
        timestamp_ms: np.ndarray,
        action: pa.Array,
        surface: pa.Array,
        duration_s: np.ndarray,
    ) -> np.ndarray:
        """The vectors of users.

        Args:
            owner: int64 [T], the user of each row: 0 to N - 1, every one at least once, in any order.
            pin_vectors: float16 [T, D].
            timestamp_ms: int64 [T].
            action, surface: Strings [T], all in the model's vocabularies.
            duration_s: float32 [T]; NaN = not measured.

        Returns:
            float16 [N, d], of the newest `max_sequence_length` rows of each.
        """
        order = np.lexsort((-timestamp_ms, owner))
        first = np.searchsorted(owner[order], np.arange(int(owner.max()) + 1))
        rank = np.arange(len(order)) - first[owner[order]]
        kept = order[rank < self._config.max_sequence_length]
        users, counts = np.unique(owner[kept], return_counts=True)
        sequences = Sequences(
            user_ids=users,
            offsets=np.r_[0, np.cumsum(counts)].astype(np.int64),
            pin_vectors=pin_vectors[kept],
            action=codes_of(action, self._config.action_vocabulary)[kept],
            surface=codes_of(surface, self._config.surface_vocabulary)[kept],
            timestamp_ms=timestamp_ms[kept],
            duration_s=duration_s[kept].astype(np.float32),
        )
        return self._encoder.encode(sequences)


def codes_of(words: pa.Array, vocabulary: tuple[str, ...]) -> np.ndarray:
    """int32 [N]: each word's place in a vocabulary that has all of them."""
    return pc.index_in(words, value_set=pa.array(vocabulary)).to_numpy(zero_copy_only=False).astype(np.int32)


def days_since_epoch(day: str) -> int:
    """YYYY-MM-DD as Arrow's date32 counts it."""
    return int(np.datetime64(day).astype(np.int64))
