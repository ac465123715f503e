"""A real Flink on this machine, without containers: JobManager, TaskManager, Beam's job server and worker pool."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

from engines.flink.artifacts import FLINK, find_java, flink_home, job_server_jar
from engines.flink.configuration import flink_variables, memory_settings, write_configuration
from stores.errors import PinnerFormerError, StoreError, UsageError

DESCRIPTION = """\
Starts a standalone Flink on the loopback interface, waits until it has slots, runs a command with the Beam flags that
point to it, and stops everything again: when the command is done, on Ctrl-C, and on failure.

Flink is taken from PyPI (apache-flink and apache-flink-libraries, unpacked and never installed) and the job server from
Maven Central, once; later starts take seconds. Without a command it prints the flags and waits for Ctrl-C.
"""

EPILOG = """\
example:
  python -m engines.flink.cluster --flink 1.20 --slots 2 -- pinnerformer daily --root ROOT --logs LOGS --pins PINS \\
    --model MODEL --date 2026-11-24 --kv lmdb:///var/lib/pinnerformer

The root, the logs, the vectors and the model must be where every worker sees them; here workers are processes of this
machine, so local paths will do.
"""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class FlinkCluster:
    """A context manager: inside it, the cluster runs.

    Attributes:
        rest: Base URL of Flink's REST interface.
        flags: What a Beam pipeline is started with to run here.
        folder: Logs, configuration and temporary files of the processes.

    Args:
        minor: Flink's version, a key of `engines.flink.artifacts.FLINK`.
        slots: Task slots, and Python worker processes.
        heap_mb: Java heap of the TaskManager; what it sorts lies in as much managed memory beside it.
        job_server: A job server jar of your own.
        folder: Default: a temporary one, removed if all went well.
        settings: Further lines of Flink's configuration.
    """

    def __init__(
        self,
        minor: str = "1.20",
        slots: int = 2,
        heap_mb: int = 512,
        job_server: str | None = None,
        folder: str | None = None,
        settings: dict[str, str] | None = None,
    ):
        self.minor, self.slots, self.heap_mb = minor, slots, heap_mb
        self._java = find_java()
        self._home = flink_home(minor)
        self._jar = job_server_jar(minor, job_server)
        self._kept = folder is not None
        self.folder = os.path.abspath(folder or tempfile.mkdtemp(prefix=f"flink-{minor}-"))
        self._settings = settings or {}
        self._processes: dict[str, subprocess.Popen] = {}
        self._ports = {name: free_port() for name in ("rpc", "rest", "job", "artifact", "pool")}
        self.rest = f"http://127.0.0.1:{self._ports['rest']}"
        self.flags = [
            "--runner=PortableRunner",
            f"--job_endpoint=127.0.0.1:{self._ports['job']}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{self._ports['pool']}",
            f"--sdk_worker_parallelism={slots}",
            # Workers outlive a stage by this, so that the next one finds them, and not the wait before a restart: one
            # that died would be found too.
            "--environment_cache_millis=1500",
            f"--parallelism={slots}",
        ]

    def __enter__(self) -> "FlinkCluster":
        try:
            self._configure()
            self._start("jobmanager", [f"{self._home}/bin/jobmanager.sh", "start-foreground"])
            self.start_task_manager()
            self._start(
                "worker-pool",
                [
                    sys.executable,
                    "-m",
                    "pipelines.cli",
                    "worker-pool",
                    "--config=none",
                    f"--port={self._ports['pool']}",
                ],
                # Every slot has a worker process of its own: together they use the machine's cores once.
                OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // self.slots)),
                PYTHONPATH=os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            )
            self._start(
                "job-server",
                [self._java, "-Xmx256m", "-jar", self._jar, f"--flink-master=127.0.0.1:{self._ports['rest']}"]
                + [f"--flink-conf-dir={self.folder}/conf", f"--artifacts-dir={self.folder}/artifacts"]
                + ["--job-host=127.0.0.1", f"--job-port={self._ports['job']}"]
                + [f"--artifact-port={self._ports['artifact']}", "--expansion-port=-1"],
            )
            self.wait_for_slots()
            for name in ("job", "pool"):
                self._wait(lambda name=name: _listens(self._ports[name]), f"the {name} port to open")
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for name in ("job-server", "worker-pool", "taskmanager", "jobmanager"):
            self.stop(name)
        if kind is None and not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self) -> None:
        os.makedirs(f"{self.folder}/artifacts", exist_ok=True)
        settings = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": self._ports["rpc"],
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": self.slots,
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self._ports["rest"],
            "parallelism.default": self.slots,
            **memory_settings(self.slots, self.heap_mb),
            # As deploy/kubernetes: what fails until the restart is one attempt.
            "restart-strategy.type": "exponential-delay",
            "restart-strategy.exponential-delay.attempts-before-reset-backoff": 5,
            "restart-strategy.exponential-delay.initial-backoff": "5 s",
            **self._settings,
        }
        write_configuration(self.folder, self.folder, self._home, self._jar, settings)

    def _start(self, name: str, command: list[str], **environment: str) -> None:
        # The kernel stops the process when we are gone, even if we were killed.
        tied = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        with open(f"{self.folder}/logs/{name}.out", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [*tied, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own: it is stopped whole, and Ctrl-C comes to us alone
                env={**os.environ, **flink_variables(self.folder, self._java), **environment},
            )

    def start_task_manager(self) -> None:
        """Starts the TaskManager; again, if it was stopped."""
        self._start("taskmanager", [f"{self._home}/bin/taskmanager.sh", "start-foreground"])

    def pid(self, name: str) -> int:
        """The process that leads one of the four that `stop` knows."""
        return self._processes[name].pid

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stops a process and everything it started: `jobmanager`, `taskmanager`, `worker-pool` or `job-server`."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def get(self, path: str) -> Any:
        """What Flink's REST interface says at a path such as `/v1/overview`."""
        with urllib.request.urlopen(f"{self.rest}{path}", timeout=10) as answer:
            return json.load(answer)

    def jobs(self) -> dict[str, str]:
        """Job id -> state, of every job that this cluster has seen, oldest first."""
        found = self.get("/v1/jobs/overview")["jobs"]
        return {job["jid"]: job["state"] for job in sorted(found, key=lambda job: job["start-time"])}

    def wait_for_slots(self) -> None:
        """Returns when every slot is free to be used."""
        self._wait(self._has_slots, f"{self.slots} free slots")

    def _has_slots(self) -> bool:
        try:
            return self.get("/v1/overview")["slots-available"] >= self.slots
        except (OSError, ValueError):
            return False

    def _wait(self, ready: Any, what: str, seconds: float = 180.0) -> None:
        end = time.monotonic() + seconds
        while not ready():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise StoreError(
                        f"{self.folder}/logs/{name}.out: {name} ended with code {process.returncode} at the start; "
                        "its last lines say why"
                    )
            if time.monotonic() > end:
                raise StoreError(f"{self.folder}/logs: no {what} within {seconds:.0f} s; look into the logs there")
            time.sleep(0.2)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(argv: list[str]) -> int:
    """Runs a command on a cluster of its own; returns the command's exit code."""
    argv, command = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(
        prog="python -m engines.flink.cluster",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--flink", choices=tuple(FLINK), default="1.20", help="version (default %(default)s)")
    parser.add_argument("--slots", type=int, default=2, help="and Python workers (default %(default)s)")
    parser.add_argument("--heap-mb", type=int, default=512, help="of the TaskManager (default %(default)s)")
    parser.add_argument("--job-server-jar", metavar="JAR", help="Beam's, of your own")
    parser.add_argument("--folder", metavar="DIR", help="for logs and temporary files; kept (default: a temporary one)")
    arguments = parser.parse_args(argv)
    if command and shutil.which(command[0]) is None:
        raise UsageError(f"{command[0]}: no such command; write it after --")
    cluster = FlinkCluster(
        arguments.flink, arguments.slots, arguments.heap_mb, arguments.job_server_jar, arguments.folder
    )
    with cluster:
        overview = cluster.get("/v1/overview")
        print(
            f"Flink {overview['flink-version']}, {overview['slots-total']} slots, {cluster.rest}, logs in "
            f"{cluster.folder}/logs",
            file=sys.stderr,
        )
        if not command:
            print(" ".join(cluster.flags), flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            return 0
        code = subprocess.run([*command, *cluster.flags]).returncode
        for job, state in cluster.jobs().items():
            print(f"job {job}: {state}", file=sys.stderr)
        return code


def main() -> int:
    """Runs the command line; errors become one line and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the cluster is stopped
    try:
        return run(sys.argv[1:])
    except PinnerFormerError as error:
        print(f"flink: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
