"""The manifests, against Kubernetes' own schemas and the commands' own parsers."""

import shlex

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines.planning.daily_request import parse
from tests.worlds import day

FOLDER = "deploy/kubernetes"
VERSION = "1.33"

# The fields of the operator that are used; `make test-kubernetes` fetches its own schema and validates against that.
RESOURCE = {
    "type": "object",
    "required": ["cpu", "memory"],
    "additionalProperties": False,
    "properties": {"cpu": {"type": "number"}, "memory": {"type": "string", "pattern": r"^\d+m$"}},
}
FLINK_DEPLOYMENT = {
    "type": "object",
    "required": ["image", "flinkVersion", "serviceAccount", "jobManager", "taskManager"],
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string"},
        "flinkVersion": {"enum": ["v1_19", "v1_20", "v2_0", "v2_1", "v2_2"]},
        "serviceAccount": {"type": "string"},
        "flinkConfiguration": {"type": "object", "additionalProperties": {"type": "string"}},
        "jobManager": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"resource": RESOURCE, "replicas": {"type": "integer"}},
        },
        "taskManager": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "resource": RESOURCE,
                "replicas": {"type": "integer"},
                "podTemplate": {"type": "object"},
            },
        },
    },
}


def documents() -> dict[tuple[str, str], dict]:
    found = {}
    for name in ("flink.yaml", "job.yaml"):
        with open(f"{FOLDER}/{name}") as file:
            for document in yaml.safe_load_all(file):
                found[document["kind"], document["metadata"]["name"]] = document
    return found


@pytest.mark.parametrize("key", [key for key in documents() if key[0] != "FlinkDeployment"], ids="/".join)
def test_kubernetes_takes_it(key):
    kubernetes_validate.validate(documents()[key], VERSION, strict=True)


def test_kubernetes_would_not_take_a_misspelt_field():
    broken = documents()["CronJob", "pinnerformer-daily"]
    broken["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_the_flink_deployment_and_the_pod_in_it():
    spec = documents()["FlinkDeployment", "pinnerformer-flink"]["spec"]
    jsonschema.validate(spec, FLINK_DEPLOYMENT)
    template = spec["taskManager"]["podTemplate"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "taskmanager"}, **template}
    kubernetes_validate.validate(pod, VERSION, strict=True)


def test_cron_job_and_cluster_agree():
    found = documents()
    job = found["CronJob", "pinnerformer-daily"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    words = container["args"][0].replace("$(date -u -d yesterday +%F)", str(day(0)))
    words = shlex.split(words.replace("$", "/"))
    assert words[:3] == ["exec", "pinnerformer", "daily"]
    request = parse(words[3:])
    job, beam = request.night.job, request.night.job.beam.get_all_options()
    cluster = found["FlinkDeployment", "pinnerformer-flink"]["spec"]
    slots = int(cluster["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    assert int(beam["sdk_worker_parallelism"]) == slots
    assert beam["parallelism"] == slots * cluster["taskManager"]["replicas"]
    (pool,) = cluster["taskManager"]["podTemplate"]["spec"]["containers"]
    assert f"--port={beam['environment_config'].rpartition(':')[2]}" in pool["command"]
    host, port = beam["job_endpoint"].split(":")
    assert int(port) in [p["port"] for p in found["Service", host]["spec"]["ports"]]
    assert request.target is not None
    variable = request.target.url.removeprefix("env:")
    for run_by in (container, pool):  # the launcher checks the store, a worker publishes
        reference = {entry["name"]: entry for entry in run_by["env"]}[variable]
        assert reference["valueFrom"]["secretKeyRef"] == {"name": "pinnerformer-kv", "key": "url"}
    config = found["ConfigMap", "pinnerformer"]["data"]
    assert {f"/{name}" for name in config} == {job.root.url, job.logs, job.pins, job.model}
