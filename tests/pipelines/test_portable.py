"""The job as engines see it: through Beam's job service, by worker processes that share nothing with the launcher."""

import subprocess
import sys

import pytest

from deploy.flink.cluster import free_port
from stores.files import Root
from tests.engines.nights import assert_same_release, make_world, run_night
from tests.worlds import FIRST


@pytest.fixture
def pool():
    """The flags of a worker pool in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "pipelines.cli", "worker-pool", f"--port={port}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert "worker pool on 127.0.0.1" in "".join(process.stderr.readline() for _ in range(1))
            yield [
                "--runner=PortableRunner",
                "--job_endpoint=embed",
                "--environment_type=EXTERNAL",
                f"--environment_config=127.0.0.1:{port}",
            ]
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_a_night_through_the_job_service_equals_the_local_run(pool, tmp_path):
    flags = [f"--bootstrap-from={FIRST}", "--history-length=40", "--user-buckets=5", "--pin-shards=3"]
    flags += ["--join=shuffle"]
    manifests, roots = [], []
    for name, engine in (("engine", pool), ("local", [])):
        roots.append(str(tmp_path / name / "root"))
        manifests.append(run_night(make_world(str(tmp_path / name)), roots[-1], 0, flags, engine))
    assert_same_release(roots[0], manifests[0], roots[1], manifests[1])
    assert Root(roots[0]).list("releases") == ["2026-11-01"]
