"""The daily job on a real Flink: started here from its own packages, without containers."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from benchmarks.flink_grouping import group_chunks
from engines.flink.cluster import FlinkCluster
from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.releases import read_current
from tests.engines.nights import assert_same_release, make_world, read_table, run_backfill, run_night, run_nights
from tests.worlds import FIRST, day, make_vectors, write_vectors

MINOR = os.environ.get("FLINK_VERSION", "1.20")
pytestmark = pytest.mark.timeout(540)


@pytest.fixture(scope="module")
def flink():
    attempts = {"restart-strategy.exponential-delay.attempts-before-reset-backoff": "2"}
    with FlinkCluster(MINOR, slots=2, settings=attempts) as cluster:
        overview = cluster.get("/v1/overview")
        print(f"\nFlink {overview['flink-version']}: {overview['slots-total']} slots at {cluster.rest}")
        yield cluster
        print("\njobs as Flink's REST interface last had them:")
        for job, state in cluster.jobs().items():
            print(f"  {job} {state}")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    return str(folder / "root"), run_nights(str(folder), str(folder / "root"), [])


def test_three_nights_equal_the_local_run(flink, local, tmp_path):
    before = len(flink.jobs())
    manifests = run_nights(str(tmp_path), str(tmp_path / "root"), flink.flags)
    local_root, expected = local
    for found, want in zip(manifests, expected, strict=True):
        assert_same_release(str(tmp_path / "root"), found, local_root, want)
    assert list(flink.jobs().values())[before:] == ["FINISHED"] * 3


def test_a_backfill_equals_the_local_one(flink, tmp_path):
    before = len(flink.jobs())
    local_root, root = str(tmp_path / "local"), str(tmp_path / "root")
    expected = run_backfill(str(tmp_path), local_root, [])
    for found, want in zip(run_backfill(str(tmp_path), root, flink.flags), expected, strict=True):
        assert_same_release(root, found, local_root, want)
    assert list(flink.jobs().values())[before:] == ["FINISHED"] * 2  # of two days and of one


@pytest.mark.skipif(MINOR == "2.2", reason="runs out of heap there, as docs/runners.md says")
def test_a_stage_may_put_out_more_than_beam_and_its_engine_keep_on_the_way(flink):
    group_chunks(flink.flags, number=50, keys=400)  # 400 MB a slot; they stood still forever from some 300 on


def kill_task_manager(flink):
    flink.stop("taskmanager", signal.SIGKILL)
    flink.start_task_manager()


def kill_a_worker(flink):
    """Of those that run; they are forked by a child of the pool."""
    workers = [worker for child in psutil.Process(flink.pid("worker-pool")).children() for worker in child.children()]
    workers[0].kill()


@pytest.mark.parametrize("kill", [kill_task_manager, kill_a_worker])
def test_what_is_killed_in_the_middle_costs_a_restart_and_no_row(kill, flink, local, tmp_path):
    inputs = make_world(str(tmp_path))
    root, kv = str(tmp_path / "root"), f"lmdb://{tmp_path}/kv"
    flags = [f"--root={root}", *inputs, f"--date={day(0)}", f"--bootstrap-from={FIRST}", f"--kv={kv}", "--quiet"]
    flags += ["--history-length=40", "--user-buckets=5", "--pin-shards=3"]
    before, states = set(flink.jobs()), []
    stop = threading.Event()

    def watch():
        while not stop.wait(0.05):
            for job, state in flink.jobs().items():
                if job not in before and (not states or states[-1] != state):
                    states.append(state)

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [sys.executable, "-m", "pipelines.cli", "daily", *flags, *flink.flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        try:
            wait_for_progress(root, "read_logs", job)
            kill(flink)
            error = job.communicate(timeout=240)[1]
        finally:
            job.kill()
            stop.set()
            watcher.join()
    print(f"\nstates of the job, {kill.__name__}: {' -> '.join(states)}")
    assert job.returncode == 0, error
    assert "RESTARTING" in states and states[-1] == "FINISHED"
    local_root, expected = local
    manifest = read_current(Root(root))
    assert_same_release(root, manifest, local_root, expected[0])
    made = read_table(root, manifest, "user_embeddings")
    with EmbeddingClient(kv) as client:
        vectors, _, found = client.get_many(made["user_id"].to_numpy())
    assert found.all() and [v.tobytes() for v in vectors] == made["embedding"].to_pylist()


def wait_for_progress(root: str, stage: str, job: subprocess.Popen) -> None:
    """Returns once some worker has noted a finished part of a stage."""
    while job.poll() is None:
        for folder, _, names in os.walk(f"{root}/staging"):
            for name in names:
                if name.endswith(".jsonl") and stage in open(os.path.join(folder, name)).read():
                    return
        time.sleep(0.05)
    raise AssertionError(f"the job ended before {stage}: {job.stderr and job.stderr.read()}")


def test_what_a_worker_could_not_read_is_named_and_nothing_is_released(flink, tmp_path, capsys):
    inputs = make_world(str(tmp_path))
    vectors = make_vectors(50)
    vectors[7][11] = float("nan")
    write_vectors(f"{tmp_path}/pins", vectors)
    flags = [f"--root={tmp_path}/root", *inputs, f"--date={day(0)}", f"--bootstrap-from={FIRST}"]
    assert main(["daily", *flags, "--publish=none", "--quiet", *flink.flags]) == 1
    said = capsys.readouterr().err
    assert "vectors.parquet: row" in said and "(pin_id 7): vector has NaN" in said
    assert read_current(Root(f"{tmp_path}/root")) is None
    run_night(make_world(str(tmp_path)), f"{tmp_path}/root", 0, [f"--bootstrap-from={FIRST}"], flink.flags)
