"""Logs and vectors as somebody else has them: other names and words, columns that are not there, 384 numbers a pin.

Both worlds hold the same rows; one is written as this project has them, the other as a shop does.
"""

import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_model.checkpoint import load_config, new_model, save_model
from pinnerformer_model.config import preset
from pipelines.cli import main
from pipelines.planning.daily_plan import plan_daily
from pipelines.planning.daily_request import parse
from stores.files import Root
from stores.manifests import Manifest, read_manifest
from stores.releases import read_current
from stores.timelines import read_description
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

    def copy(self, folder: str) -> "Shop":
        """One to go on with, which leaves this as it is for other tests."""
        shutil.copytree(self.folder, folder)
        return dataclasses.replace(self, folder=folder)

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
    """A world with a model for it, and a root of one release."""
    write_shop(folder, ours)
    shop = Shop(folder, () if ours else tuple(THEIRS))
    assert main(["init-model", "--preset=tiny", *shop.inputs, f"--out={folder}/model", "--seed=1"]) == 0
    assert shop.night(1, "--quiet") == 0
    return shop


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Shop:
    return make_shop(str(tmp_path_factory.mktemp("theirs")), ours=False)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Shop:
    return make_shop(str(tmp_path_factory.mktemp("ours")), ours=True)


@pytest.fixture(scope="module")
def timelines(theirs, tmp_path_factory) -> str:
    """Timelines of their world, in which every row counts."""
    folder = str(tmp_path_factory.mktemp("timelines"))
    with open(f"{folder}/rule.json", "w") as file:
        json.dump(EVERY_ROW, file)
    days = [f"--start={day(0)}", f"--end={day(2)}", "--buckets=2", "--evaluation-share=0.5"]
    rule = f"--label-rule={folder}/rule.json"
    assert main(["training-data", *theirs.inputs, *days, rule, f"--out={folder}/timelines", "--quiet"]) == 0
    return f"{folder}/timelines"


def checksums(manifest: Manifest) -> list[str]:
    return [f"{entry.path} {entry.checksum}" for entries in manifest.tables.values() for entry in entries]


def test_from_init_model_to_retrieve(theirs, ours, tmp_path, capsys):
    """Every file of a release is what it is of the same rows in our own form, of the model too."""
    theirs, ours = theirs.copy(f"{tmp_path}/theirs"), ours.copy(f"{tmp_path}/ours")
    config = load_config(f"{theirs.folder}/model")
    assert (config.pin_vector_dim, config.action_vocabulary, config.surface_vocabulary) == (
        WIDTH,
        ("buy", "view"),
        ("unknown",),
    )
    for number in (1, 2):
        if number == 2:
            capsys.readouterr()
            assert theirs.night(2) == 0
            said = capsys.readouterr().err
            assert said.count("surface: not in 1 of 1 log files; 'unknown' in every row of them\n") == 1
            assert said.count("duration_s: not in 1 of 1 log files; not measured in any row of them\n") == 1
            assert ours.night(2) == 0
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


def commands(shop: Shop, folder: str) -> dict[str, list[str]]:
    """Every command that reads logs, without what it is told of their form."""
    inputs = [f"--logs={shop.folder}/logs", f"--pins={shop.folder}/pins"]
    night = [f"--root={shop.folder}/root", *inputs, f"--model={shop.folder}/model"]
    fresh = [f"--root={folder}/new", *inputs, f"--model={shop.folder}/model"]
    days = [f"--start={day(0)}", f"--end={day(2)}"]
    return {
        "plan": ["plan", *night, f"--date={day(2)}"],
        "daily": ["daily", *night, f"--date={day(2)}", "--publish=none"],
        "backfill": ["backfill", *fresh, *days, f"--bootstrap-from={day(0)}", "--publish=none", *LAYOUT],
        "repair": ["repair", *night, f"--partition={day(1)}", "--publish=none"],
        "init-model": ["init-model", *inputs, f"--out={folder}/model"],
        "training-data": ["training-data", *inputs, *days, f"--model={shop.folder}/model", f"--out={folder}/timelines"],
        "item-vectors": ["item-vectors", inputs[0], f"--until={day(2)}", f"--out={folder}/vectors"],
    }


@pytest.mark.parametrize("command", commands(Shop("", ()), ""))
def test_a_column_that_is_not_there_is_refused_with_the_flag_that_allows_it(theirs, tmp_path, capsys, command):
    words = commands(theirs, str(tmp_path))[command]
    for flags, absent in (((), "surface"), (ABSENT[:1], "duration_s")):
        assert main([*words, *NAMES, VECTOR, *flags]) == 1
        said = capsys.readouterr().err
        assert f"no column '{absent}'" in said and f"--absent {absent}" in said and "part-0.parquet" in said


@pytest.mark.parametrize("command", ["plan", "daily", "backfill", "repair", "training-data", "train", "evaluate"])
def test_a_model_for_other_vectors_is_named_by_both_widths(theirs, timelines, tmp_path, capsys, command):
    vocabularies = {"action_vocabulary": ("buy", "view"), "surface_vocabulary": ("unknown",)}
    config = preset("tiny", **vocabularies, pinsage_version="minilm", label_rule=EVERY_ROW)
    save_model(f"{tmp_path}/narrow", config, *new_model(config, 1))
    words = {
        **commands(theirs, str(tmp_path)),
        "train": ["train", f"--timelines={timelines}", f"--out={tmp_path}/out"],
        "evaluate": ["evaluate", f"--timelines={timelines}", f"--cut={day(2)}", "--days=1"],
    }[command]
    flags = [] if command in ("train", "evaluate") else THEIRS
    assert main([*words, *flags, f"--model={tmp_path}/narrow"]) == 1
    said = capsys.readouterr().err
    assert "256" in said and str(WIDTH) in said and "wide" in said and "pin_vector_dim" in said


@pytest.mark.parametrize("command", ["plan", "daily", "backfill", "repair", "training-data"])
def test_a_word_for_an_absent_column_that_the_model_does_not_know(theirs, tmp_path, capsys, command):
    """Every row of the file would be left out of the sequences."""
    words = [*commands(theirs, str(tmp_path))[command], *NAMES, VECTOR, *VALUES, *ABSENT[1:]]
    assert main([*words, "--absent=surface=app"]) == 2
    said = capsys.readouterr().err
    assert "--absent surface: " in said and "part-0.parquet has no such column" in said
    assert "the model does not know 'app'" in said and "surface_vocabulary, unknown" in said


def test_plan_says_what_is_absent(theirs, tmp_path, capsys):
    words = [*commands(theirs, str(tmp_path))["plan"][2:], f"--root={tmp_path}/new", f"--bootstrap-from={day(0)}"]
    assert main(["plan", *words, *THEIRS]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"float32, {WIDTH} wide" in said
    assert "absent surface not in 3 of 3 log files; 'unknown' in every row of them" in said
    assert "absent duration_s not in 3 of 3 log files; not measured in any row of them" in said


def test_a_backfill_makes_what_the_nights_make(theirs, tmp_path, capsys):
    words = commands(theirs, str(tmp_path))["backfill"]
    words[words.index(f"--start={day(0)}")] = f"--start={day(1)}"
    words[words.index(f"--end={day(2)}")] = f"--end={day(1)}"
    assert main([*words, *THEIRS]) == 0
    assert "absent surface: not in 2 of 2 log files" in " ".join(capsys.readouterr().err.split())
    made, first = read_current(Root(f"{tmp_path}/new")), read_manifest(Root(f"{theirs.folder}/root"), str(day(1)))
    assert made is not None and checksums(made) == checksums(first)
    assert {made.settings[name] == first.settings[name] for name in ("absent", "values")} == {True}


def test_training_on_vectors_of_any_width(theirs, timelines, tmp_path):
    """A star in the rule makes every row a positive one; what is trained is as wide as the vectors."""
    counts = read_description(timelines)[0]
    assert counts["counts"]["positives"] == counts["counts"]["events"] > 0
    assert counts["absent"] == {"duration_s": None, "surface": "unknown"} and counts["values"]
    flags = ["--preset=tiny", "--steps=2", "--users-per-step=4", "--random-negatives=20", "--positions=2", "--quiet"]
    when = [f"--until={day(2)}", "--no-evaluation", "--days=1"]
    assert main(["train", f"--timelines={timelines}", f"--out={tmp_path}/trained", *flags, *when]) == 0
    assert load_config(f"{tmp_path}/trained").pin_vector_dim == WIDTH
    copy = theirs.copy(f"{tmp_path}/copy")
    shutil.rmtree(f"{copy.folder}/model")
    os.rename(f"{tmp_path}/trained", f"{copy.folder}/model")
    assert copy.night(2, "--quiet") in (0, 3)  # whether it foresees anything is not what this is about


def test_what_changes_a_result_changes_the_name_of_a_run(theirs, ours, tmp_path):
    def name_of(shop: Shop, *flags: str) -> str:
        words = commands(shop, str(tmp_path))["daily"][1:]
        words = [f"--root={tmp_path}/new" if word.startswith("--root") else word for word in words]
        return plan_daily(parse([*words, f"--bootstrap-from={day(0)}", *flags]).night).run.name

    plain = name_of(ours)
    assert name_of(ours, *ABSENT) == plain  # no file lacks anything
    assert name_of(ours, "--value=action:view=buy") != plain
    assert name_of(theirs, *THEIRS) == name_of(theirs, *THEIRS)
    others = [
        [*NAMES, VECTOR, *ABSENT, VALUES[0]],
        [*NAMES, VECTOR, *ABSENT],
    ]
    assert len({name_of(theirs, *THEIRS), *(name_of(theirs, *flags) for flags in others)}) == 3
