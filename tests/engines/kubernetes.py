"""What deploy/kubernetes says of Flink, its workers and the launcher, for hosts that are no pods."""

import glob
import os
from typing import Any

import yaml

BASE = "deploy/kubernetes/base"


def read(kind: str, name: str) -> dict[str, Any]:
    """The object of a kind and name in `deploy/kubernetes/base`."""
    for path in sorted(glob.glob(f"{BASE}/*.yaml")):
        with open(path) as file:
            for found in yaml.safe_load_all(file):
                if (found.get("kind"), found.get("metadata", {}).get("name")) == (kind, name):
                    return found
    raise AssertionError(f"{BASE}: no {kind} {name}")


def container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    """A container of a pod's spec."""
    (found,) = [one for one in pod["containers"] if one["name"] == name]
    return found


def flink_configuration() -> dict[str, str]:
    """Flink's configuration of the FlinkDeployment."""
    return read("FlinkDeployment", "pinnerformer-flink")["spec"]["flinkConfiguration"]


def worker_pool() -> list[str]:
    """The words that start a worker pool beside a TaskManager."""
    pod = read("FlinkDeployment", "pinnerformer-flink")["spec"]["taskManager"]["podTemplate"]["spec"]
    return container(pod, "worker-pool")["command"]


def job_server() -> list[str]:
    """The arguments of Beam's job server."""
    pod = read("Deployment", "pinnerformer-job-server")["spec"]["template"]["spec"]
    return container(pod, "job-server")["args"]


def daily() -> list[str]:
    """The words that start a night, but for those that say how many slots; its file of flags is named here."""
    job = read("CronJob", "pinnerformer-daily")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    file = os.path.abspath(f"{BASE}/pinnerformer.yaml")
    words = container(job, "daily")["command"]
    return [f"--config={file}" if word.startswith("--config=") else word for word in words]
