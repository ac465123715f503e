"""The ceiling on a synthetic world: what somebody who knows its generator would retrieve."""

import dataclasses
import datetime
import json
import os

import numpy as np

from pinnerformer_model.days import day_of
from pipelines.synthetic.world import INTERESTS, World, engagement_shares, interests_on, make_pins, spread_ids
from stores.errors import InputError
from stores.ids import find_sorted


def read_world(folder: str) -> World:
    """Reads the `world.json` that `pinnerformer synth` wrote.

    Raises:
        InputError: missing, or not of this version.
    """
    path = os.path.join(folder, "world.json")
    try:
        with open(path) as file:
            found = json.load(file)
        found.pop("rows")
        if found.keys() | {"width"} != {field.name for field in dataclasses.fields(World)}:
            raise ValueError("written by another version")
        return World(**{**found, "start": datetime.date.fromisoformat(found["start"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: {error}; expected a folder that `pinnerformer synth` wrote") from None


def oracle_scores(world: World, user_ids: np.ndarray, pin_ids: np.ndarray, cut_ms: int, days: int) -> np.ndarray:
    """Expected engagements of users with pins in the window, up to a factor per user, from the generator's own rules.

    On every day of the window a user's k-th most important interest has 1/2, 1/4, 1/8, 1/8 of the engagements, less the
    share of the detours, which goes to popular topics, and a tenth that goes to any topic; inside a topic pins that are
    born by then are drawn by Zipf popularity.

    Args:
        user_ids: int64 [U]; a user whom the world does not have is an error.
        pin_ids: int64 [P]; a pin that it does not have scores 0.
        cut_ms: First moment of the window, at midnight.
        days: Its length.

    Returns:
        float32 [U, P].
    """
    pins = make_pins(world)
    all_users = spread_ids(world.users, 0)
    by_id = np.argsort(all_users)
    at, known = find_sorted(all_users[by_id], user_ids)
    if not known.all():
        raise InputError(f"user {user_ids[~known][0]}: not of this synthetic world; name the world of these timelines")
    users = by_id[at]
    order = np.argsort(pins.pin_id)
    at, found = find_sorted(pins.pin_id[order], pin_ids)
    pin = order[np.minimum(at, len(order) - 1)]
    size = pins.first[pins.topic + 1] - pins.first[pins.topic]
    rank = np.arange(len(pins.topic)) - pins.first[pins.topic]
    zipf = np.log((rank + 2) / (rank + 1)) / np.log(size + 1)  # draw_pins: floor((size + 1)^u - 1)
    begin = (day_of(cut_ms) - world.start).days
    weight, anybody = engagement_shares(world)
    scores = np.zeros((len(users), len(pin_ids)), np.float32)
    for day in range(begin, min(begin + days, world.days)):
        share = np.tile(anybody.astype(np.float32), (len(users), 1))
        interests = interests_on(world, users, day)
        for slot in range(INTERESTS):
            share[np.arange(len(users)), interests[:, slot]] += weight[slot]
        alive = np.where(pins.born <= day, zipf, 0.0)
        mass = np.bincount(pins.topic, alive, world.topics)
        prior = (alive / np.maximum(mass[pins.topic], 1e-12))[pin] * found
        scores += share[:, pins.topic[pin]] * prior.astype(np.float32)
    return scores
