"""The lease that keeps a second run off a root."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from stores.errors import StoreError
from stores.files import Root

LEASE = "lease.json"


def _holder_is_dead(lease: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and its process is gone: no reason to wait for the expiry."""
    if lease["host"] != socket.gethostname():
        return False
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return lease["process_start"] != _process_start(lease["pid"])


def _process_start(pid: int) -> str:
    """When a process started, in the kernel's own count; tells a process from a later one of the same number."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


@contextlib.contextmanager
def hold_lease(root: Root, run: str, seconds: float = 120.0) -> Iterator[None]:
    """Holds the root for one run: renewed by a thread while the body runs, given back after it, expired after a crash.

    Args:
        run: Named to whoever comes second.
        seconds: How long the lease outlives the last renewal; it is renewed every third of that.

    Raises:
        StoreError: another run holds it.
    """

    def content() -> bytes:
        return json.dumps(
            {
                "run": run,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "process_start": _process_start(os.getpid()),
                "expires": time.time() + seconds,
            }
        ).encode()

    mine = content()
    if not root.compare_and_swap(LEASE, None, mine):
        found = root.read_bytes(LEASE)
        try:
            lease = json.loads(found)
            free = lease["expires"] < time.time() or _holder_is_dead(lease)
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{root.path(LEASE)}: not a lease; if no other run is on this root, delete the file"
            ) from None
        if not free or not root.compare_and_swap(LEASE, found, mine):
            left = max(0, round(lease["expires"] - time.time()))
            raise StoreError(
                f"{root.path(LEASE)}: run {lease['run']} holds this root (process {lease['pid']} on {lease['host']}); "
                f"wait for it, or, if it is dead, for the lease to run out in {left} s"
            )
    stop = threading.Event()
    held = [mine]

    def renew() -> None:
        while not stop.wait(seconds / 3):
            new = content()
            if not root.compare_and_swap(LEASE, held[0], new):
                return  # somebody took it over; the swap of CURRENT decides between the two
            held[0] = new

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(FileNotFoundError):
            if root.read_bytes(LEASE) == held[0]:
                os.unlink(root.path(LEASE))
