"""`pinnerformer study`: its rule of judgement on made-up figures; a small study that runs, resumes and is refused."""

import json
import os
import re

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.study import command as command
from pipelines.study.claims import CLAIMS, PAPER, Claim
from pipelines.study.grid import BASE, FULL, QUICK, SMALL, make_grid
from pipelines.study.report import sentence
from pipelines.study.results import Study, difference, difference_of_losses, verdict
from tests.pipelines.conftest import make_timelines
from transforms.baselines import NAMES


def made_up(cells: dict[str, list[np.ndarray]], targets: np.ndarray) -> Study:
    """A study whose users have these hits, a seed an array."""
    found = {}
    for name, seeds in cells.items():
        by_user = [{"hits": h.tolist(), "targets": targets.tolist()} for h in seeds]
        recall = [float(h.sum() / targets.sum()) for h in seeds]
        found[name] = [
            {"report": {"once": {"recall": [r, r]}}, "by_user": {"once": sums}}
            for r, sums in zip(recall, by_user, strict=True)
        ]
    return Study("", {"figure": "recall"}, {"figures": {}}, found)


@pytest.mark.parametrize(
    ("says", "shift", "noise", "expected"),
    [
        ("higher", 0.1, 0.02, "holds"),
        ("higher", -0.1, 0.02, "does not hold"),
        ("higher", 0.002, 0.1, "cannot be told at this size"),
        ("lower", -0.1, 0.02, "holds"),
        ("lower", 0.1, 0.02, "does not hold"),
        ("as good", 0.0, 0.002, "holds"),
        ("as good", 0.2, 0.01, "does not hold"),
        ("as good", 0.0, 0.5, "cannot be told at this size"),
    ],
)
def test_a_row_is_judged_by_difference_and_error(says, shift, noise, expected):
    random = np.random.default_rng(0)
    targets = random.integers(5, 40, 300).astype(float)
    base = [targets * 0.4 + random.standard_normal(300) for _ in range(3)]
    other = [b + targets * (shift + noise * random.standard_normal(300)) for b in base]
    study = made_up({"a": other, "b": base}, targets)
    claim = Claim("t", "A against B", "a", says, "b")
    assert verdict(claim, difference(study, "a", "b")) == expected
    assert f"**{expected}**" in sentence(study, claim)


def test_the_error_is_that_of_users_and_of_seeds():
    random = np.random.default_rng(1)
    targets = random.integers(1, 30, 400).astype(float)
    effects = 0.05 * random.standard_normal((400, 1)) + 0.02 * random.standard_normal((1, 4))
    base = [np.zeros(400)] * 4
    study = made_up({"a": list((targets[:, None] * (0.3 + effects)).T), "b": base}, targets)
    found = difference(study, "a", "b")
    # Users drawn again and again (bootstrap), and the spread of the seeds, written out.
    totals = []
    for _ in range(2000):
        drawn = random.integers(0, 400, 400)
        totals.append((targets[drawn] * (0.3 + effects.mean(1))[drawn]).sum() / targets[drawn].sum())
    seeds = (targets[:, None] * (0.3 + effects)).sum(0) / targets.sum()
    expected = (np.var(totals) + np.var(seeds, ddof=1) / 4) ** 0.5
    assert found.mean == pytest.approx(seeds.mean()) and found.error == pytest.approx(expected, rel=0.1)


def test_seeds_meet_their_own_and_a_baseline_meets_every_seed():
    targets = np.full(50, 10.0)
    hits = [targets * share for share in (0.1, 0.3, 0.5)]
    study = made_up({"a": hits, "b": hits[:1], "fixed": hits[:1]}, targets)
    study.baselines["figures"]["fixed"] = {}
    assert difference(study, "a", "b").mean == 0  # one seed in common
    assert difference(study, "a", "fixed").mean == pytest.approx(0.2)
    assert difference(study, "a", "nothing") is None


def test_what_is_lost_from_realtime_to_daily():
    targets = np.full(200, 20.0)
    study = made_up({"x": [targets]}, targets)

    def at(daily: float, realtime: float) -> dict:
        random = np.random.default_rng(0)
        sums = {
            frequency: {"hits": (targets * share + random.random(200)).tolist(), "targets": targets.tolist()}
            for frequency, share in (("daily", daily), ("realtime", realtime))
        }
        recall = {frequency: {"recall": [0.1, 0.1]} for frequency in sums}
        return {"report": recall, "by_user": sums}

    study.cells.update(a=[at(0.36, 0.40)] * 2, b=[at(0.20, 0.40)] * 2)
    found = difference_of_losses(study, "a", "b")
    assert found.mean == pytest.approx(0.36 / 0.40 - 0.20 / 0.40, abs=0.05) and 0 < found.error < 0.02
    assert difference_of_losses(study, "a", "x") is None
    assert verdict(Claim("t", "A keeps more", "a", "loses less", "b"), found) == "holds"


def test_every_claim_is_of_a_cell_that_is_trained():
    others = {"untrained", "pinnersage_5", "pinnersage_20", "oracle", *NAMES}
    cells = {cell.name for size in (FULL, SMALL, QUICK) for cell in make_grid(size)} | others
    for claim in CLAIMS:
        assert claim.table in PAPER
        assert {claim.cell.partition("@")[0], claim.reference.partition("@")[0]} <= cells
    for content in PAPER.values():
        for _, cell, figures in content.rows:
            assert cell.partition("@")[0] in cells and len(figures) == len(content.columns)
    assert len(make_grid(QUICK)) < len(make_grid(FULL)) == len({cell.name for cell in make_grid(FULL)})


@pytest.fixture(scope="module")
def world(study_world, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("world"))
    for name in ("world", "timelines"):
        os.symlink(f"{study_world}/{name}", f"{folder}/{name}")
    assert make_timelines(study_world, f"{folder}/others", "--split-salt=2") == 0
    return folder


def test_a_study_is_written_resumed_and_not_mixed_with_another(world, monkeypatch, capsys):
    kept = {BASE, "sasrec", "without_time", "length_4"}
    monkeypatch.setattr(command, "make_grid", lambda *a: [c for c in make_grid(*a) if c.name in kept])
    out = f"{world}/study"
    flags = ["study", f"--pins={world}/world/pins", f"--out={out}", "--quick", "--steps=3", "--workers=1"]
    assert main([*flags, f"--timelines={world}/timelines", f"--oracle={world}/world", "--title=A small world"]) == 0
    page = open(f"{out}/reproduction.md").read()
    for text in ("# Which of the paper's findings hold", "## A small world", "0.229", "SASRec: daily beats once", "±"):
        assert text in page
    assert "In-batch negatives" not in page  # left out of this grid: no sentence without a figure
    assert open(f"{out}/reproduction-1.png", "rb").read(8) == b"\x89PNG\r\n\x1a\n"
    cells = sorted(os.listdir(f"{out}/cells"))
    assert len(cells) == len(kept)
    times = {name: os.stat(f"{out}/cells/{name}").st_mtime_ns for name in cells}

    for name in cells[:2]:
        os.unlink(f"{out}/cells/{name}")
    os.unlink(f"{out}/reproduction.md")
    assert main([*flags[:-1], "--workers=2", f"--timelines={world}/timelines", "--title=A small world"]) == 0
    again = {name: os.stat(f"{out}/cells/{name}").st_mtime_ns for name in cells}
    assert [name for name in cells if again[name] != times[name]] == cells[:2]

    def without_times(text: str) -> str:
        return re.sub(r"; \d+ minutes of one core", "", text)

    # What two processes trained again says the same as what one trained before.
    assert without_times(open(f"{out}/reproduction.md").read()) == without_times(page)

    capsys.readouterr()
    assert main([*flags, f"--timelines={world}/others"]) == 1
    assert "another study" in capsys.readouterr().err
    with open(f"{out}/cells/{cells[0]}", "w") as file:
        json.dump([], file)
    assert main([*flags, f"--timelines={world}/timelines"]) == 1
    assert f"{cells[0]}: not a result of a study" in capsys.readouterr().err


def test_a_folder_that_is_no_world_is_refused_before_any_work(tmp_path, capsys):
    flags = [f"--timelines={tmp_path}/none", f"--out={tmp_path}/out", f"--oracle={tmp_path}", "--title=No world"]
    assert main(["study", *flags, f"--page={tmp_path}/page.md"]) == 1
    assert f"{tmp_path}/world.json" in capsys.readouterr().err and not (tmp_path / "out").exists()
