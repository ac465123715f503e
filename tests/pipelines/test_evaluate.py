"""`pinnerformer evaluate` on a small synthetic world: what it prints, what its generator would score, bad input."""

import dataclasses
import importlib.util
import json
import math
import os
import shutil

import numpy as np
import pytest

from pinnerformer_model.checkpoint import load_config
from pipelines.cli import main
from pipelines.synthetic.oracle import oracle_scores, read_world
from pipelines.synthetic.world import interests_on, spread_ids
from pipelines.training.evaluate import load_evaluation
from tests.worlds import write_model
from transforms.baselines import NAMES, training_counts
from transforms.training_data import load_training_data

CUT_MS = 20_634 * 86_400_000  # 2026-06-30


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("world"))
    sizes = ["--users=500", "--pins=600", "--days=74", "--topics=40", "--start=2026-05-01", "--seed=3"]
    assert main(["synth", f"--out={folder}/world", *sizes]) == 0
    inputs = [f"--logs={folder}/world/logs", f"--pins={folder}/world/pins"]
    assert main(["init-model", *inputs, "--preset=tiny", f"--out={folder}/model"]) == 0
    for name, share in (("timelines", "0.5"), ("nobody", "0")):
        flags = [f"--out={folder}/{name}", f"--evaluation-share={share}", "--buckets=2", "--quiet"]
        assert main(["training-data", *inputs, "--start=2026-05-01", "--end=2026-07-13", *flags]) == 0
    return folder


def evaluate(folder: str, capsys, *flags: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["evaluate", *flags]) == code
    said = capsys.readouterr()
    return said.out, said.err


def test_the_table_holds_models_baselines_and_the_ceiling(world, capsys):
    flags = [f"--timelines={world}/timelines", f"--pins={world}/world/pins", f"--model={world}/model"]
    found = json.loads(evaluate(world, capsys, *flags, f"--oracle={world}/world", "--json")[0])
    by_name = {(row["name"], row["made"]): row for row in found["rows"]}
    names = {name for name, _ in by_name}
    assert found["window"] == "2026-06-30 to 2026-07-13" and found["reference"] == f"{world}/model"
    oracle = by_name["oracle of the generator", "once"]["recall"][0]
    (popularity,) = (row["recall"][0] for (name, _), row in by_name.items() if name.startswith("popularity"))
    mean = max(row["recall"][0] for (name, _), row in by_name.items() if name.startswith("mean"))
    untrained = by_name[f"{world}/model", "once"]["recall"][0]
    assert oracle > mean > popularity and mean > 1.5 * untrained
    assert by_name["PinnerSage, oracle of 20", "once"]["recall"] >= by_name["PinnerSage, oracle of 5", "once"]["recall"]
    for row in found["rows"]:
        share = row["positives_new"] / row["positives"]
        assert 0 < share < 1 and 0 <= row["recall"][0] <= 1
    kinds = {row["kind"] for row in found["rows"]}
    assert kinds == {f"{world}/model", "untrained", "oracle", *NAMES} and len(found["rows"]) >= 3 + 3 + 3 + 3 + 8 + 1
    (own_start,) = (name for name in names if "untrained" in name)
    assert own_start.endswith("since its own is not known") and "not known" in found[f"seen by {world}/model"]

    table, _ = evaluate(world, capsys, *flags, "--frequency=once", "--corpus=popular", "--corpus-size=300")
    assert (
        "mean of the last" in table and "recall@10" in table and "300 pins" not in table
    )  # distinct pins of 300 draws


def test_without_topics_clusters_stand_in(world, capsys):
    flags = [f"--timelines={world}/timelines", f"--model={world}/model", "--no-baselines", "--frequency=once", "--json"]
    found = json.loads(evaluate(world, capsys, *flags)[0])
    assert "k-means" in found["topics"] and 0 < found["rows"][0]["entropy"] < math.log(50)


def test_the_oracle_knows_what_the_generator_draws(world):
    made = read_world(f"{world}/world")
    data = load_training_data(f"{world}/timelines", "evaluation")
    timelines = data.timelines
    scores = oracle_scores(made, timelines.user_ids, data.pin_ids, CUT_MS, 14)
    # What is scored twice as high is engaged with twice as often.
    inside = timelines.timestamp_ms >= CUT_MS
    owner = np.repeat(np.arange(len(timelines)), timelines.lengths)[inside]
    drawn = np.zeros(scores.shape)
    np.add.at(drawn, (owner, timelines.pin_row[inside]), 1)
    expected = scores / scores.sum(1, keepdims=True) * drawn.sum(1, keepdims=True)
    edges = np.quantile(expected, [0.9, 0.97, 0.99, 0.997])
    level = np.searchsorted(edges, expected)
    for group in range(1, 5):
        chosen = level == group
        assert drawn[chosen].sum() == pytest.approx(expected[chosen].sum(), rel=0.25)
    interests = interests_on(made, np.arange(500), 60)
    user = int(np.flatnonzero(spread_ids(500, 0) == timelines.user_ids[0])[0])
    assert len(set(interests[user])) > 1


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--timelines=@/none"], 1, ["timelines.json", "training-data"]),
        (["--timelines=@/timelines", "--model=@/none"], 1, ["--model", "init-model"]),
        (["--timelines=@/timelines", "--model=@/other"], 1, ["PinSage version", "another space"]),
        (["--timelines=@/timelines", "--pins=@/none"], 1, ["--pins", "Parquet"]),
        (["--timelines=@/nobody"], 1, ["no evaluation users", "--evaluation-share"]),
        (["--timelines=@/timelines", "--cut=2026-07-10"], 2, ["--cut", "2026-05-01 to 2026-07-13"]),
        (["--timelines=@/timelines", "--no-baselines"], 2, ["--no-baselines", "--model"]),
        (["--timelines=@/timelines", "--frequency=hourly"], 2, ["hourly", "--help"]),
        (["--timelines=@/timelines", "--oracle=@/timelines"], 1, ["world.json", "synth"]),
    ],
)
def test_bad_input_names_the_culprit_and_the_fix(world, capsys, flags, code, said):
    write_model(f"{world}/other") if "--model=@/other" in flags else None
    _, error = evaluate(world, capsys, *(flag.replace("@", world) for flag in flags), code=code)
    line = [line for line in error.splitlines() if line.startswith("pinnerformer evaluate: ")]
    assert len(line) == 1
    for word in said:
        assert word in line[0]


def test_an_empty_window_says_what_there_is(world, capsys):
    # The first days of a world: one evaluation user in two has nothing before the cut, the label rule drops the rest.
    rule = f"{world}/rule.json"
    with open(rule, "w") as file:
        json.dump({"surfaces": ["board"], "actions": {"comment": 0}}, file)
    inputs = [f"--logs={world}/world/logs", f"--pins={world}/world/pins", f"--label-rule={rule}"]
    share = ["--evaluation-share=0.01", "--split-salt=4", "--buckets=2", "--quiet"]
    flags = ["--start=2026-05-01", "--end=2026-05-20", f"--out={world}/few", *share]
    assert main(["training-data", *inputs, *flags]) == 0
    _, error = evaluate(world, capsys, f"--timelines={world}/few", "--days=1", code=1)
    assert "evaluation" in error and ("positive" in error or "no evaluation users" in error)


def trained(world: str, name: str, **known) -> str:
    """The world's model with a config that says what it was trained on."""
    path = f"{world}/{name}"
    if not os.path.exists(path):
        shutil.copytree(f"{world}/model", path)
    config = load_config(f"{world}/model")
    with open(f"{path}/config.json", "w") as file:
        file.write(dataclasses.replace(config, **known).to_json())
    return path


def test_a_model_that_saw_what_it_is_asked_is_refused_by_name(world, capsys):
    with open(f"{world}/timelines/timelines.json") as file:
        salt = json.load(file)["split_salt"]
    unseen = {"until": "2026-06-30", "split_salt": salt, "evaluation_share": 0.5}
    flags = [f"--timelines={world}/timelines", "--no-baselines", "--frequency=once", "--json"]

    def told(*more: str, code: int = 0, **known) -> str:
        model = trained(world, "trained", **{**unseen, **known})
        out, err = evaluate(world, capsys, *flags, f"--model={model}", *more, code=code)
        return err if code else json.loads(out)[f"seen by {model}"]

    assert "on none of these users" in told() and "is not known" in told()  # who chose the checkpoint
    assert "`choice` chose" in told(provenance={"choosers": "choice"})
    assert "and is asked here" in told("--half=both", provenance={"choosers": "choice"})
    less = told(code=1, evaluation_share=0.4)
    assert "it was trained on" in less and "evaluation share 0.4" in less and "--allow-seen" in less
    assert "it was trained on" in told(code=1, split_salt=salt + 1)
    assert "is not known" in told(code=1, evaluation_share=0.0)
    assert "before 2026-07-01, and the first window begins on 2026-06-30" in told(code=1, until="2026-07-01")
    assert "item vectors know" in told(code=1, provenance={"vectors_until": "2026-07-02"})
    assert "flatter" in told("--allow-seen", until="2026-07-01")
    # Baselines are made of the vectors too: those of the timelines are refused without a model.
    shutil.copytree(f"{world}/timelines", f"{world}/late", dirs_exist_ok=True)
    with open(f"{world}/timelines/timelines.json") as file:
        described = json.load(file)
    for until, code in (("2026-06-30", 0), ("2026-07-01", 1)):
        with open(f"{world}/late/timelines.json", "w") as file:
            json.dump({**described, "vectors_until": until}, file)
        late = [f"--timelines={world}/late", "--baseline=popularity", "--json"]
        out, err = evaluate(world, capsys, *late, code=code)
        assert f"the item vectors know what was before {until}" in (err if code else json.loads(out)["vectors"])
    assert "flatters" in json.loads(evaluate(world, capsys, *late, "--allow-seen")[0])["vectors"]
    # Of several windows, the first one counts.
    assert "begins on 2026-06-14" in told("--cuts", "2026-06-30", "2026-06-14", code=1)


def test_several_cuts_are_one_figure_with_a_smaller_error(world, capsys):
    flags = [f"--timelines={world}/timelines", "--baseline=popularity", "--baseline=whitened_mean", "--frequency=once"]
    one = json.loads(evaluate(world, capsys, *flags, "--json")[0])
    two = json.loads(evaluate(world, capsys, *flags, "--json", "--cuts", "2026-06-16", "2026-06-30")[0])
    assert two["window"] == "2026-06-16 to 2026-06-29, 2026-06-30 to 2026-07-13"
    first, second = ({row["kind"]: row for row in found["rows"]} for found in (one, two))
    for kind in ("popularity", "whitened_mean"):
        assert second[kind]["positives"] > 1.5 * first[kind]["positives"] and second[kind]["users"] <= 250
        assert 0 < second[kind]["errors"]["recall"] < first[kind]["errors"]["recall"]
    # Without a model, rows are compared with the best baseline.
    assert one["reference"].startswith("mean of") and first["whitened_mean"]["behind"] == {}
    behind, error = first["popularity"]["behind"]["recall"]
    assert behind == pytest.approx(first["whitened_mean"]["recall"][0] - first["popularity"]["recall"][0])
    assert (
        0
        < error
        < math.hypot(first["popularity"]["errors"]["recall"], first["whitened_mean"]["errors"]["recall"]) * 1.1
    )
    assert first["popularity"]["overlap"] == 1 > first["whitened_mean"]["overlap"] > 0
    assert first["whitened_mean"]["mean_length"] < 1 and first["popularity"]["mean_length"] is None
    assert first["whitened_mean"]["coverage"] <= first["whitened_mean"]["coverage_ceiling"]
    assert "users tell the recall@10 of a row to about" in one["error"]
    table, _ = evaluate(world, capsys, *flags)
    heads = [line for line in table.splitlines() if " behind " in line]
    assert heads[0].index("new") < heads[0].index("all") and "±" in table
    assert "behind: how far a row is behind mean of" in table
    assert "allow" in table
    _, error_line = evaluate(world, capsys, *flags, "--cuts", "2026-06-20", "2026-06-30", code=2)
    assert "--cuts" in error_line and "overlap" in error_line


def test_a_baseline_without_its_package_is_named(world, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = json.loads(
        evaluate(world, capsys, f"--timelines={world}/timelines", "--baseline=als", "--baseline=popularity", "--json")[
            0
        ]
    )
    assert "pinnerformer[als]" in found["left out: als"] and {row["kind"] for row in found["rows"]} == {"popularity"}


def test_baselines_learn_from_everybody_as_item_vectors_do(world):
    evaluation, training, _ = load_evaluation(f"{world}/timelines", None, None, 14)
    asked = set(evaluation.timelines.user_ids.tolist())
    assert asked and set(evaluation.past.user_ids.tolist()) == asked | set(training.timelines.user_ids.tolist())
    counts = training_counts(evaluation, True)
    assert counts.shape[0] == len(evaluation.past) and counts.sum() == evaluation.popular(None).sum()
