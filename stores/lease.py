"""The lease that keeps a second run off a root."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from stores.errors import LeaseLostError, StoreError
from stores.files import Root

LEASE = "lease.json"
# One length, whatever digits the expiry has. Who reads an object asks for its size first: after a renewal in between
# that made it longer, part of it would be missing, and the lease would seem lost.
PADDED = 1024


def _processes() -> str:
    """Names what process ids are of: this boot of the kernel, and the namespace of processes, which a container has.

    Empty where the kernel does not tell.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _holder_is_dead(lease: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and its process is gone: no reason to wait for the expiry.

    Two containers may have one hostname: a process of another namespace is not looked for here. A lease that does not
    say which it was, of the version before, is believed to be of this one.
    """
    if lease["host"] != socket.gethostname() or lease.get("processes", _processes()) != _processes():
        return False
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # The number alone may belong to another process by now, which lives for other reasons.
    return lease["process_start"] != _process_start(lease["pid"])


def _process_start(pid: int) -> str:
    """When a process started, in the kernel's own count; tells a process from a later one of the same number."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _read(root: Root) -> bytes:
    """The lease as it is stored; nothing if there is none, or if it was given back on an object store."""
    try:
        return root.read_bytes(LEASE)
    except FileNotFoundError:
        return b""


def _is_of(holder: str, found: bytes) -> bool:
    try:
        return json.loads(found)["holder"] == holder
    except (ValueError, KeyError, TypeError):
        return False


def _acquire(root: Root, mine: bytes, holder: str) -> None:
    if root.compare_and_swap(LEASE, None, mine):
        return
    found = _read(root)
    if _is_of(holder, found):
        return  # the swap happened, its answer was lost
    lease: dict[str, Any] = {"run": "another", "host": "another machine", "pid": 0, "expires": 0.0}
    free = True
    if found:
        try:
            lease = json.loads(found)
            free = lease["expires"] < time.time() or _holder_is_dead(lease)
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{root.path(LEASE)}: not a lease; if no other run is on this root, delete the file"
            ) from None
    # From what was read to mine: of two that both find a dead holder only one swaps. Whoever's answer is lost looks for
    # its own id.
    if free and (root.compare_and_swap(LEASE, found, mine) or _is_of(holder, _read(root))):
        return
    left = max(0, round(lease["expires"] - time.time()))
    raise StoreError(
        f"{root.path(LEASE)}: run {lease['run']} holds this root (process {lease['pid']} on {lease['host']}); "
        f"wait for it, or, if it is dead, for the lease to run out in {left} s"
    )


@contextlib.contextmanager
def hold_lease(root: Root, run: str, seconds: float = 120.0) -> Iterator[str]:
    """Holds the root for one run: renewed by a thread while the body runs, given back after it, expired after a crash.

    Args:
        run: Named to whoever comes second.
        seconds: How long the lease outlives the last renewal; it is renewed every third of that.

    Yields:
        The holder's id, for `check_lease`.

    Raises:
        StoreError: another run holds it.
    """
    holder = uuid.uuid4().hex

    def content() -> bytes:
        lease = {
            "run": run,
            "holder": holder,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "processes": _processes(),
            "expires": time.time() + seconds,
        }
        return json.dumps(lease).encode().ljust(PADDED)

    _acquire(root, content(), holder)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(seconds / 3):
            # An object store out of reach for a moment is tried again: the lease outlives two renewals that fail.
            with contextlib.suppress(StoreError):
                # Read and swapped, never written blindly: a run that was frozen for longer than its lease must not take
                # the root back from whoever holds it now.
                found = _read(root)
                if not _is_of(holder, found):
                    return  # somebody took it over: `check_lease` keeps this run from committing
                root.compare_and_swap(LEASE, found, content())

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield holder
    finally:
        stop.set()
        thread.join()
        found = _read(root)
        # Only one's own: after a take-over the lease to give back is somebody else's.
        if _is_of(holder, found):
            root.compare_and_remove(LEASE, found)


def live_run(root: Root) -> str | None:
    """The run that holds a root now; None if nobody does, or whoever did is gone."""
    try:
        lease = json.loads(_read(root))
        gone = lease["expires"] < time.time() or _holder_is_dead(lease)
        return None if gone else str(lease["run"])
    except (ValueError, KeyError, TypeError):
        return None


def check_lease(root: Root, holder: str) -> None:
    """Makes sure that the root is still held, from whatever process or machine of the run.

    Raises:
        LeaseLostError: another run took it over, since this one did not renew its lease in time.
    """
    found = _read(root)
    if _is_of(holder, found):
        return
    taken = "it was given back"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        lease = json.loads(found)
        taken = f"run {lease['run']} holds it now (process {lease['pid']} on {lease['host']})"
    raise LeaseLostError(
        f"{root.path(LEASE)}: this run lost the root, {taken}: it was stopped or cut off for longer than the lease; "
        "nothing was committed, let the other run finish"
    )
