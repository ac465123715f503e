"""Timelines loaded for training: what `pinnerformer training-data` wrote, mapped into memory."""

import dataclasses
from typing import Any

import numpy as np

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.timelines import Timelines
from stores.errors import InputError
from stores.timelines import entries_of, read_description, read_timelines, read_vector_matrix


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Timelines and what belongs to them.

    Attributes:
        timelines: Of one split.
        pin_ids: int64 [P], the corpus.
        vectors: float16 or float32 [P, width], mapped into memory; `timelines.pin_row` counts its rows.
        description: What `timelines.json` says: vocabularies, label rule, PinSage version, counts.
        digest: Hex sha256 that names the timelines.
    """

    timelines: Timelines
    pin_ids: np.ndarray
    vectors: np.ndarray
    description: dict[str, Any]
    digest: str

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.vectors.shape[1]


def refuse_width(model: str, config: ModelConfig, data: TrainingData) -> None:
    """Refuses a model for vectors of another width than those of the timelines.

    Args:
        model: How a message names it.

    Raises:
        InputError: says both.
    """
    if config.pin_vector_dim != data.width:
        raise InputError(
            f"{model}: its pin_vector_dim is {config.pin_vector_dim}, the vectors of the timelines are {data.width} "
            "wide; make timelines with the --pins that the model is for, or take a model for these vectors"
        )


def config_fields(data: TrainingData) -> dict[str, Any]:
    """The fields of a `ModelConfig` that timelines settle."""
    description = data.description
    return {
        "action_vocabulary": tuple(description["action_vocabulary"]),
        "surface_vocabulary": tuple(description["surface_vocabulary"]),
        "pinsage_version": description["pinsage_version"],
        "label_rule": description["label_rule"],
        "pin_vector_dim": data.width,
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
