"""Processes that answer, forked from one that holds the index: they share its memory.

The one that holds it answers nothing. It opens a release when the root has it, before the store serves it, and forks
new processes then; the ones before accept no more connections, answer what they have, and end. So a new index is never
read by a process that somebody waits for, and it lies in memory once, however many answer.
"""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger(__name__)
DRAIN_S = 20.0  # for what is being answered when a process is told to end
AGAIN_S = 1.0  # before a process that died is started again
_PR_SET_PDEATHSIG = 1
_WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


class Leaving:
    """Once it is told to, asks whoever is answered to come back over another connection."""

    def __init__(self, app: ASGIApp):
        self._app, self.leaving = app, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self.leaving:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, closing if scope["type"] == "http" else send)


class Worker(uvicorn.Server):
    """One process that answers. SIGTERM: it answers what it has, and ends; SIGUSR1: likewise, and in no hurry."""

    def __init__(self, app: ASGIApp, ready: Callable[[], Any]):
        self._leaving = Leaving(app)
        super().__init__(
            uvicorn.Config(
                self._leaving,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=int(DRAIN_S),
                ws="none",
                server_header=False,
                lifespan="on",
            )
        )
        self._ready, self._until = ready, 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            self._loop.add_signal_handler(signal.SIGUSR1, self._leave)
            self._ready()

    def _leave(self) -> None:
        """Accepts nobody any more: the socket stays open in the processes that came after."""
        for server in self.servers:
            server.close()
        self._leaving.leaving = True
        self._until = self._loop.time() + DRAIN_S
        self._look()

    def _look(self) -> None:
        """Ends once every connection was answered over and closed, or nobody asked over it for long."""
        if not self.server_state.connections or self._loop.time() > self._until:
            self.should_exit = True
        else:
            self._loop.call_later(0.1, self._look)


class Workers:
    """Keeps a number of processes going.

    Args:
        count: How many.
        make_app: Called in each.
        listening: Inherited by all.
    """

    def __init__(self, count: int, make_app: Callable[[], ASGIApp], listening: socket.socket):
        self._count, self._make_app, self._listening = count, make_app, listening
        self._told = False
        self._current: list[int] = []
        self._leaving: list[int] = []

    def run(self, look: Callable[[], bool], every_s: float, started: Callable[[], None]) -> None:
        """Until SIGTERM or SIGINT.

        Args:
            look: Called now and then; whether what the processes were forked with is out of date.
            started: Called once, when all of them answer.
        """
        # Held back, and taken one by one: none comes between a look and a fork. Libraries have threads, though, that
        # hold nothing back: while this one looks or forks they get the signal, and without a handler it would end all.
        handlers = {number: signal.signal(number, self._tell) for number in (signal.SIGTERM, signal.SIGINT)}
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            self._current = self._fork()
            started()
            while True:
                found = signal.sigtimedwait(_WATCHED, every_s)
                if self._told or (found is not None and found.si_signo != signal.SIGCHLD):
                    break
                self._reap()
                if look():
                    self._exchange()
        finally:
            self._end()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _tell(self, number: int, frame: Any) -> None:
        """A signal came to another thread: it is looked at once this one is back from what it does."""
        self._told = True

    def _exchange(self) -> None:
        before, self._current = self._current, self._fork()
        for pid in before:
            os.kill(pid, signal.SIGUSR1)
        self._leaving += before

    def _fork(self) -> list[int]:
        return [self._fork_one() for _ in range(self._count)]

    def _fork_one(self) -> int:
        """Starts a process, and waits until it is ready."""
        gc.collect()
        gc.freeze()  # the collector would write to every page that is shared
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            self._be_worker(tell)
        os.close(tell)
        with os.fdopen(ready, "rb") as pipe:
            if not pipe.read(1):  # closed: it ended
                LOG.error("a process that answers ended before it was ready")
        return pid

    def _be_worker(self, tell: int) -> None:
        code = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # no process is left behind
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)

            def ready() -> None:
                os.write(tell, b"1")
                os.close(tell)

            Worker(self._make_app(), ready).run([self._listening])
            code = 0
        except BaseException as error:
            if not isinstance(error, (KeyboardInterrupt, SystemExit)):
                LOG.exception("a process that answers failed")
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Forgets processes that ended, and starts those again that nobody told to."""
        self._leaving = [pid for pid in self._leaving if not _has_ended(pid)]
        ended = [pid for pid in self._current if _has_ended(pid)]
        for pid in ended:
            LOG.error("process %d, which answered, ended; another is started", pid)
            time.sleep(AGAIN_S)
            self._current[self._current.index(pid)] = self._fork_one()

    def _end(self) -> None:
        left = self._current + self._leaving
        for pid in left:
            _send(pid, signal.SIGTERM)
        give_up = time.monotonic() + DRAIN_S + 5
        while left and time.monotonic() < give_up:
            left = [pid for pid in left if not _has_ended(pid)]
            time.sleep(0.02)
        for pid in left:
            _send(pid, signal.SIGKILL)
            _has_ended(pid, 0)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _has_ended(pid: int, flags: int = os.WNOHANG) -> bool:
    try:
        return os.waitpid(pid, flags)[0] == pid
    except ChildProcessError:
        return True
