"""Several processes that train one model: started by `--processes`, or by torchrun."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO

import torch
import torch.distributed as dist

from pinnerformer_model.distributed import ALONE, Group
from pipelines.configuration.layers import without_flags

GRACE_S = 10.0  # in which the others may end by themselves once one has failed
LAUNCHER = "TRAIN_LAUNCHER_PID"  # what the ranks of `run_processes` know their parent by


def started_as_rank() -> bool:
    """Whether this process is one of several already."""
    return "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def join_group(device: str) -> Iterator[tuple[Group, str]]:
    """The processes that were started together, and the device of this one; alone where nobody started several."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if LAUNCHER in os.environ:
        end_with(int(os.environ[LAUNCHER]))
    if size == 1:
        yield ALONE, device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Group(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


def end_with(parent: int, every_s: float = 0.5) -> None:
    """Ends this process soon after its parent has gone: one that is killed outright has no time to end its ranks.

    Args:
        parent: Its process id.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_s)
        os.kill(os.getpid(), signal.SIGKILL)  # it may wait inside a gradient's sum, where no handler runs

    threading.Thread(target=watch, name="end-with-launcher", daemon=True).start()


def run_processes(command: Sequence[str], count: int) -> int:
    """Runs a command of `pinnerformer` in several processes of this machine that train together; returns the exit code.

    They share the cores, unless OMP_NUM_THREADS says how many each takes. All read the same input, so an error of all
    is said once, by the first; where that one has none, the others' is said.

    Args:
        command: `["train", ...]`, with what a file and the environment say in its words already.
        count: Processes.
    """
    # The store is the parent's, as with torchrun: the system chooses a free port, and nobody takes it in between.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count))),
    }
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count - 1)]
        ranks: list[subprocess.Popen] = []
        stack.callback(_end, ranks)
        # Killed politely, this process would be gone at once, and leave the ranks behind.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        stack.callback(signal.signal, signal.SIGTERM, before)
        for rank, stderr in enumerate([None, *said]):
            own = {**without_flags(os.environ, command[0]), **told, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen([sys.executable, "-m", "pipelines.cli", *command], env=own, stderr=stderr))
        _wait(ranks)
        codes = [rank.poll() for rank in ranks]
        _end(ranks)
        failed = [code for code in codes if code]
        if not codes[0] and failed:
            _say(said)
    # Killed by a signal: subprocess gives it as a negative number, a shell as 128 and more.
    return 0 if not failed else failed[0] if failed[0] > 0 else 128 - failed[0]


def _wait(ranks: list[subprocess.Popen]) -> None:
    """Until all have ended; or one failed, and some seconds more: the others wait for its gradients for ever."""
    failed_at = None
    while any(rank.poll() is None for rank in ranks):
        if failed_at is None and any(rank.poll() for rank in ranks):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
            return
        time.sleep(0.05)


def _end(ranks: list[subprocess.Popen]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    for rank in ranks:
        try:
            rank.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def _say(said: Sequence[IO[bytes]]) -> None:
    for file in said:
        file.seek(0)
        sys.stderr.write(file.read().decode(errors="replace"))
