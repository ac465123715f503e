"""The manifests, against Kubernetes' own schemas and the commands' own parsers."""

import copy
import functools

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines.configuration.layers import resolve
from pipelines.configuration.parsers import configured_commands, parser_of
from pipelines.operations import gc, status
from pipelines.planning.daily_request import parse

FOLDER = "deploy/kubernetes/base"
OVERLAY = "deploy/kubernetes/overlays/example"
MOUNTED = "/etc/pinnerformer"
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
    "required": ["image", "flinkVersion", "mode", "serviceAccount", "jobManager", "taskManager"],
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string"},
        "flinkVersion": {"enum": ["v1_19", "v1_20", "v2_0", "v2_1", "v2_2"]},
        "serviceAccount": {"type": "string"},
        "mode": {"enum": ["native", "standalone"]},
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


def load(path: str) -> dict[tuple[str, str], dict]:
    """The documents of one file, by kind and name."""
    with open(path) as file:
        return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(file)}


@functools.cache
def kept() -> dict[tuple[str, str], dict]:
    with open(f"{FOLDER}/kustomization.yaml") as file:
        names = yaml.safe_load(file)["resources"]
    return {key: one for name in names for key, one in load(f"{FOLDER}/{name}").items()}


def documents() -> dict[tuple[str, str], dict]:
    """What the base holds, by kind and name."""
    return copy.deepcopy(kept())


def pod_of(found: dict[tuple[str, str], dict], name: str) -> dict:
    """The pod of a CronJob."""
    return found["CronJob", f"pinnerformer-{name}"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def places() -> dict[str, str]:
    """The variables that the overlay sets."""
    with open(f"{OVERLAY}/kustomization.yaml") as file:
        (made,) = yaml.safe_load(file)["configMapGenerator"]
    assert made["name"] == "pinnerformer-places"
    return dict(literal.split("=", 1) for literal in made["literals"])


def words_of(container: dict, environ: dict[str, str]) -> list[str]:
    """The whole command line of a container, flags of the file and of variables among them, from the command on."""
    program, command, *typed = [*container["command"], *container.get("args", [])]
    assert program == "pinnerformer" and f"--config={MOUNTED}/pinnerformer.yaml" in typed
    typed = [word.replace(MOUNTED, FOLDER) for word in typed]
    return resolve(command, lambda: parser_of(command), typed, configured_commands(), environ).words


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


def test_the_night_and_the_cluster_agree():
    found = documents()
    (container,) = pod_of(found, "daily")["containers"]
    environ = places()
    request = parse(words_of(container, environ))
    job, beam = request.night.job, request.night.job.beam.get_all_options()
    cluster = found["FlinkDeployment", "pinnerformer-flink"]["spec"]
    settings = cluster["flinkConfiguration"]
    slots = int(settings["taskmanager.numberOfTaskSlots"])
    assert int(beam["sdk_worker_parallelism"]) == slots
    # As many slots as the night asks for, in whole TaskManagers: native Flink makes them up to this number.
    assert beam["parallelism"] == int(settings["slotmanager.number-of-slots.max"]) == slots * 10
    assert settings["taskmanager.memory.task.off-heap.size"] == f"{256 * slots}m"
    assert settings["classloader.resolve-order"] == "parent-first" and int(beam["environment_cache_millis"]) == 1500
    (pool,) = cluster["taskManager"]["podTemplate"]["spec"]["containers"]
    host, port = beam["environment_config"].split(":")
    assert host == "localhost" and f"--port={port}" in pool["command"]
    served = {
        name: {p["port"] for p in one["spec"]["ports"]} for (kind, name), one in found.items() if kind == "Service"
    }
    for endpoint in (beam["job_endpoint"], beam["artifact_endpoint"]):
        host, port = endpoint.split(":")
        assert int(port) in served[host]
    assert request.target is not None
    variable = request.target.url.removeprefix("env:")
    for run_by in (container, pool):  # the launcher checks the store, a worker publishes
        reference = {entry["name"]: entry for entry in run_by["env"]}[variable]
        assert reference["valueFrom"]["secretKeyRef"] == {"name": "pinnerformer-kv", "key": "url"}
        assert {"secretRef": {"name": "pinnerformer-object-store", "optional": True}} in run_by["envFrom"]
    given = {name: environ[f"PINNERFORMER_{name}"] for name in ("ROOT", "LOGS", "PINS", "MODEL")}
    assert given == {"ROOT": job.root.url, "LOGS": job.logs, "PINS": job.pins, "MODEL": job.model}
    assert str(request.night.bootstrap_from) == environ["PINNERFORMER_BOOTSTRAP_FROM"]
    assert request.wait_s == 8 * 3600


def test_a_variable_names_another_day():
    """As deploy/README.md does for the first nights."""
    (container,) = pod_of(documents(), "daily")["containers"]
    request = parse(words_of(container, places() | {"PINNERFORMER_DAILY_DATE": "2026-11-03"}))
    assert str(request.night.date) == "2026-11-03"


def test_the_job_server_is_where_the_night_and_flink_look_for_it():
    found = documents()
    server = found["Deployment", "pinnerformer-job-server"]["spec"]["template"]
    (container,) = server["spec"]["containers"]
    flags = dict(word.removeprefix("--").split("=") for word in container["args"])
    service = found["Service", "pinnerformer-job-server"]["spec"]
    assert service["selector"].items() <= server["metadata"]["labels"].items()
    assert {int(flags["job-port"]), int(flags["artifact-port"])} == {one["port"] for one in service["ports"]}
    assert {one["containerPort"] for one in container["ports"]} == {one["port"] for one in service["ports"]}
    # The operator calls the REST service so.
    assert flags["flink-master"] == f"{found_name(found, 'FlinkDeployment')}-rest:8081"
    assert container["image"] == found["FlinkDeployment", "pinnerformer-flink"]["spec"]["image"]


def found_name(found: dict[tuple[str, str], dict], kind: str) -> str:
    (name,) = [name for of, name in found if of == kind]
    return name


def test_the_watcher_and_the_sweeper_name_the_root_and_the_store():
    found, environ = documents(), places()
    for name, parse_words in (("status", status.parse), ("gc", gc.parse)):
        (container,) = pod_of(found, name)["containers"]
        words = words_of(container, environ)
        assert {f"--root={environ['PINNERFORMER_ROOT']}", "--kv=env:KV_URL"} <= set(words)
        assert {entry["name"] for entry in container["env"]} == {"KV_URL"}
        parse_words(words)
    assert "--max-age=30h" in words_of(*pod_of(found, "status")["containers"], environ)
    # An alarm that is tried again until it is quiet is none.
    assert found["CronJob", "pinnerformer-status"]["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_every_account_that_a_pod_has_is_made_and_flinks_may_make_pods():
    found = documents()
    accounts = {name for kind, name in found if kind == "ServiceAccount"}
    named = {pod_of(found, name)["serviceAccountName"] for name in ("daily", "status", "gc")}
    named.add(found["Deployment", "pinnerformer-job-server"]["spec"]["template"]["spec"]["serviceAccountName"])
    flink = found["FlinkDeployment", "pinnerformer-flink"]["spec"]["serviceAccount"]
    assert named | {flink} == accounts
    binding, role = found["RoleBinding", flink], found["Role", flink]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": flink}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    may = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert {("pods", "create"), ("pods", "delete"), ("configmaps", "create"), ("deployments", "get")} <= may


def test_no_container_of_ours_is_root_or_writes_to_its_image():
    found = documents()
    containers = [one for name in ("daily", "status", "gc") for one in pod_of(found, name)["containers"]]
    containers += found["Deployment", "pinnerformer-job-server"]["spec"]["template"]["spec"]["containers"]
    spec = found["FlinkDeployment", "pinnerformer-flink"]["spec"]["taskManager"]["podTemplate"]["spec"]
    for container in containers + spec["containers"]:
        context = container["securityContext"]
        assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"], container["name"]
        assert not context["allowPrivilegeEscalation"] and context["capabilities"] == {"drop": ["ALL"]}
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["resources"]["limits"]["memory"] and ":latest" not in container["image"]
