"""The synthetic world: the same flags give the same bytes, and what time tells in it."""

import datetime
import json

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.synthetic import world as synth
from pipelines.synthetic.oracle import oracle_scores, read_world
from pipelines.synthetic.world import World, engagements_of, interests_on, make_pins, spread_ids
from stores.errors import InputError

WORLD = World(users=3000, pins=2000, start=datetime.date(2026, 5, 1), days=20, seed=3, vectorless_share=0)


def test_the_same_flags_give_the_same_bytes(tmp_path):
    flags = ["--users=200", "--pins=300", "--start=2026-05-01", "--days=3", "--seed=7"]
    for name in ("one", "two"):
        assert main(["synth", f"--out={tmp_path}/{name}", *flags]) == 0
    assert main(["synth", f"--out={tmp_path}/other", *flags[:-1], "--seed=8"]) == 0
    one, two, other = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "one", tmp_path / "two", tmp_path / "other")
    )
    assert one == two and one.keys() == other.keys() and one != other


def share_of_own_topics(least_s: float, most_s: float) -> float:
    """Of the rows that follow the same user's last one by so many seconds, those of the user's own four topics."""
    pins = make_pins(WORLD)
    rows = engagements_of(WORLD, pins, 10, 0)
    order = np.lexsort((rows["timestamp_ms"], rows["user"]))
    user, moment, pin = (rows[name][order] for name in ("user", "timestamp_ms", "pin"))
    gap = np.diff(moment, prepend=0) / 1000
    chosen = (user == np.roll(user, 1)) & (gap >= least_s) & (gap < most_s)
    assert chosen.sum() > 500
    return float((interests_on(WORLD, user, 10) == pins.topic[pin][:, None]).any(1)[chosen].mean())


def test_haste_tells_a_detour_from_what_a_user_cares_about():
    assert share_of_own_topics(60, 86_400) > 0.7
    assert share_of_own_topics(0, 10) < 0.45


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
