"""A study of several folds and cuts: pooled, gone on with, not mixed; levers; what is left out when time runs out."""

import json
import os

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.study import command
from pipelines.study.grid import BASE, LEVERS, make_grid
from pipelines.study.results import Study
from stores.errors import StoreError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("study"))
    sizes = ["--users=240", "--pins=600", "--days=70", "--topics=30", "--start=2026-05-01", "--seed=3"]
    assert main(["synth", f"--out={folder}/world", *sizes]) == 0
    inputs = [f"--logs={folder}/world/logs", f"--pins={folder}/world/pins", f"--out={folder}/timelines"]
    when = ["--start=2026-05-01", "--end=2026-07-09", "--evaluation-share=0.3", "--buckets=2", "--quiet"]
    assert main(["training-data", *inputs, *when]) == 0
    return folder


def flags(world: str, out: str, *more: str) -> list[str]:
    return ["study", f"--timelines={world}/timelines", f"--out={out}", "--quick", "--steps=4", "--workers=1", *more]


def test_folds_and_cuts_are_pooled_and_gone_on_with(world, tmp_path, monkeypatch, capsys):
    kept = {BASE, "all_action_28", "all_action_28_cpu"}
    monkeypatch.setattr(command, "make_grid", lambda *a: [c for c in make_grid(*a) if c.name in kept])
    out = f"{tmp_path}/out"
    asked = flags(world, out, "--folds=2", "--cuts=2", "--new")
    assert main(asked) == 0
    said = capsys.readouterr().err
    assert said.index("an error over users") < said.index("untrained-fold0")  # before anything is trained
    study = Study.load(out)
    assert set(study.trained) == kept and study.start(f"{BASE}@daily") == "untrained@daily"
    with open(f"{world}/timelines/timelines.json") as file:
        counts = json.load(file)["counts"]
    everybody = counts["train_users"] + counts["evaluation_users"]
    for name in (BASE, "untrained", "ease", "own_counts", "whitened_mean", "pinnersage_served", "popularity"):
        users = study.cells[name][0]["by_user"]["once"]["user_ids"]
        assert users == sorted(set(users)) and 0.5 * everybody < len(users) <= everybody
    # As many steps as fit into the CPU time of dense, by what both took.
    runs = {name: study.trained[name][0]["training"] for name in kept}
    took = {name: sum(r["cpu_s"] for r in found) / sum(r["steps"] for r in found) for name, found in runs.items()}
    assert runs["all_action_28_cpu"][0]["steps"] == max(1, round(4 * took[BASE] / took["all_action_28"]))
    page = open(f"{out}/reproduction.md").read()
    for text in ("dealt to 2 folds", "2 windows of 14 days", "(ours) EASE", "(ours) untrained", "of as much CPU"):
        assert text in " ".join(page.split())
    heads = next(line for line in page.splitlines() if line.startswith("| | paper"))
    assert heads.index(" new ") < heads.index(" all ")

    done = sorted(os.listdir(f"{out}/cells"))
    assert len(done) == 3 * 2
    os.unlink(f"{out}/cells/{done[0]}")  # killed: a cell is missing, or all that is left is its baselines
    times = {name: os.stat(f"{out}/cells/{name}").st_mtime_ns for name in done[1:]}
    assert main(asked) == 0
    assert {name: os.stat(f"{out}/cells/{name}").st_mtime_ns for name in done[1:]} == times
    assert sorted(os.listdir(f"{out}/cells"))[0] == done[0]

    capsys.readouterr()
    assert main(flags(world, out, "--folds=3", "--cuts=2", "--new")) == 1
    assert "baselines.json: of another study (folds differs)" in capsys.readouterr().err


def test_a_cell_with_other_settings_is_refused_by_name(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "make_grid", lambda *a: [c for c in make_grid(*a) if c.name == BASE])
    out = f"{tmp_path}/out"
    assert main(flags(world, out)) == 0
    path = f"{out}/cells/{os.listdir(f'{out}/cells')[0]}"
    with open(path) as file:
        found = json.load(file)
    found["identity"]["fold"] = [0, 5]
    with open(path, "w") as file:
        json.dump(found, file)
    capsys.readouterr()
    assert main(flags(world, out)) == 1
    assert f"{path}: of another study (fold differs)" in capsys.readouterr().err


def test_levers_are_chosen_by_the_choosing_users_and_stand_apart(world, tmp_path, monkeypatch):
    some = tuple(c for c in LEVERS if c.name in (BASE, "all_action_28", "dense_start_mean_3", "dense_dropout"))
    monkeypatch.setattr(command, "LEVERS", some)
    out = f"{tmp_path}/out"
    assert main(flags(world, out, "--levers")) == 0
    study = Study.load(out)
    assert not study.is_of_the_paper and study.starts["dense_start_mean_3"] == "untrained_mean_scale_3"
    page = open(f"{out}/reproduction.md").read()
    assert "### Levers" in page and "### Training objectives" not in page
    choice = {name: results[0]["choice"]["recall"] for name, results in study.trained.items()}
    assert f"they would take {max(choice, key=choice.get).replace('_', ' ')};" in " ".join(page.split())
    order = [page.index(f"| {name.replace('_', ' ')} (choosing") for name in sorted(choice, key=lambda n: -choice[n])]
    assert order == sorted(order)

    monkeypatch.setattr(command, "make_grid", lambda *a: [c for c in make_grid(*a) if c.name in (BASE, "without_time")])
    assert main(flags(world, out)) == 0
    page = open(f"{out}/reproduction.md").read()
    assert page.index("### One feature left out") < page.index("### Levers")


def test_a_study_of_an_older_version_is_not_read(tmp_path):
    for name in ("baselines", "study"):
        with open(tmp_path / f"{name}.json", "w") as file:
            json.dump({"cells": [], "figures": {}}, file)
    with pytest.raises(StoreError, match="a study of an older version"):
        Study.load(str(tmp_path))
    with pytest.raises(StoreError, match="no study in it"):
        Study.load(str(tmp_path / "nowhere"))


def test_what_time_ran_out_for_is_said_and_no_half_of_the_users_is_shown(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "make_grid", lambda *a: [c for c in make_grid(*a) if c.name in (BASE, "sasrec")])
    out = f"{tmp_path}/out"
    asked = flags(world, out, "--folds=2")
    assert main(asked) == 0
    os.unlink(next(f"{out}/cells/{name}" for name in os.listdir(f"{out}/cells") if name.startswith("sasrec-fold1")))
    capsys.readouterr()
    assert main([*asked, "--budget=0s"]) == 0
    assert "1 of 4 cells left out: --budget ran out" in capsys.readouterr().err
    study = Study.load(out)
    assert set(study.trained) == {BASE}  # of sasrec one fold alone is there
    assert "1 of 2 models: time ran out" in " ".join(open(f"{out}/reproduction.md").read().split())
    assert np.isfinite(study.level(BASE, "recall")).all()
