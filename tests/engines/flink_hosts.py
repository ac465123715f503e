"""Flink between hosts of their own, with the names, ports and flags of deploy/kubernetes."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import redis

from engines.flink.artifacts import find_java, flink_home, job_server_jar
from engines.flink.configuration import flink_variables, memory_settings, write_configuration
from tests.engines import kubernetes
from tests.engines.hosts import Hosts
from tests.redis_server import find_server
from tests.s3_server import BUCKET

PASSWORD = "of the cluster"
STORE_PORTS = (6379, 6380, 6381)
S3_PORT = 9000
REST_PORT = 8081
PATIENCE_S = float(os.environ.get("PATIENCE_S", "300"))  # more where the machine has other work
# For minutes of work on two cores; temporary files where a host may write, as TMPDIR says to other programs.
JAVA = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Djava.io.tmpdir=/mnt/tmp"}
PATHS = {"S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"}  # moto else takes a dotted host for BUCKET.DOMAIN
# The services of Kubernetes, and the two that it only knows the addresses of, by the hosts that play them here.
ALIASES = {
    "pinnerformer-flink": "jobs",
    "pinnerformer-flink-rest": "jobs",
    "pinnerformer-job-server": "jobs",
    "redis.internal": "stores",
    "s3.internal": "stores",
}
# What is smaller here than there: a machine of two cores plays six.
SMALL = {
    "restart-strategy.exponential-delay.initial-backoff": "2 s",  # above --environment_cache_millis, as there
    "heartbeat.interval": "2000",
    "heartbeat.timeout": os.environ.get("HEARTBEAT_MS", "15000"),
    "restart-strategy.exponential-delay.attempts-before-reset-backoff": "3",
}


def in_own_folder(word: str) -> str:
    """A flag of a pod whose volume is mounted at /tmp, as it is for a host: its own folder is at /mnt."""
    return word.replace("=/tmp/", "=/mnt/tmp/")


class FlinkHosts:
    """A context manager: inside it, the cluster runs, and this thread is on the host `watch`.

    Args:
        folder: Of the hosts.
        task_managers: How many hosts have a TaskManager and a worker pool.
        slots: Of each TaskManager.
    """

    def __init__(self, folder: str, task_managers: int = 3, slots: int = 1, settings: Mapping[str, str] | None = None):
        self.task_managers = [f"tasks{number}" for number in range(1, task_managers + 1)]
        self.hosts = Hosts(folder, ["jobs", *self.task_managers, "launcher", "stores", "watch"], ALIASES)
        self.slots = slots
        self._settings = {**SMALL, **(settings or {})}
        self._minor = "1.20"
        self._seen = self.hosts.seen_from("watch")
        self.rest = f"http://{self.hosts.addresses['jobs']}:{REST_PORT}"
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://s3.internal:{S3_PORT}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "never shown",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "KV_URL": f"redis+cluster://:{PASSWORD.replace(' ', '%20')}@redis.internal:{STORE_PORTS[0]}",
            "OMP_NUM_THREADS": "1",
        }
        self.url = f"s3://{BUCKET}"

    def __enter__(self) -> "FlinkHosts":
        java, home, jar = find_java(), flink_home(self._minor), job_server_jar(self._minor)
        self.hosts.__enter__()
        try:
            self._seen.__enter__()
            self._start_stores()
            self._start_flink(java, home, jar)
            self._await_stores()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exc: Any) -> None:
        self._seen.__exit__(None, None, None)
        self.hosts.__exit__()

    def _start_stores(self) -> None:
        self.start_s3("stores", S3_PORT)
        for port in STORE_PORTS:
            command = [find_server(), "--port", str(port), "--bind", "0.0.0.0", "--dir", "/mnt/tmp", "--save", ""]
            command += ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--cluster-enabled", "yes"]
            command += ["--cluster-config-file", f"nodes-{port}.conf", "--cluster-node-timeout", "5000"]
            self.hosts.start("stores", f"redis-{port}", command, {})

    def start_s3(self, host: str, port: int) -> None:
        """Starts an S3 endpoint that has one empty bucket."""
        command = [sys.executable, "-m", "tests.s3_server", "0.0.0.0", str(port), BUCKET]
        self.hosts.start(host, f"s3-{port}", command, {**self.variables, **PATHS})
        url = f"http://{self.hosts.addresses[host]}:{port}/{BUCKET}"
        self.wait(lambda: _answers(lambda: urllib.request.urlopen(url, timeout=30).status == 200), "S3")

    def _node(self, port: int) -> redis.Redis:
        return redis.Redis(host=self.hosts.addresses["stores"], port=port, password=PASSWORD)

    def _await_stores(self) -> None:
        edges = [16384 * number // 3 for number in range(4)]
        for port, first, end in zip(STORE_PORTS, edges[:-1], edges[1:], strict=True):
            with self._node(port) as node:
                self.wait(lambda node=node: _answers(node.ping), f"Redis at {port}")
                node.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
                for other in STORE_PORTS:
                    node.execute_command("CLUSTER", "MEET", self.hosts.addresses["stores"], other)
        for port in STORE_PORTS:
            with self._node(port) as node:
                self.wait(lambda node=node: node.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "Redis")

    def _start_flink(self, java: str, home: str, jar: str) -> None:
        for host in ("jobs", *self.task_managers):
            folder = f"{self.hosts.folder}/{host}"
            settings = {
                **kubernetes.flink_configuration(),
                **memory_settings(self.slots, 256),
                "jobmanager.rpc.address": "pinnerformer-flink",
                "jobmanager.bind-host": "0.0.0.0",
                "taskmanager.host": self.hosts.addresses[host],
                "taskmanager.bind-host": "0.0.0.0",
                "taskmanager.numberOfTaskSlots": self.slots,
                "rest.address": "pinnerformer-flink-rest",
                "rest.bind-address": "0.0.0.0",
                "rest.port": REST_PORT,
                **self._settings,
            }
            write_configuration(folder, "/mnt", home, jar, settings)
        self._flink = flink_variables("/mnt", java), home
        self.start_flink("jobs", "jobmanager")
        command = [java, "-Xmx256m", "-jar", jar, "--flink-conf-dir=/mnt/conf"]
        self.hosts.start(
            "jobs", "job-server", [*command, *(in_own_folder(word) for word in kubernetes.job_server())], JAVA
        )
        # One after the other: six virtual machines that start at once on two busy cores miss each other's time-outs.
        self.wait(lambda: _answers(lambda: self.get("/v1/overview")), "JobManager")
        for number, host in enumerate(self.task_managers, 1):
            self.start_flink(host, "taskmanager")
            self.wait(lambda number=number: self.free_slots() >= self.slots * number, "free slots")
        for host in self.task_managers:
            self.start_pool(host)

    def start_flink(self, host: str, role: str) -> None:
        """Starts a JobManager or a TaskManager."""
        variables, home = self._flink
        self.hosts.start(host, role, [f"{home}/bin/{role}.sh", "start-foreground"], {**JAVA, **variables})

    def start_pool(self, host: str, more: Mapping[str, str] | None = None) -> None:
        """Starts a host's worker pool; `more` are variables that it alone has."""
        self.hosts.start(host, "worker-pool", _ours(kubernetes.worker_pool()), {**self.variables, **(more or {})})
        self.wait(lambda: self._said(host, "worker-pool").endswith("50000\n"), "worker pool")

    def launch(
        self, flags: list[str], more: Mapping[str, str] | None = None, command: str = "daily"
    ) -> subprocess.Popen:
        """Starts a job on the launcher's host, as the CronJob does, with these flags of the overlay's."""
        words = [command if word == "daily" else word for word in kubernetes.daily()]
        number = self.slots * len(self.task_managers)
        slots = [f"--parallelism={number}", f"--sdk_worker_parallelism={self.slots}"]
        return self.start_command([*words, *slots, *flags], more)

    def start_command(self, words: list[str], more: Mapping[str, str] | None = None) -> subprocess.Popen:
        """Starts a command of ours on the launcher's host."""
        return subprocess.Popen(
            self.hosts.command("launcher", _ours(words)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.hosts.environment({**self.variables, **(more or {})}),
        )

    def jobs(self) -> dict[str, str]:
        """Job id -> state, oldest first."""
        found = self.get("/v1/jobs/overview")["jobs"]
        return {job["jid"]: job["state"] for job in sorted(found, key=lambda job: job["start-time"])}

    def get(self, path: str) -> Any:
        """What Flink's REST interface says at a path."""
        with urllib.request.urlopen(f"{self.rest}{path}", timeout=30) as answer:
            return json.load(answer)

    def free_slots(self) -> int:
        """Slots that no job has; 0 as long as Flink does not say."""
        try:
            return self.get("/v1/overview")["slots-available"]
        except (OSError, ValueError):
            return 0

    def _said(self, host: str, name: str) -> str:
        with open(self.hosts.log(host, name)) as file:
            return file.read()

    def wait(self, ready: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> None:
        """Returns when something is so.

        Raises:
            AssertionError: it is not in time, or a process ended.
        """
        end = time.monotonic() + seconds
        while not ready():
            assert not self.hosts.ended(), f"{self.hosts.ended()}: ended by itself"
            assert time.monotonic() < end, f"no {what} within {seconds:.0f} s; {self.hosts.folder}/logs"
            time.sleep(0.2)


def _answers(ask: Callable[[], Any]) -> bool:
    try:
        return bool(ask())
    except (OSError, redis.ConnectionError):
        return False


def _ours(words: list[str]) -> list[str]:
    """A command of ours with the `pinnerformer` of this environment."""
    assert words[0] == "pinnerformer"
    return [os.path.join(os.path.dirname(sys.executable), "pinnerformer"), *words[1:]]
