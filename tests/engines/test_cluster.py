"""The nightly job between hosts that share nothing but an object store: links fall, workers die, hosts differ.

JobManager and job server on one host, three TaskManagers with their worker pools on three, the launcher on a fifth, S3
and a Redis Cluster on a sixth. Names, ports and flags are those of deploy/kubernetes.
"""

import contextlib
import glob
import os
import shutil
import subprocess
import threading
import time

import psutil
import pytest
import torch
from pyarrow import fs

from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.kv import open_store
from stores.manifests import Manifest
from stores.releases import chain, read_current
from tests.engines import nights
from tests.engines.flink_hosts import BUCKET, PATIENCE_S, S3_PORT, FlinkHosts
from tests.engines.hosts import why_not
from tests.worlds import day, make_rows, write_file, write_model

LONGEST_S = 3 * PATIENCE_S
pytestmark = pytest.mark.timeout(LONGEST_S)
FIRST_NIGHT = [*nights.NIGHTS[0][1], f"--date={day(0)}"]
FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    assert not why_not(), why_not()
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch, FlinkHosts(str(tmp_path_factory.mktemp("hosts"))) as cluster:
        for name, value in cluster.variables.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{cluster.hosts.addresses['stores']}:{S3_PORT}")
        patch.setenv("PINNERFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        print(f"\nhosts and Flink after {time.monotonic() - started:.0f} s; logs in {cluster.hosts.folder}/logs")
        yield cluster
        print("\njobs as Flink's REST interface last had them:")
        for job, state in cluster.jobs().items():
            print(f"  {job} {state}")


class World:
    """Days of logs, vectors and two models in a local folder, the in-process releases of them, and a copy on S3."""

    def __init__(self, folder: str, cluster: FlinkHosts):
        torch.set_num_threads(1)  # initial weights are equal to the last bit by equal threads
        self.folder, self.url, self._cluster = folder, f"{cluster.url}/world", cluster
        nights.make_world(folder)
        write_file(f"{folder}/logs", 3, make_rows(3, nights.ROWS, nights.USERS, nights.PINS, seed=8))
        write_model(f"{folder}/other-model", seed=2)
        self.copy("")
        self.root = f"{folder}/root"
        self.backfilled = nights.run_backfill(f"{folder}/backfill", f"{folder}/backfill/root", [])

    def copy(self, below: str) -> None:
        """Copies a file, or all files of a folder, to S3."""
        system = fs.S3FileSystem(
            endpoint_override=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"), scheme="http"
        )
        source, target = (f"{place}/{below}".rstrip("/") for place in (self.folder, f"{BUCKET}/world"))
        fs.copy_files(source, target, destination_filesystem=system)

    def inputs(self, place: str, model: str) -> list[str]:
        return [f"--logs={place}/logs", f"--pins={place}/pins", f"--model={place}/{model}"]

    def night(self, number: int, flags: list[str], model: str = "model") -> Manifest:
        """A night in this process, on local files."""
        more = [f"--root={self.root}", f"--date={day(number)}", "--publish=none", "--quiet"]
        assert main(["daily", *self.inputs(self.folder, model), *more, *flags]) == 0
        return read_current(Root(self.root))

    def launch(self, root: str, flags: list[str], model: str = "model", more: dict[str, str] | None = None):
        """The same on the cluster, on S3."""
        where = [f"--root={self._cluster.url}/{root}", f"--namespace={root}"]
        return self._cluster.launch([*where, *self.inputs(self.url, model), "--quiet", *flags], more)


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory) -> World:
    return World(str(tmp_path_factory.mktemp("world")), cluster)


@pytest.fixture(scope="module")
def first(world) -> Manifest:
    """The first night in this process, on which others build."""
    return world.night(0, FIRST_NIGHT[:-1])


def finish(command: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """What a command said on stdout and stderr."""
    out, error = command.communicate(timeout=LONGEST_S - 60)
    assert command.returncode == code, f"exit code {command.returncode}: {error[-3000:]}"
    return out, error


def compare(cluster: FlinkHosts, world: World, name: str, want: Manifest) -> None:
    """A root's newest release and what the store serves of it, with the in-process release."""
    url = f"{cluster.url}/{name}"
    found = read_current(Root(url))
    assert found is not None and found.release == want.release
    nights.assert_same_release(url, found, world.root, want)
    made = nights.read_table(url, found, "user_embeddings")
    kv = cluster.variables["KV_URL"].replace("redis.internal", cluster.hosts.addresses["stores"])
    with EmbeddingClient(kv, namespace=name) as client, open_store(kv, name) as store:
        vectors, _, there = client.get_many(made["user_id"].to_numpy())
        assert there.all() and [vector.tobytes() for vector in vectors] == made["embedding"].to_pylist()
        assert store.count(client.current.generation) == made.num_rows  # and nothing else


def left_of(cluster: FlinkHosts, name: str) -> list[str]:
    """What checks of workers left in the folders of runs."""
    root = Root(f"{cluster.url}/{name}")
    return [path for run in root.list("staging") for path in root.list(f"staging/{run}") if path.startswith("clock-")]


def say_bytes(cluster: FlinkHosts, before: dict[str, tuple[int, int]], job: str, what: str) -> None:
    """Prints what each host sent and received meanwhile, and what each exchange of a job wrote."""
    for host, (sent, received) in before.items():
        now = cluster.hosts.bytes_of(host)
        print(f"{what}: {host} sent {(now[0] - sent) / 1e6:.2f} MB, received {(now[1] - received) / 1e6:.2f} MB")
    for vertex in cluster.get(f"/v1/jobs/{job}")["vertices"]:
        print(f"  {vertex['metrics']['write-bytes'] / 1e6:8.3f} MB {vertex['name'][:90]}")


def test_three_nights_and_another_model_equal_the_in_process_ones(cluster, world, first):
    expected, flags, model = first, FIRST_NIGHT, "model"
    for number in range(4):
        if number:
            flags = [f"--date={day(number)}", *(nights.NIGHTS[number][1] if number < 3 else [])]
            if number == 2:
                late = make_rows(1, 50, nights.USERS, nights.PINS, seed=9)
                write_file(f"{world.folder}/logs", 1, late, "late.parquet")
                world.copy(f"logs/ds={day(1)}/late.parquet")
            model = "other-model" if number == 3 else "model"
            expected = world.night(number, flags[1:], model)
        before = {host: cluster.hosts.bytes_of(host) for host in cluster.hosts.names}
        started = time.monotonic()
        finish(world.launch("nights", flags, model))
        job, state = list(cluster.jobs().items())[-1]
        print(f"\nnight {number}: {time.monotonic() - started:.0f} s, {state}")
        say_bytes(cluster, before, job, f"night {number}")
        compare(cluster, world, "nights", expected)
        assert state == "FINISHED" and left_of(cluster, "nights") == []


def test_a_backfill_equals_the_in_process_one(cluster, world):
    url = f"{cluster.url}/filled"
    place = f"{cluster.url}/fill"
    system = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"), scheme="http")
    for name in ("logs", "pins", "model"):
        fs.copy_files(f"{world.folder}/backfill/{name}", f"{BUCKET}/fill/{name}", destination_filesystem=system)
    dates = [f"--start={day(0)}", f"--end={day(2)}", *nights.NIGHTS[0][1], "--days-per-pass=2", "--publish=none"]
    flags = [f"--root={url}", *world.inputs(place, "model"), *dates, "--quiet"]
    finish(cluster.launch(flags, command="backfill"))
    found = list(chain(Root(url)))[::-1]
    for one, want in zip(found, world.backfilled, strict=True):
        nights.assert_same_release(url, one, f"{world.folder}/backfill/root", want)


class Watcher:
    """The states that a job went through, as far as they were seen."""

    def __init__(self, cluster: FlinkHosts):
        self.states: list[str] = []
        self._cluster, self._before, self._stop = cluster, set(cluster.jobs()), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            with contextlib.suppress(OSError, ValueError):  # a busy JobManager answers the next time
                for job, state in self._cluster.jobs().items():
                    if job not in self._before and self.states[-1:] != [state]:
                        self.states.append(state)

    def restarts(self) -> int:
        return self.states.count("RESTARTING")


def progress_of(cluster: FlinkHosts, host: str) -> int:
    """Bytes that workers of a host have noted of their progress."""
    found = glob.glob(f"{cluster.hosts.folder}/{host}/cache/folders/*/*.jsonl")
    return sum(os.path.getsize(path) for path in found)


def kill_a_worker(cluster: FlinkHosts, host: str) -> bool:
    """Kills one of a host's workers, which are forked by a child of its pool; whether there was one."""
    children = psutil.Process(cluster.hosts.pid(host, "worker-pool")).children()
    workers = [worker for child in children for worker in child.children()]
    for worker in workers[:1]:
        worker.kill()
    return bool(workers)


def test_a_worker_that_dies_and_a_link_that_falls_cost_restarts_and_no_row(cluster, world, first):
    first_host, second_host, _ = cluster.task_managers
    before = {host: progress_of(cluster, host) for host in cluster.task_managers}
    with Watcher(cluster) as watcher:
        command = world.launch("cut", FIRST_NIGHT)
        cluster.wait(lambda: progress_of(cluster, second_host) > before[second_host], "progress")
        cluster.wait(lambda: kill_a_worker(cluster, second_host), "a worker to kill")
        cluster.wait(lambda: watcher.restarts() and watcher.states[-1] == "RUNNING", "restart")
        reached = progress_of(cluster, first_host)
        cluster.wait(lambda: progress_of(cluster, first_host) > reached, "progress after it")
        cluster.hosts.link(first_host, "down")
        try:
            # Until the JobManager has missed it, and its tasks are given up on; what its workers go on with is written
            # when the link is back, beside the second try.
            cluster.wait(lambda: watcher.restarts() >= 2 or command.poll() is not None, "second restart")
        finally:
            cluster.hosts.link(first_host, "up")
        finish(command)
    print(f"\nstates of the job: {' -> '.join(watcher.states)}")
    assert watcher.restarts() >= 2 and watcher.states[-1] == "FINISHED"
    compare(cluster, world, "cut", first)


def test_a_launcher_that_is_cut_off_after_it_submitted_costs_nothing(cluster, world, first):
    before = set(cluster.jobs())
    run = finish(world.launch("detached", [*FIRST_NIGHT, "--detach"]))[0].strip()
    cluster.hosts.link("launcher", "down")
    try:
        cluster.wait(
            lambda: {s for j, s in cluster.jobs().items() if j not in before} == {"FINISHED"}, "end of the job"
        )
    finally:
        cluster.hosts.link("launcher", "up")
    words = ["release", f"--root={cluster.url}/detached", f"--run={run}", "--kv=env:KV_URL", "--namespace=detached"]
    finish(cluster.start_command(["pinnerformer", *words]))
    compare(cluster, world, "detached", first)


def other_code(cluster: FlinkHosts, host: str) -> dict[str, str]:
    """A checkout in which one comment is another."""
    folder = f"{cluster.hosts.folder}/{host}/other"
    for name in ("pinnerformer_model", "stores", "transforms", "pipelines"):
        shutil.copytree(name, f"{folder}/{name}", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("pinnerformer.py", folder)
    with open(f"{folder}/transforms/run.py", "a") as file:
        file.write("# of another version\n")
    return {"PYTHONPATH": "/mnt/other"}


def other_clock(cluster: FlinkHosts, host: str) -> dict[str, str]:
    found = glob.glob(FAKETIME)
    if not found:
        pytest.skip("no libfaketime: apt-get install faketime")
    return {"LD_PRELOAD": found[0], "FAKETIME": "-60s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def other_root(cluster: FlinkHosts, host: str) -> dict[str, str]:
    """A second object store, with a bucket of the same name."""
    port = S3_PORT + 1
    cluster.start_s3("stores", port)
    return {"AWS_ENDPOINT_URL": f"http://s3.internal:{port}"}


def no_model(cluster: FlinkHosts, host: str) -> dict[str, str]:
    return {}


def loopback_name(cluster: FlinkHosts, host: str) -> dict[str, str]:
    cluster.hosts.write_names(host, {"redis.internal": "127.0.0.1"})
    return {}


@pytest.mark.parametrize(
    ("differs", "words"),
    [
        (other_code, "the worker pool of {host} has another version than the launcher: pinnerformer "),
        (other_clock, " s behind the launcher's, both beside the one that dates the files of"),
        (other_root, "/token: not there on worker {host}: it does not see the launcher's --root"),
        (no_model, "/mnt/model/config.json: not there on worker {host}: it does not see the launcher's --model"),
        (loopback_name, "redis.internal: 127.0.0.1 on worker {host}: this host takes the name for itself"),
    ],
)
def test_a_host_that_differs_is_refused_before_work(cluster, world, differs, words):
    host, name, model = cluster.task_managers[-1], differs.__name__.replace("_", "-"), []
    if differs is no_model:
        model = ["--model=/mnt/model"]
        for other in ("launcher", *cluster.task_managers[:-1]):
            shutil.copytree(f"{world.folder}/model", f"{cluster.hosts.folder}/{other}/model")
    cluster.wait(lambda: cluster.free_slots() == 3, "free slots")
    cluster.hosts.stop(host, "worker-pool")
    try:
        cluster.start_pool(host, differs(cluster, host))
        error = finish(world.launch(name, [*FIRST_NIGHT, *model]), 1)[1]
    finally:
        cluster.hosts.stop(host, "worker-pool")
        cluster.hosts.write_names(host)
        cluster.start_pool(host)
    assert words.format(host=host) in error
    print(f"\n{error.strip()}")
    assert read_current(Root(f"{cluster.url}/{name}")) is None and left_of(cluster, name) == []
