"""The job as engines see it: through Beam's job service, by worker processes that share nothing with the launcher."""

import contextlib
import os
import subprocess
import sys

from engines.flink.cluster import free_port
from pipelines.cli import main
from stores.files import Root
from tests.engines.nights import assert_same_release, make_world, run_night
from tests.worlds import FIRST, day


@contextlib.contextmanager
def pool(*prefix: str):
    """The flags of a worker pool in a process of its own; `prefix` is put before its command."""
    port = free_port()
    command = [*prefix, sys.executable, "-m", "pipelines.cli", "worker-pool", f"--port={port}"]
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
            _, said = process.communicate(timeout=20)
            assert process.returncode == 0, said


def test_a_night_through_the_job_service_equals_the_local_run(tmp_path):
    flags = [f"--bootstrap-from={FIRST}", "--history-length=40", "--user-buckets=5", "--pin-shards=3"]
    flags += ["--join=shuffle"]
    manifests, roots = [], []
    with pool() as engine:
        for name, beam_flags in (("engine", engine), ("local", [])):
            roots.append(str(tmp_path / name / "root"))
            manifests.append(run_night(make_world(str(tmp_path / name)), roots[-1], 0, flags, beam_flags))
    assert_same_release(roots[0], manifests[0], roots[1], manifests[1])
    assert Root(roots[0]).list("releases") == ["2026-11-01"]


def test_a_worker_that_does_not_see_the_root_says_so(tmp_path, capsys):
    """A pool in a mount namespace of its own, where another folder lies at the root's path."""
    inputs = make_world(str(tmp_path))
    root = tmp_path / "root"
    root.mkdir()
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{root}" && exec "$@"', "sh"]
    if os.geteuid():
        hide[1:2] = ["--map-root-user", "--mount"]
    with pool(*hide) as engine:
        flags = [f"--root={root}", *inputs, f"--date={day(0)}", f"--bootstrap-from={FIRST}", "--publish=none"]
        assert main(["daily", *flags, "--quiet", *engine]) == 1
    said = capsys.readouterr().err
    assert "/token: not there on worker" in said and "mount the folder at the same path on every worker" in said
    assert Root(str(root)).list("releases") == []
