"""The demo's training on receipts made up: no receipt of the first day or later is trained on, and all of it runs."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from examples.completejourney import demo, training
from examples.completejourney import import_receipts as importer
from pipelines.cli import main
from stores.schemas import ENGAGEMENTS
from tests.worlds import write_vectors
from transforms.halves import are_choosers
from transforms.training_data import load_training_data

FIRST_DAY = datetime.date(2017, 3, 1)
PRODUCTS, TOPICS = 2000, 20


def write_world(folder: str) -> None:
    """Sixty households, each fond of one topic, a receipt of ten lines every third day until 14 March."""
    random = np.random.default_rng(0)
    days = np.arange(0, 73, 3)
    household, day, line = (x.ravel() for x in np.meshgrid(np.arange(60), days, np.arange(10), indexing="ij"))
    product = random.integers(0, PRODUCTS // TOPICS, len(household)) * TOPICS + household % TOPICS
    time = (day + 17_167) * importer.DAY_MS + 36_000_000 + household
    order = np.lexsort((product, household, time))
    codes = pa.array(random.integers(0, 3, len(order)).astype(np.int32))
    rows = pa.table(
        [
            pa.array(household[order] + 1),
            pa.array(product[order]),
            pa.array(time[order]),
            pa.DictionaryArray.from_arrays(codes, pa.array(importer.ACTIONS)),
            pa.DictionaryArray.from_arrays(codes, pa.array(importer.surface_names()[:3])),
            pa.nulls(len(order), pa.float32()),
        ],
        schema=ENGAGEMENTS,
    )
    assert importer.write_days(rows, f"{folder}/logs") == 73
    importer.write_label_rule(f"{folder}/label-rule.json")
    topics = random.standard_normal((TOPICS, 256))
    vectors = {p: topics[p % TOPICS] + 0.5 * random.standard_normal(256) for p in range(PRODUCTS)}
    write_vectors(f"{folder}/pins", {p: (v / np.linalg.norm(v)).astype(np.float16) for p, v in vectors.items()})


FLAGS = ["--preset=tiny", "--random-negatives=100", "--users-per-step=16", "--evaluate-every=10", "--warmup-steps=2"]


def train_demo(folder: str, *flags: str) -> tuple[list[int], list[training.Measured]]:
    """Exit codes of the demo's two commands, and what it measures then."""
    where = [f"{folder}/{name}" for name in ("world", "timelines", "model")]
    commands = training.training_commands(*where, FIRST_DAY)
    codes = [main([*command, *more, "--quiet"]) for command, more in zip(commands, ([], flags), strict=True)]
    return codes, training.measure_model(where[1], where[2], FIRST_DAY)


def test_the_demo_trains_on_the_past_and_beats_what_is_sold_most(tmp_path, monkeypatch):
    write_world(f"{tmp_path}/world")
    monkeypatch.setattr(training, "FLAGS", FLAGS)
    codes, measured = train_demo(str(tmp_path), "--steps=20")
    assert codes[0] == 0 and codes[1] in (0, training.NOTHING_BETTER)
    model, start, popular, mean = (way.figures for way in measured)
    assert model.users > 5 and model.positives > 100
    assert model.recall[0] > 3 * popular.recall[0] and start.recall[0] > 0
    assert mean.recall[0] > 0
    assert all(0 <= way.figures.recall_new[0] <= 1 and way.figures.errors["recall_new"] >= 0 for way in measured)
    assert model.overlap < popular.overlap == 1
    held_out = load_training_data(f"{tmp_path}/timelines", "evaluation").timelines.user_ids
    assert np.isin(model.by_user["user_ids"], held_out[~are_choosers(held_out)]).all()


def test_the_demo_goes_on_with_the_start_where_nothing_beats_it(tmp_path, monkeypatch):
    write_world(f"{tmp_path}/world")
    monkeypatch.setattr(training, "FLAGS", FLAGS)
    codes, (model, start, *_) = train_demo(str(tmp_path), "--steps=3", "--learning-rate=1e-12")  # as good as none
    assert codes == [0, training.NOTHING_BETTER]
    kept = training.was_kept(f"{tmp_path}/model")
    assert kept == 0 and "goes on with the start" in demo.say_kept(kept)
    assert demo.cells_of(model)[1:] == demo.cells_of(start)[1:]
    monkeypatch.setattr(demo, "pinnerformer", lambda arguments: training.NOTHING_BETTER)
    demo.run_command("train", also=(training.NOTHING_BETTER,))
    with pytest.raises(SystemExit):
        demo.run_command("train")
