"""Every feature of a token can be learned from: a world in which it alone tells what comes next."""

import dataclasses

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import preset
from pinnerformer_model.evaluation import DAY_MS
from pinnerformer_model.inference import UserEncoder, encode_pins
from pinnerformer_model.negatives import Negatives
from pinnerformer_model.objectives import Objective
from pinnerformer_model.timelines import Timelines, sequences_ending
from pinnerformer_model.training import BatchMaker, Trainer, TrainingSettings

USERS, EVENTS, PINS = 300, 24, 40
HELD_OUT = 100  # of the users


def make_world(feature: str) -> tuple[Timelines, np.ndarray]:
    """Pins of two kinds; a user's next one is of the kind that the newest event's feature says, drawn again each time.

    Returns:
        The timelines; float32 [PINS, 256], vectors that tell the kinds apart.
    """
    random = np.random.default_rng(5)
    count = USERS * EVENTS
    said = random.integers(0, 2, count)
    noise = random.integers(0, 2, (3, count))
    midnight = np.tile(np.arange(EVENTS), USERS) * DAY_MS
    half_day = said if feature == "time" else noise[0]
    kind = np.roll(said, 1)  # a user's first is of no kind that anything says: nobody is asked for it
    timelines = Timelines(
        user_ids=np.arange(USERS),
        offsets=np.arange(USERS + 1) * EVENTS,
        pin_row=(2 * random.integers(0, PINS // 2, count) + kind).astype(np.int32),
        action=(said if feature == "action" else noise[1]).astype(np.int32),
        surface=(said if feature == "surface" else noise[2]).astype(np.int32),
        timestamp_ms=midnight + half_day * DAY_MS // 2 + random.integers(0, DAY_MS // 3, count),
        duration_s=np.where(said if feature == "duration" else noise[1], 100.0, 2.0).astype(np.float32),
        positive=np.ones(count, bool),
    )
    vectors = random.standard_normal((PINS, 256)).astype(np.float32)
    vectors[:, :8] += np.where(np.arange(PINS) % 2, 4, -4)[:, None]
    return timelines, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def share_of_right_kind(timelines: Timelines, vectors: np.ndarray, dropped: tuple[str, ...]) -> float:
    """Of the ten nearest pins, those of the kind that came next, of users that training does not see."""
    config = preset("tiny", action_vocabulary=("a", "b"), surface_vocabulary=("x", "y"), pinsage_version="v")
    config = dataclasses.replace(config, dropped_features=dropped, max_sequence_length=16)
    settings = TrainingSettings(
        objective=Objective("sasrec"),
        negatives=Negatives(random=PINS),
        steps=150,
        warmup_steps=8,
        learning_rate=5e-3,
        users_per_step=32,
    )
    maker = BatchMaker(timelines.users(np.arange(HELD_OUT, USERS)), vectors, settings, config.max_sequence_length)
    trainer = Trainer(config, *new_model(config, 0, vectors), settings, PINS)
    for step in range(settings.steps):
        trainer.step(maker.make(step))
    asked = np.arange(HELD_OUT)
    last = timelines.offsets[1 : HELD_OUT + 1] - 1
    sequences = sequences_ending(timelines, vectors, asked, last, config.max_sequence_length)
    users = UserEncoder(trainer.user_tower.eval()).encode(sequences)
    scores = (
        torch.as_tensor(np.asarray(users, np.float32))
        @ torch.as_tensor(np.asarray(encode_pins(trainer.pin_tower.eval(), vectors), np.float32)).T
    )
    best = scores.topk(10).indices.numpy()
    return float((best % 2 == timelines.pin_row[last][:, None] % 2).mean())


@pytest.mark.parametrize(
    "feature", ["time", *(pytest.param(word, marks=pytest.mark.slow) for word in ("duration", "action", "surface"))]
)
def test_a_model_without_the_feature_that_tells_what_comes_next_is_worse(feature):
    timelines, vectors = make_world(feature)
    assert share_of_right_kind(timelines, vectors, ()) > 0.85
    assert share_of_right_kind(timelines, vectors, (feature,)) < 0.65  # by chance: 0.5
