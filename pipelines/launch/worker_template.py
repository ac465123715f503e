"""A process that has imported, and loaded, what every worker needs, and forks workers from it.

A worker that starts as a program of its own imports torch and Beam again: seconds of CPU and hundreds of MB each. A
fork has them already, in the same memory. But what is forked must have no threads (a lock that another thread held
stays locked for ever), no device and no open store. So the template is made first, before this process starts any of
these, and waits.

    with WorkerTemplate() as template:
        template.load(model)                     # optional: then no worker reads it
        run_pipeline(..., runner=runner_of(template))

Where this process is past that point, the template is a program of its own: imported once, whatever the number of
workers. It ends with this process, and its workers end with it.
"""

import contextlib
import ctypes
import gc
import logging
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from typing import Any

from stores.errors import PinnerFormerError
from transforms.model import ModelReference

LOG = logging.getLogger(__name__)
PR_SET_PDEATHSIG = 1
OPENED = ("socket:", ".mdb")  # what descriptors of stores and engines end or begin with
LENGTH = struct.Struct("!I")


def count_threads() -> int:
    """Threads of this process, those of libraries among them; 0 where the system does not say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


# Libraries start some as they are imported (jemalloc, OpenBLAS), and see to forks themselves. Of later ones nobody
# knows.
THREADS_OF_IMPORTS = count_threads()


def why_not_forked() -> str | None:
    """Why this process must not be forked any more; None if it may."""
    if not count_threads():
        return "this system does not say what threads there are"
    if threading.active_count() > 1 or count_threads() > THREADS_OF_IMPORTS:
        return "threads have been started"
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if int(descriptor) > 2 and (target.startswith(OPENED) or target.endswith(OPENED)):
                return f"a store or a socket is open ({target})"
    torch = sys.modules.get("torch")
    return "a device is in use" if torch is not None and torch.cuda.is_initialized() else None


class WorkerTemplate:
    """This process's end of a template.

    Attributes:
        forked: Whether it was forked from this process, and is no program of its own.
    """

    def __init__(self) -> None:
        why = why_not_forked()  # before there is a socket of ours
        ours, theirs = socket.socketpair()
        self.forked = why is None
        if why is None:
            self._pid = os.fork()
            if not self._pid:
                ours.close()
                _end_process(lambda: serve(theirs))
        else:
            LOG.debug("the workers' template is a program of its own: %s", why)
            command = [sys.executable, "-c", f"from {__name__} import main; main()", str(theirs.fileno())]
            self._program = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=_with_path())
            self._pid = self._program.pid
        theirs.close()
        self._socket = ours

    def load(self, model: ModelReference) -> None:
        """Has the template read a model, which its workers then have; what is wrong with it they say themselves."""
        self._send(("load", model))

    def start(self, worker_id: str, control: str) -> int:
        """Starts a worker; returns the descriptor of a pipe that `wait_for` reads.

        Args:
            control: Where Beam's runner listens.
        """
        read, write = os.pipe()
        self._send(("start", worker_id, control), 2, write)
        os.close(write)
        return read

    def _send(self, message: tuple, *descriptors: int) -> None:
        data = pickle.dumps(message)
        data = LENGTH.pack(len(data)) + data
        try:
            sent = socket.send_fds(self._socket, [data], descriptors)
            self._socket.sendall(data[sent:])
        except OSError as error:
            raise RuntimeError(f"the process that starts workers has ended ({error})") from None

    def close(self) -> None:
        """Ends the template and every worker that it still has."""
        self._socket.close()
        if self.forked:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        else:
            self._program.wait()

    def __enter__(self) -> "WorkerTemplate":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def wait_for(pipe: int) -> None:
    """Waits for the end of a worker.

    Raises:
        RuntimeError: it did not end by itself, or not well.
    """
    with open(pipe, "rb") as file:
        said = file.read()
    if said != b"0":
        raise RuntimeError(f"a worker process ended with {said.decode() or 'no word'}")


def _with_path() -> dict[str, str]:
    """The environment of a Python process that finds the modules that this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def serve(requests: socket.socket) -> None:
    """The template itself: does what it is asked for until the other end is closed, then ends its workers."""
    # Ctrl-C is for the command, which ends the template; a terminal sends it to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    workers: dict[int, int] = {}  # process -> the pipe on which its end is said
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1024)
            _bury(workers)
        if requests.fileno() in ready:
            message, descriptors = _receive(requests)
            if message is None:
                break
            if message[0] == "load":
                _load(message[1])
            else:
                stderr, pipe = descriptors
                not_theirs = [requests.fileno(), woken, wake, pipe, *workers.values()]
                workers[_fork_worker(message[1], message[2], stderr, not_theirs)] = pipe
                os.close(stderr)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def _receive(requests: socket.socket) -> tuple[Any, list[int]]:
    """(message, descriptors); (None, []) at the end."""
    head, descriptors, _, _ = socket.recv_fds(requests, LENGTH.size, 2)
    if not head:
        return None, []
    (length,) = LENGTH.unpack(head)
    data = b""
    while len(data) < length:
        data += requests.recv(length - len(data))
    return pickle.loads(data), list(descriptors)


def _bury(workers: dict[int, int]) -> None:
    """Says of every worker that has ended how it did."""
    for worker, pipe in list(workers.items()):
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended:
            del workers[worker]
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(pipe)


def _load(model: ModelReference) -> None:
    # On a device a worker has to load for itself: what is on one does not survive a fork.
    with contextlib.suppress(PinnerFormerError):
        if model.device == "cpu":
            model.load()
            gc.freeze()


def _fork_worker(worker_id: str, control: str, stderr: int, not_theirs: list[int]) -> int:
    """Forks a worker; returns its process."""
    template = os.getpid()
    pid = os.fork()
    if not pid:
        _die_with(template)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(stderr, 2)
        os.dup2(stderr, 1)
        for descriptor in (*not_theirs, stderr):
            os.close(descriptor)
        _end_process(lambda: run_worker(worker_id, control))
    return pid


def run_worker(worker_id: str, control: str) -> None:
    """Runs one worker until the runner hangs up."""
    import pyarrow as pa
    import torch
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import FNAPI_RUNNER_CAPABILITIES
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    # There are as many processes as are to work at once: threads of theirs would wait for one another's cores.
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    SdkHarness(
        control,
        worker_id=worker_id,
        state_cache_size=100 << 20,  # what a worker of Beam's own has
        data_buffer_time_limit_ms=0,
        runner_capabilities=FNAPI_RUNNER_CAPABILITIES,
    ).run()


def _die_with(parent: int) -> None:
    """Lets the kernel kill this process when its parent ends, on Linux; elsewhere it ends as its channels break."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # too late for the kernel to tell
            os._exit(1)


def _end_process(work: Any) -> None:
    """Does something in a forked process and ends it, without what the program that was forked does at its end."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """A template that is a program of its own."""
    from pipelines.launch.lean_imports import import_job

    for name in ("pipelines.daily_inference", "pipelines.backfill"):
        import_job(name, beam_alone=True)
    serve(socket.socket(fileno=int(sys.argv[1])))
