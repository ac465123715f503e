"""Logs and vectors as somebody else has them: other names and words, columns that are not there, 384 numbers a pin.

Both worlds hold the same rows; one is written as this project has them, the other as a shop does.
"""

import dataclasses
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_model.checkpoint import load_config
from pipelines.cli import main
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import read_current
from tests.pipelines.nights import histories_of
from tests.worlds import day, midnight

WIDTH, DAYS, PINS = 384, 3, 50
NAMES = ["--column=user_id=customer", "--column=pin_id=sku", "--column=timestamp_ms=at", "--column=action=event"]
VECTOR = "--column=vector=embedding"
ABSENT = ["--absent=surface", "--absent=duration_s"]
VALUES = ["--value=action:purchase=buy", "--value=action:add=buy"]
THEIRS = [*NAMES, VECTOR, *ABSENT, *VALUES]
LAYOUT = ["--user-buckets=2", "--pin-shards=2", "--history-length=32"]
EVERY_ROW = {"surfaces": ["*"], "actions": {"*": 0}}


@dataclasses.dataclass(frozen=True)
class Shop:
    """Where a world lies, and the flags that its form asks for."""

    folder: str
    flags: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        return [f"--logs={self.folder}/logs", f"--pins={self.folder}/pins", *self.flags]

    def night(self, number: int, *more: str) -> int:
        first = [f"--bootstrap-from={day(0)}", *LAYOUT] if number == 1 else []
        where = [f"--root={self.folder}/root", f"--kv=lmdb://{self.folder}/kv", f"--model={self.folder}/model"]
        return main(["daily", *where, *self.inputs, *first, f"--date={day(number)}", *more])

    def current(self) -> Manifest:
        found = read_current(Root(f"{self.folder}/root"))
        assert found is not None
        return found


def write_shop(folder: str, ours: bool) -> None:
    """The same rows in our form, or in theirs."""
    random = np.random.default_rng(3)
    for number in range(DAYS):
        count = 240
        user, pin = random.integers(1, 30, count), random.integers(0, PINS, count)
        at = midnight(number) + random.integers(0, 86_400_000, count)
        event = random.choice(["view", "purchase", "add"], count, p=[0.6, 0.2, 0.2])
        if ours:
            columns = {
                "user_id": user,
                "pin_id": pin,
                "timestamp_ms": at,
                "action": np.where(event == "view", "view", "buy"),
                "surface": ["unknown"] * count,
                "duration_s": pa.nulls(count, pa.float32()),
            }
        else:
            columns = {"customer": user, "sku": pin, "at": pa.array(at, pa.timestamp("ms", "UTC")), "event": event}
        os.makedirs(f"{folder}/logs/ds={day(number)}")
        pq.write_table(pa.table(columns), f"{folder}/logs/ds={day(number)}/part-0.parquet", row_group_size=100)
        open(f"{folder}/logs/ds={day(number)}/_SUCCESS", "w").close()
    vectors = random.standard_normal((PINS, WIDTH)).astype(np.float32)
    os.makedirs(f"{folder}/pins")
    for part in range(2):
        ids, rows = pa.array(np.arange(part, PINS, 2)), vectors[part::2]
        if ours:
            column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), WIDTH)
            table = pa.table({"pin_id": ids, "vector": column})
        else:
            column = pa.array(list(rows.astype(np.float64)), pa.list_(pa.float64()))
            table = pa.table({"name": [f"thing {pin}" for pin in ids], "sku": ids, "embedding": column})
        pq.write_table(table, f"{folder}/pins/{part}.parquet", row_group_size=7)
    with open(f"{folder}/pins/version.json", "w") as file:
        json.dump({"pinsage_version": "minilm"}, file)


def make_shop(folder: str, ours: bool) -> Shop:
    """A world with a model for it."""
    write_shop(folder, ours)
    shop = Shop(folder, () if ours else tuple(THEIRS))
    assert main(["init-model", "--preset=tiny", *shop.inputs, f"--out={folder}/model", "--seed=1"]) == 0
    return shop


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Shop:
    return make_shop(str(tmp_path_factory.mktemp("theirs")), ours=False)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Shop:
    return make_shop(str(tmp_path_factory.mktemp("ours")), ours=True)


def checksums(manifest: Manifest) -> list[str]:
    return [f"{entry.path} {entry.checksum}" for entries in manifest.tables.values() for entry in entries]


def test_from_init_model_to_retrieve(theirs, ours, capsys):
    """Every file of a release is what it is of the same rows in our own form, of the model too."""
    config = load_config(f"{theirs.folder}/model")
    assert (config.pin_vector_dim, config.action_vocabulary, config.surface_vocabulary) == (
        WIDTH,
        ("buy", "view"),
        ("unknown",),
    )
    capsys.readouterr()
    for number in (1, 2):
        assert theirs.night(number) == 0
        said = capsys.readouterr().err
        files = number % 2 + 1  # the first night reads two days
        for line in (
            f"surface: not in {files} of {files} log files; 'unknown' in every row of them",
            f"duration_s: not in {files} of {files} log files; not measured in any row of them",
        ):
            assert said.count(line) == 1
        assert ours.night(number) == 0
        assert "not in" not in capsys.readouterr().err
        found, wanted = theirs.current(), ours.current()
        assert checksums(found) == checksums(wanted) and found.model_digest == wanted.model_digest
        assert found.settings["absent"] == {"duration_s": None, "surface": "unknown"}
        assert found.settings["values"] == {"action": {"add": "buy", "purchase": "buy"}}
        assert not {"absent", "values"} & wanted.settings.keys()
    rows = [row for mine in histories_of(f"{theirs.folder}/root", found).values() for row in mine]
    assert {row["action"] for row in rows} == {"buy", "view"} and {row["duration_s"] for row in rows} == {None}
    where = [f"--root={theirs.folder}/root", f"--kv=lmdb://{theirs.folder}/kv"]
    assert main(["retrieve", *where, "--user=7", "--k=5"]) == 0
    assert len(capsys.readouterr().out.split()) >= 5
    checked = ["verify", *where, f"--model={theirs.folder}/model", f"--pins={theirs.folder}/pins", "--users=20"]
    assert main([*checked, *NAMES, VECTOR]) == 0
