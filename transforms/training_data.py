"""Timelines loaded for training: what `pinnerformer training-data` wrote, mapped into memory."""

import dataclasses
from typing import Any

import numpy as np

from pinnerformer_model.timelines import Timelines
from stores.timelines import entries_of, read_description, read_timelines, read_vector_matrix


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Timelines and what belongs to them.

    Attributes:
        timelines: Of one split.
        pin_ids: int64 [P], the corpus.
        vectors: float16 or float32 [P, 256], mapped into memory; `timelines.pin_row` counts its rows.
        description: What `timelines.json` says: vocabularies, label rule, PinSage version, counts.
        digest: Hex sha256 that names the timelines.
    """

    timelines: Timelines
    pin_ids: np.ndarray
    vectors: np.ndarray
    description: dict[str, Any]
    digest: str


def config_fields(description: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `ModelConfig` that timelines settle, of what `timelines.json` says."""
    return {
        "action_vocabulary": tuple(description["action_vocabulary"]),
        "surface_vocabulary": tuple(description["surface_vocabulary"]),
        "pinsage_version": description["pinsage_version"],
        "label_rule": description["label_rule"],
    }


def load_training_data(folder: str, split: str) -> TrainingData:
    """Loads what `pinnerformer training-data` wrote.

    Args:
        split: `train` or `evaluation`.

    Raises:
        InputError: missing or damaged; names the file.
    """
    description, digest = read_description(folder)
    user_ids, offsets, events = read_timelines(folder, entries_of(description, split))
    pin_ids, vectors = read_vector_matrix(folder)
    return TrainingData(Timelines(user_ids, offsets, **events), pin_ids, vectors, description, digest)
