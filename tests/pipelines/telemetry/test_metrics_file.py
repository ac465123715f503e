"""`--metrics-file`: read by Prometheus' own parser, and by what it says of several commands and roots."""

import datetime
import os

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.operations.alarms import NAMES
from pipelines.telemetry.metrics_file import (
    HELP,
    PREFIX,
    Sample,
    read_metrics,
    root_samples,
    run_samples,
    write_metrics,
)
from stores.files import Root
from stores.releases import read_current
from tests.old_roots import OLD_ROOTS
from transforms.publish import publish
from transforms.release import PublishTarget

BEGAN = datetime.datetime(2026, 11, 24, 2, tzinfo=datetime.UTC)
LATER = BEGAN + datetime.timedelta(seconds=90)
OK = {"exit_code": 0, "run": "r1", "outcome": {"release": "2026-11-23"}, "version": "1"}
REFUSED = {**OK, "exit_code": 3, "outcome": {"release": "2026-11-24", "refused": [{"name": "recall"}]}}


def values(path: str) -> dict[tuple[str, ...], float]:
    """(name, labels but root) -> value of a file, as Prometheus' parser reads it."""
    with open(path) as file:
        families = list(text_string_to_metric_families(file.read()))
    assert all(family.documentation and family.type == "gauge" for family in families)
    return {
        (one.name.removeprefix(PREFIX), *(v for k, v in sorted(one.labels.items()) if k != "root")): one.value
        for family in families
        for one in family.samples
    }


@pytest.fixture
def served(two_nights, tmp_path) -> tuple[Root, str]:
    """A root of two nights, and a store that serves the second."""
    root, kv = Root(two_nights[1]), f"lmdb://{tmp_path}/kv"
    publish(root, read_current(root).release, PublishTarget(kv, "pinnerformer"))
    return root, kv


def test_a_root_and_its_store_are_told_in_full(served, tmp_path):
    root, kv = served
    path = f"{tmp_path}/night.prom"
    said = [*run_samples("daily", root.url, BEGAN, LATER, **OK), *root_samples(root, [(kv, "pinnerformer")])]
    write_metrics(path, said, command="daily", root=root.url)
    found, manifest = values(path), read_current(root)
    ends = datetime.datetime.combine(manifest.day, datetime.time(), datetime.UTC) + datetime.timedelta(1)
    store = ("pinnerformer", kv)
    assert found["release_data_end_timestamp_seconds",] == ends.timestamp()
    assert found["store_data_end_timestamp_seconds", *store] == ends.timestamp() and found["store_up", *store] == 1
    assert found["release_users",] == found["store_users", *store] == manifest.rows("user_embeddings") > 0
    assert found["run_duration_seconds", "daily"] == 90 and found["run_exit_code", "daily"] == 0
    assert {name: v for (name, *_), v in found.items() if name == "alarm"} and not any(
        found["alarm", name] for name in NAMES
    )
    assert len([key for key in found if key[0] == "release_gate_passed"]) == found["release_gates",] > 10
    for gate in manifest.gates:
        assert found["release_gate_measured", gate["name"]] == pytest.approx(gate["measured"])
    assert found["release_step_seconds", "embed_users"] == pytest.approx(manifest.timings["embed_users"], abs=0.01)
    assert os.listdir(tmp_path) and not [name for name in os.listdir(tmp_path) if name.startswith("night.prom.")]


def test_a_store_that_is_down_is_said_and_the_root_is_told_all_the_same(one_night):
    found = {one.name: one.value for one in root_samples(Root(one_night[1]), [("redis://127.0.0.1:1/0", "n")])}
    assert found["store_up"] == 0 and found["release_users"] > 0


def test_an_old_root_tells_what_it_knows():
    """Its manifests lack the look back and much of what is counted now."""
    names = {one.name for one in root_samples(Root(f"{OLD_ROOTS}/v1/root"), [])}
    assert {"release_users", "release_pins", "release_gates"} <= names and "release_hindsight_margin" not in names


def test_commands_and_roots_share_a_file(tmp_path):
    path = f"{tmp_path}/night.prom"

    def write(command: str, root: str, *more: Sample, ended=LATER, **of_end) -> dict:
        said = [*run_samples(command, root, BEGAN, ended, **of_end), *more]
        write_metrics(path, said, command=command, root=root)
        return {(one.name, one.labels["root"], one.labels.get("command", "")): one.value for one in read_metrics(path)}

    users = Sample("release_users", {"root": "a"}, 5)
    write("daily", "a", users, **OK)
    write("gc", "a", **OK)  # which could not read the root: what was known of it stays
    found = write("daily", "b", **REFUSED)
    assert found["run_exit_code", "a", "daily"] == found["run_exit_code", "a", "gc"] == 0
    assert found["run_exit_code", "b", "daily"] == 3 and found["release_users", "a", ""] == 5
    assert ("run_last_success_timestamp_seconds", "b", "daily") not in found
    found = write("daily", "a", Sample("release_pins", {"root": "a"}, 7), **REFUSED)
    assert found["run_last_success_timestamp_seconds", "a", "daily"] == LATER.timestamp()
    assert ("release_users", "a", "") not in found and found["run_gate_refused", "a", "daily"] == 1
    found = write("daily", "a", ended=None)  # its start: the end is still that of the one before
    assert found["run_exit_code", "a", "daily"] == 3 and found["release_pins", "a", ""] == 7
    assert write("daily", "a", **OK).get(("run_gate_refused", "a", "daily")) is None


def test_a_file_of_somebody_elses_is_not_written_over(tmp_path):
    (tmp_path / "night.prom").write_text("what is this {\n")
    with pytest.raises(ValueError):
        write_metrics(f"{tmp_path}/night.prom", run_samples("gc", "a", BEGAN), command="gc", root="a")
    assert (tmp_path / "night.prom").read_text() == "what is this {\n"


def test_every_metric_has_its_words():
    assert all(text.endswith(".") for text in HELP.values())
