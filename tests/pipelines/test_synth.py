"""The synthetic world: the same flags give the same bytes, and what time tells in it."""

import datetime

import numpy as np

from pipelines.cli import main
from pipelines.synthetic.world import World, engagements_of, interests_on, make_pins

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
