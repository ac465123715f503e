"""Nights that are bad in a way that only a look back, the rhythm of the rows or a pin's own past can tell."""

import json
import os
import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from pinnerformer_model.checkpoint import load_model, save_model
from pipelines.cli import main
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import read_current
from tests.worlds import FIRST, Row, day, midnight, write_file, write_model, write_vectors
from transforms.gates import rhythm
from transforms.gates.hindsight import hindsight_of

USERS, PINS, TOPICS, NIGHTS = 600, 300, 15, 4
MADE = (f"--bootstrap-from={FIRST}", "--user-buckets=2", "--pin-shards=2", "--history-length=40")


FLAGS = ("--publish=none", "--quiet", "--gates=tests/pipelines/bad_nights.yaml")


def rows_of(number: int) -> list[Row]:
    """A day on which everybody takes six pins of the topic that is theirs, in daytime."""
    random = np.random.default_rng([3, number])
    return [
        {
            "user_id": user,
            "pin_id": int(random.integers(0, PINS // TOPICS)) * TOPICS + user % TOPICS,
            "timestamp_ms": midnight(number) + int(random.integers(7 * 3_600_000, 22 * 3_600_000)),
            "action": ("repin", "click")[int(random.integers(0, 2))],
            "surface": "home",
            "duration_s": None,
        }
        for user in range(USERS)
        for _ in range(6)
    ]


def vectors_of(pins: range) -> dict[int, np.ndarray]:
    random = np.random.default_rng(4)
    topics, own = random.standard_normal((TOPICS, 256)), random.standard_normal((PINS, 256))
    found = topics[np.arange(PINS) % TOPICS] + 0.5 * own
    return dict(zip(pins, found / np.linalg.norm(found, axis=1, keepdims=True), strict=True))


def nightly(folder: str, root: str, number: int, *, logs="logs", pins="pins", model="model") -> tuple[int, Manifest]:
    """Runs a night; returns its exit code and its manifest with the gates."""
    inputs = [f"--logs={folder}/{logs}", f"--pins={folder}/{pins}", f"--model={folder}/{model}"]
    first = MADE if not number else ()
    code = main(["daily", f"--root={root}", *inputs, f"--date={day(number)}", *FLAGS, *first])
    opened = Root(root)
    if code:
        (run,) = [run for run in opened.list("staging") if run.startswith(f"daily-{day(number)}")]
        return code, Manifest.from_json(opened.read_json(f"staging/{run}/checked.json"), run)
    manifest = read_current(opened)
    assert manifest is not None
    return code, manifest


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A root after the usual nights, and the inputs of one more."""
    folder = str(tmp_path_factory.mktemp("site"))
    for number in range(NIGHTS + 1):
        write_file(f"{folder}/logs", number, rows_of(number))
    write_vectors(f"{folder}/pins", vectors_of(range(PINS)))
    write_model(f"{folder}/model", seed=1)
    write_model(f"{folder}/other", seed=2)
    one, other = load_model(f"{folder}/model"), load_model(f"{folder}/other")
    save_model(f"{folder}/mixed", one.config, one.user_tower, other.pin_tower)
    for number in range(NIGHTS):
        assert nightly(folder, f"{folder}/root", number)[0] == 0
    return folder


@pytest.fixture
def root(site, tmp_path, monkeypatch):
    monkeypatch.setattr(rhythm, "FEWEST_NIGHTS", 3)
    return shutil.copytree(f"{site}/root", f"{tmp_path}/root")


def spoil(site: str, folder: str, change: Callable[[list[Row]], list[Row]]) -> str:
    """Logs whose last partition is changed, beside the site's."""
    shutil.copytree(f"{site}/logs", f"{folder}/logs")
    write_file(f"{folder}/logs", NIGHTS, change(rows_of(NIGHTS)))
    return os.path.relpath(f"{folder}/logs", site)


def column_shuffled(name: str, share: float) -> Callable[[list[Row]], list[Row]]:
    def change(rows: list[Row]) -> list[Row]:
        random = np.random.default_rng(6)
        chosen = np.flatnonzero(random.random(len(rows)) < share)
        source = np.arange(len(rows))
        source[chosen] = random.permutation(chosen)
        return [{**row, name: rows[other][name]} for row, other in zip(rows, source, strict=True)]

    return change


def each(**columns: Callable[[Row], object]) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [{**row, **{name: value(row) for name, value in columns.items()}} for row in rows]


DAY, HOUR = 86_400_000, 3_600_000
BAD_ROWS = {
    "half of the users shuffled": (column_shuffled("user_id", 0.5), "hindsight_fall"),
    "all users shuffled": (column_shuffled("user_id", 1.0), "hindsight_fall"),
    "pins shuffled": (column_shuffled("pin_id", 1.0), "hindsight_fall"),
    "the next user's rows": (each(user_id=lambda row: (row["user_id"] + 1) % USERS), "hindsight_fall"),
    "half of the rows missing": (lambda rows: rows[::2], "rows_per_user"),
    "times cut to midnight": (each(timestamp_ms=lambda row: row["timestamp_ms"] // DAY * DAY), "hours_shift"),
    "eight hours early": (each(timestamp_ms=lambda row: row["timestamp_ms"] - 8 * HOUR), "hours_shift"),
    "an action renamed": (each(action=lambda row: row["action"].replace("click", "tap")), "vocabulary_rise"),
    "a surface renamed": (each(surface=lambda row: "feed"), "vocabulary_rise"),
}


def refused_by(manifest: Manifest) -> set[str]:
    return {gate["name"] for gate in manifest.gates if not gate["passed"]}


def test_a_night_as_usual_passes_all_of_them(site, root):
    code, manifest = nightly(site, root, NIGHTS)
    assert code == 0 and not refused_by(manifest) and manifest.statistics["cannot_see"] == {}
    measured = {gate["name"] for gate in manifest.gates}
    assert {gate for _, gate in BAD_ROWS.values()} | {"consistency", "pins_moved"} <= measured
    found = hindsight_of(manifest)
    assert found["foresight"]["users"] == USERS and found["foresight"]["margin"] > 0.3
    assert found["consistency"]["margin"] > 0.3 and found["judged"] == str(day(NIGHTS - 1))


# One for each gate.
USUAL = ("half of the users shuffled", "half of the rows missing", "times cut to midnight", "an action renamed")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in BAD_ROWS]
)
def test_bad_rows_close_their_gate(site, root, tmp_path, name, capsys):
    change, gate = BAD_ROWS[name]
    code, manifest = nightly(site, root, NIGHTS, logs=spoil(site, str(tmp_path), change))
    assert code == 3 and gate in refused_by(manifest)
    assert re.search(rf"^ ?{gate} ", capsys.readouterr().err, re.M)


def test_a_tenth_of_the_pins_under_other_ids(site, root, tmp_path):
    vectors = vectors_of(range(PINS))
    some = np.random.default_rng(7).permutation(PINS)[: PINS // 10]
    for pin, other in zip(some, np.roll(some, 1), strict=True):
        vectors[int(pin)] = vectors_of(range(PINS))[int(other)]
    write_vectors(f"{tmp_path}/pins", vectors)
    code, manifest = nightly(site, root, NIGHTS, pins=os.path.relpath(f"{tmp_path}/pins", site))
    assert code == 3 and refused_by(manifest) == {"pins_moved"}


def test_towers_of_two_models(site, root):
    code, manifest = nightly(site, root, NIGHTS, model="mixed")
    assert code == 3 and {"consistency", "new_model_hindsight"} <= refused_by(manifest)


def test_towers_of_two_models_on_a_first_night(site, tmp_path):
    code, manifest = nightly(site, f"{tmp_path}/root", 0, model="mixed")
    assert code == 3 and refused_by(manifest) == {"consistency"}


def test_a_model_as_good_as_the_one_before(site, root):
    code, manifest = nightly(site, root, NIGHTS, model="other")
    judged = hindsight_of(manifest)["new_model"]["judged"]
    assert code == 0 and judged["users"] == USERS and judged["served"] == pytest.approx(judged["new"], abs=0.05)
    assert list(manifest.statistics["cannot_see"]) == ["pins_moved"]


def test_too_few_users_are_told_and_not_passed(site, tmp_path, capsys):
    folder = str(tmp_path)
    for number in range(2):
        write_file(f"{folder}/logs", number, [row for row in rows_of(number) if row["user_id"] < 9])
    logs = os.path.relpath(f"{folder}/logs", site)
    for number in range(2):
        code, manifest = nightly(site, f"{folder}/root", number, logs=logs)
        assert code == 0
    assert "consistency" not in {gate["name"] for gate in manifest.gates}
    assert main(["status", f"--root={folder}/root"]) == 0
    assert f"{day(1)}: consistency cannot see: fewer than 20 of tonight's users" in capsys.readouterr().out
    assert main(["status", f"--root={folder}/root", "--json"]) == 0
    assert "consistency" in json.loads(capsys.readouterr().out)["releases"][0]["cannot_see"]


def test_a_refused_night_is_judged_by_what_was_measured(site, root, tmp_path):
    """`release --run` gives the figures that the night gave: they are in the staged manifest."""
    change, _ = BAD_ROWS["all users shuffled"]
    code, refused = nightly(site, root, NIGHTS, logs=spoil(site, str(tmp_path), change))
    assert code == 3
    closed = [f"--force-gate={name}" for name in refused_by(refused)]
    run = refused.settings["run"]
    assert main(["release", f"--root={root}", f"--run={run}", "--publish=none", *closed, "--reason=a test"]) == 0
    released = read_current(Root(root))
    assert released is not None and released.statistics == refused.statistics
    assert {gate["name"] for gate in released.gates if gate["forced"]} == refused_by(refused)
