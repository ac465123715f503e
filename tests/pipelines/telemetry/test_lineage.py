"""OpenLineage's events, as its own client writes and sends them."""

import datetime
import json

import pytest

from pipelines.telemetry.lineage import Lineage, dataset_of
from stores.files import Root
from stores.releases import read_current
from tests.pipelines.telemetry.listening import listening

BEGAN = datetime.datetime(2026, 11, 24, 2, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("location", "namespace", "name"),
    [
        ("/srv/logs/", "file", "/srv/logs"),
        ("file:///srv/logs", "file", "/srv/logs"),
        ("lmdb:///srv/kv", "file", "/srv/kv"),
        ("s3://bucket/a/b/", "s3://bucket", "a/b"),
        ("gs://bucket", "gs://bucket", "/"),
        ("redis://:hunter2@host:6379/0", "redis://host:6379", "0"),
    ],
)
def test_data_sets_are_named_as_openlineage_names_them(location, namespace, name):
    assert dataset_of(location) == (namespace, name)


def test_a_night_from_start_to_end(two_nights, tmp_path, monkeypatch):
    world, root = two_nights
    manifest, path = read_current(Root(root)), f"{tmp_path}/events.jsonl"
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", "airflow/nights.embed/0199c0de-0000-7000-8000-000000000001")
    flags = {name: (f"{world.folder}/{name}",) for name in ("logs", "pins", "model")}
    flags |= {"root": (root,), "kv": ("redis://:hunter2@h:1/0",), "date": (manifest.date,)}
    lineage = Lineage(path, "daily", flags, BEGAN)
    lineage.start()
    lineage.end(None, {"run": "r1"}, manifest)
    with open(path) as file:
        text = file.read()
    start, end = map(json.loads, text.splitlines())
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE") and "hunter2" not in text
    assert start["run"]["runId"] == end["run"]["runId"] and end["job"]["name"] == "daily"
    job = start["run"]["facets"]["parent"]["job"]
    assert (job["namespace"], job["name"]) == ("airflow", "nights.embed")
    assert {one["name"] for one in start["inputs"]} == {f"{world.folder}/{name}" for name in ("logs", "pins", "model")}
    outputs = {one["name"]: one for one in end["outputs"]}
    facets = outputs[f"{root}/user_embeddings"]["outputFacets"]["outputStatistics"]
    assert facets["rowCount"] == manifest.rows("user_embeddings") > 0 and "0" in outputs
    assert outputs[f"{root}/user_embeddings"]["facets"]["version"]["datasetVersion"] == manifest.release
    (logs,) = [one for one in end["inputs"] if one["name"].endswith("/logs")]
    assert logs["inputFacets"]["inputStatistics"]["fileCount"] == len(manifest.inputs) > 0


def test_a_failure_is_sent_with_its_words_and_the_key_of_the_environment(monkeypatch):
    with listening() as server:
        lineage = Lineage(server.url, "verify", {"root": ("/r",)}, BEGAN)
        lineage.end("a file is gone", {}, None)
    ((path, event),) = server.heard
    assert path == "/api/v1/lineage" and event["eventType"] == "FAIL" and event["outputs"] == []
    assert event["run"]["facets"]["errorMessage"]["message"] == "a file is gone"
    assert [one["name"] for one in event["inputs"]] == ["/r"]
