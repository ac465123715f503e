"""The look back: what is read of the pins, and what is said of vectors, models and pins that moved."""

import dataclasses
import datetime

import numpy as np
import pytest

from pinnerformer_model.config import preset
from stores.ids import uniform_of
from transforms import hindsight
from transforms.hindsight import Vectors, foresee, judge, pins_moved, unseen_users
from transforms.margins import FEWEST, Acts

CONFIG = preset("tiny", action_vocabulary=("a",), surface_vocabulary=("s",), pinsage_version="v1")


def unit(count: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((count, 8))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


PINS = Vectors(np.arange(100), unit(100, 1))
USERS = Vectors(np.arange(FEWEST + 5), PINS.vectors[: FEWEST + 5])  # user n is where pin n is
OWN = Acts.of(np.arange(FEWEST + 5), np.arange(FEWEST + 5))
ALL = np.arange(100)


def test_vectors_that_foresee_and_vectors_that_do_not():
    found = foresee(OWN, USERS, PINS, ALL, 1, popularity=True)
    assert found is not None and found["users"] == FEWEST + 5 and found["drawn"] == 100
    assert (
        found["own"] == pytest.approx(0.005, abs=1e-6) and 0.4 < found["margin"] < 0.6
    )  # the own pin ties with itself
    assert found["popularity"] == pytest.approx(0.5, abs=0.2)
    strange = foresee(OWN, Vectors(USERS.ids, unit(FEWEST + 5, 2)), PINS, ALL, 1, popularity=True)
    assert strange is not None and abs(strange["margin"]) < 3 * strange["error"]


def test_who_has_no_vector_is_left_out():
    some = Vectors(USERS.ids[:FEWEST], USERS.vectors[:FEWEST])
    found = foresee(OWN, some, PINS, ALL, 1, popularity=True)
    assert found is not None and found["users"] == found["acts"] == FEWEST
    assert (
        foresee(OWN, some, Vectors(PINS.ids[1:], PINS.vectors[1:]), ALL, 1, popularity=True) is None
    )  # one pin less, too few
    assert foresee(OWN, USERS, PINS, np.array([777]), 1, popularity=True) is None
    assert foresee(OWN.only(np.zeros(len(OWN.pins), bool)), USERS, PINS, ALL, 1, popularity=True) is None


def test_a_new_model_is_judged_in_its_own_space():
    turned = np.linalg.qr(np.random.default_rng(3).standard_normal((8, 8)))[0].astype(np.float32)
    new_pins = Vectors(PINS.ids, (PINS.vectors @ turned).astype(np.float16))
    new_users = Vectors(USERS.ids, (USERS.vectors @ turned).astype(np.float16))
    same = judge(OWN, (USERS, PINS), (new_users, new_pins), ALL, 1)
    assert same is not None and abs(same["margin"]) < 0.005
    worse = judge(OWN, (USERS, PINS), (USERS, new_pins), ALL, 1)
    assert worse is not None and worse["margin"] > 3 * worse["error"] and worse["margin"] > 0.3
    assert worse["margin"] == pytest.approx(worse["served"] - worse["new"], abs=2e-6)
    assert judge(OWN, (USERS, PINS), (Vectors(np.array([1]), unit(1, 1)), new_pins), ALL, 1) is None


def test_who_was_held_out():
    users = np.arange(1000)
    trained = CONFIG.trained(datetime.date(2026, 11, 2), 5, 0.25)
    assert unseen_users(users, CONFIG, "2026-11-02").all()  # initial weights
    assert unseen_users(users, trained, "2026-11-02").all()  # it saw what was before
    held_out = unseen_users(users, trained, "2026-11-01")
    assert held_out.tolist() == (uniform_of(users, 5) < 0.25).tolist() and 200 < held_out.sum() < 300
    unknown = dataclasses.replace(trained, split_salt=None)
    assert not unseen_users(users, unknown, "2026-11-01").any()


def test_pins_that_moved_while_others_did_not():
    assert pins_moved(PINS, PINS) == {"pins": 100, "moved": 0, "median_cosine": pytest.approx(1.0, abs=1e-3)}
    some = PINS.vectors.copy()
    some[:10] = np.roll(some[:10], 1, axis=0)
    found = pins_moved(PINS, Vectors(PINS.ids, some))
    assert found is not None and 8 <= found["moved"] <= 10
    shaken = PINS.vectors + 0.05 * unit(100, 4)
    assert pins_moved(PINS, Vectors(PINS.ids, shaken.astype(np.float16)))["moved"] == 0  # type: ignore[index]
    assert pins_moved(PINS, Vectors(PINS.ids, unit(100, 5)))["moved"] < 50  # type: ignore[index]
    assert pins_moved(PINS, Vectors(np.array([777]), unit(1, 1))) is None


def test_pins_engaged_with_that_have_no_vector():
    acts = Acts.of(np.array([1, 1, 2, 3]), np.array([5, 200, 200, 300]))
    assert hindsight.engaged(acts, PINS) == {
        "users": 3,
        "acts": 4,
        "acts_without_vector": 3,
        "pins": 3,
        "pins_without_vector": 2,
    }
    assert hindsight.engaged(acts.only(np.zeros(4, bool)), PINS) is None
