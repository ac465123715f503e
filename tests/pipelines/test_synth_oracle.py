"""What the generator would score in its own world."""

import datetime
import json

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.synthetic import world as synth
from pipelines.synthetic.oracle import oracle_scores, read_world
from pipelines.synthetic.world import engagements_of, interests_on, make_pins, spread_ids
from stores.errors import InputError
from tests.pipelines.test_synth import WORLD


def test_a_world_of_another_version_has_no_ceiling(tmp_path):
    flags = ["--users=20", "--pins=300", "--start=2026-05-01", "--days=1"]
    assert main(["synth", f"--out={tmp_path}/world", *flags]) == 0
    assert read_world(f"{tmp_path}/world").detour_share == 0.3
    with open(tmp_path / "world" / "world.json") as file:
        found = json.load(file)
    del found["detour_share"]
    with open(tmp_path / "world" / "world.json", "w") as file:
        json.dump(found, file)
    with pytest.raises(InputError, match="another version"):
        read_world(f"{tmp_path}/world")


@pytest.mark.parametrize("constants", [{}, {"STRAY_SHARE": 0.6}, {"FIRST_SHARE": 0.9}, {"FIRST_SHARE": 0.2}])
def test_the_oracle_knows_the_shares_that_are_drawn_whatever_they_are(constants, monkeypatch):
    for name, value in constants.items():
        monkeypatch.setattr(synth, name, value)
    pins, number = make_pins(WORLD), 10
    rows = engagements_of(WORLD, pins, number, 0)
    interests = interests_on(WORLD, rows["user"], number)
    users, row = np.unique(rows["user"], return_inverse=True)
    midnight_ms = (WORLD.start + datetime.timedelta(number) - datetime.date(1970, 1, 1)).days * 86_400_000
    scores = oracle_scores(WORLD, spread_ids(WORLD.users, 0)[users], pins.pin_id, midnight_ms, 1)
    shares = scores @ (pins.topic[:, None] == np.arange(WORLD.topics))  # of a user's engagements, by topic
    shares /= shares.sum(1, keepdims=True)
    for slot in range(synth.INTERESTS):
        drawn = pins.topic[rows["pin"]] == interests[:, slot]
        assert drawn.mean() == pytest.approx(shares[row, interests[:, slot]].mean(), abs=0.02)
