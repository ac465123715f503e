"""The demo's training on receipts made up: no receipt of the first day or later is trained on, and all of it runs."""

import datetime

import numpy as np
import pyarrow as pa

from examples.completejourney import import_receipts as importer
from examples.completejourney import training
from pipelines.cli import main
from stores.schemas import ENGAGEMENTS
from tests.worlds import write_vectors

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


def test_the_demo_trains_on_the_past_and_beats_what_is_sold_most(tmp_path, monkeypatch):
    write_world(f"{tmp_path}/world")
    flags = ["--preset=tiny", "--steps=20", "--random-negatives=100", "--no-evaluation", "--users-per-step=16"]
    monkeypatch.setattr(training, "FLAGS", flags)
    where = [f"{tmp_path}/{name}" for name in ("world", "timelines", "model")]
    for command in training.training_commands(*where, FIRST_DAY):
        assert main([*command, "--quiet"]) == 0
    measured, households, purchases = training.measure_model(where[1], where[2], FIRST_DAY)
    assert households > 5 and purchases > 100
    model, popular, mean = measured
    assert model.all > 3 * popular.all and mean.all > 0
    assert all(0 <= way.new <= 1 for way in measured)
