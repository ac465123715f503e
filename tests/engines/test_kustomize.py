"""The overlay as kustomize itself renders it: `make test-kubernetes` builds kustomize and says where it is."""

import os
import shutil
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines.planning.daily_request import parse
from tests.deploy.test_kubernetes import OVERLAY, VERSION, documents, places, pod_of, words_of
from tests.engines.test_flink_operator import schema  # noqa: F401

KUSTOMIZE = os.path.abspath(os.environ.get("KUSTOMIZE", ".cache/bin/kustomize"))


def build(folder: str) -> dict[tuple[str, str], dict]:
    """What kustomize makes of a folder, by kind and name."""
    done = subprocess.run([KUSTOMIZE, "build", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}


@pytest.fixture(scope="module")
def rendered():
    return build(OVERLAY)


def test_kubernetes_and_the_operator_take_what_it_renders(rendered, schema):  # noqa: F811
    for (kind, _), one in rendered.items():
        if kind == "FlinkDeployment":
            jsonschema.validate(one["spec"], schema)
        else:
            kubernetes_validate.validate(one, VERSION, strict=True)
        assert one["metadata"]["namespace"] == "pinnerformer"


def test_nothing_of_the_base_is_lost_on_the_way(rendered):
    base = documents()
    assert {key for key in rendered if key[0] != "ConfigMap"} == set(base)
    pools = []
    for found in (rendered, base):
        spec = found["FlinkDeployment", "pinnerformer-flink"]["spec"]["taskManager"]["podTemplate"]["spec"]
        pools += [{**container, "resources": 0} for container in spec["containers"]]
    assert len(pools) == 2 and pools[0] == pools[1]


def test_every_config_map_that_a_pod_names_is_there(rendered):
    made = {name for kind, name in rendered if kind == "ConfigMap"}
    for name in ("daily", "status", "gc"):
        pod = pod_of(rendered, name)
        named = {one["configMapRef"]["name"] for one in pod["containers"][0]["envFrom"] if "configMapRef" in one}
        named |= {one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one}
        assert len(named) == 2 and named <= made


def test_sizes_of_night_and_cluster_still_agree(rendered):
    (container,) = pod_of(rendered, "daily")["containers"]
    beam = parse(words_of(container, places())).night.job.beam.get_all_options()
    settings = rendered["FlinkDeployment", "pinnerformer-flink"]["spec"]["flinkConfiguration"]
    assert beam["parallelism"] == int(settings["slotmanager.number-of-slots.max"]) == 8
    assert int(beam["sdk_worker_parallelism"]) == int(settings["taskmanager.numberOfTaskSlots"]) == 4


def test_images_of_another_registry_reach_every_container(tmp_path):
    folder = shutil.copytree("deploy/kubernetes", tmp_path / "kubernetes") / "overlays" / "example"
    path = folder / "kustomization.yaml"
    path.write_text(path.read_text().replace("newName: registry.example.com", "newName: eu.example.org/team"))
    found = build(str(folder))
    spec = found["FlinkDeployment", "pinnerformer-flink"]["spec"]
    server = found["Deployment", "pinnerformer-job-server"]["spec"]["template"]["spec"]
    pods = [pod_of(found, name) for name in ("daily", "status", "gc")]
    pods += [server, spec["taskManager"]["podTemplate"]["spec"]]
    images = [spec["image"], *(container["image"] for pod in pods for container in pod["containers"])]
    assert len(images) == 6 and all(image.startswith("eu.example.org/team/pinnerformer") for image in images)
