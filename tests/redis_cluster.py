"""A real Redis Cluster of three primaries on loopback."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import redis

from tests.redis_server import find_server

BUS = 10_000  # a node talks to the others on its port plus this


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and whose bus ports are free too."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + BUS))
            found.append(port)
    return found


class Cluster:
    """Three nodes that can be stopped and started again one by one."""

    def __init__(self, folder: str, *flags: str):
        self.ports = free_ports(3)
        self._folder = folder
        self._flags = flags
        self._processes: dict[int, subprocess.Popen] = {}
        for port in self.ports:
            self.start(port)
        slots = 16384
        edges = [slots * n // 3 for n in range(4)]
        for port, first, end in zip(self.ports, edges[:-1], edges[1:], strict=True):
            with redis.Redis(port=port) as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
                for other in self.ports:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other)
        self.wait_until_whole()

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.ports[0]}"

    def start(self, port: int) -> None:
        """Starts a node; it takes its data and its slots up again."""
        folder = os.path.join(self._folder, str(port))
        os.makedirs(folder, exist_ok=True)
        command = [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        command += ["--appendonly", "yes", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *self._flags]
        with open(os.path.join(folder, "log"), "a") as output:
            self._processes[port] = subprocess.Popen(command, stdout=output, stderr=output)
        with redis.Redis(port=port) as client:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    return
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self, port: int) -> None:
        self._processes[port].send_signal(signal.SIGKILL)
        self._processes[port].wait()

    def wait_until_whole(self) -> None:
        """Waits until every node says that every slot is served."""
        deadline = time.monotonic() + 60
        for port in self.ports:
            with redis.Redis(port=port) as client:
                while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

    def empty(self) -> None:
        for port in self.ports:
            with redis.Redis(port=port) as client:
                client.flushall()

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_cluster(folder: str, *flags: str) -> Iterator[Cluster]:
    """Runs three nodes that share the slots evenly."""
    cluster = Cluster(folder, *flags)
    try:
        yield cluster
    finally:
        cluster.close()
