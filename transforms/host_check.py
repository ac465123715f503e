"""What a host must be before a worker of it does anything: of the launcher's version, with its root, model and clock.

The launcher says what it has; every worker compares in the setup of its first step, before it reads a row. Nothing that
comes of a run depends on it, and jobs in this machine's own processes do without.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import ipaddress
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator, Mapping

from stores import locations
from stores.errors import StoreError
from stores.files import Root
from stores.object_stores import endpoint_host

PACKAGES = ("pinnerformer_model", "stores", "transforms", "pipelines")
# What else decides the bytes of a release, or whether a step can be read at all.
BESIDE = ("apache-beam", "torch", "pyarrow", "numpy", "hnswlib")
CLOCK = "clock-"  # how the names of files begin that tell a worker its root's time
MOST_APART_S = 30.0  # above what a store's seconds and a slow request make of two clocks that agree

Software = tuple[tuple[str, str], ...]


@functools.cache
def software() -> Software:
    """(name, version) of what this process computes with; of this project also a digest of its code.

    Of torch without what it was built for: a launcher without CUDA goes with workers that have it.
    """
    versions = {"pinnerformer": f"{_version('pinnerformer')}, code {_code_digest()}"}
    versions["python"] = ".".join(platform.python_version_tuple()[:2])
    versions |= {name: _version(name).partition("+")[0] for name in BESIDE}
    return tuple(versions.items())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _code_digest() -> str:
    """12 hex digits of every file of our packages: they are the same from an image, a wheel or a checkout."""
    digest = hashlib.sha256()
    for path, name in sorted(_code_files(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))):
        with open(path, "rb") as file:
            digest.update(name.encode() + b"\0" + file.read() + b"\0")
    return digest.hexdigest()[:12]


def _code_files(home: str) -> Iterator[tuple[str, str]]:
    """(path, path relative to `home`) of our Python files."""
    for package in PACKAGES:
        for folder, _, names in os.walk(os.path.join(home, package)):
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    yield path, os.path.relpath(path, home).replace(os.sep, "/")


def refuse_other_software(wanted: Mapping[str, str], who: str) -> None:
    """Refuses a process that computes with something else than the launcher.

    Args:
        wanted: As `software` gave it there; of what is not named, any version will do.
        who: For the message: "worker HOST".

    Raises:
        StoreError: says what differs, here and there.
    """
    differing = [(name, found, wanted[name]) for name, found in software() if wanted.get(name, found) != found]
    other = [f"{name} {found} ({there} there)" for name, found, there in differing]
    if other:
        raise StoreError(
            f"{who} has another version than the launcher: {'; '.join(other)}; start the launcher and every worker "
            "pool from one image, or one lock file"
        )


def loopback_address(host: str) -> str:
    """The address by which a host takes a name for itself; "" if it does not, or does not know the name."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return ""
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return next((str(one) for one in addresses if one.is_loopback or one.is_unspecified), "")


@dataclasses.dataclass(frozen=True)
class HostCheck:
    """What the launcher has, for workers to compare with.

    Attributes:
        software: As `software()` gives it.
        files: (location, bytes) of what every host must see: the model's.
        names: Of hosts that workers connect to, and that are other hosts than a worker's own.
        ahead_s: Seconds that the clock of whoever keeps the root is ahead of the launcher's.
    """

    software: Software
    files: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    ahead_s: float = 0.0

    def launched(self, root: Root, written: str, at: float) -> "HostCheck":
        """The check with the launcher's clock, from a file that was just written at `at` by that clock."""
        return dataclasses.replace(self, ahead_s=root.modified(written) - at)

    def refuse_early(self) -> None:
        """What is looked at before this worker touches the root.

        Raises:
            StoreError: another version, or a name that this host takes for itself.
        """
        worker = f"worker {socket.gethostname()}"
        refuse_other_software(dict(self.software), worker)
        for name in (*self.names, *([endpoint_host()] if self.names else [])):
            address = name and loopback_address(name)
            if address:
                raise StoreError(
                    f"{name}: {address} on {worker}: this host takes the name for itself and would not reach what the "
                    "launcher reaches; mend its /etc/hosts, its DNS or its variables"
                )

    def refuse_late(self, root: Root, folder: str) -> None:
        """What is looked at once the root is known to be the launcher's.

        Args:
            folder: Of the run, relative to the root.

        Raises:
            StoreError: no model, or another one, or another time.
        """
        worker = f"worker {socket.gethostname()}"
        for location, size in self.files:
            try:
                found = locations.size_of(location)
                state = "not there" if found is None else f"{found:,} bytes and not {size:,}"
            except OSError as error:
                found, state = None, error.strerror or str(error)
            if found != size:
                raise StoreError(
                    f"{location}: {state} on {worker}: it does not see the launcher's --model; use s3:// or gs://, or "
                    "put the folder at the same path on every worker"
                )
        ahead = _time_of(root, f"{folder}/{CLOCK}{secrets.token_hex(8)}")
        apart = self.ahead_s - ahead
        if abs(apart) > MOST_APART_S:
            raise StoreError(
                f"the clock of {worker} is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the launcher's, "
                f"both beside the one that dates the files of {root.url}; set it by NTP"
            )


def _time_of(root: Root, path: str) -> float:
    """Seconds that the clock of whoever keeps the root is ahead of this process's; a file is written and removed."""
    before = time.time()
    root.write_bytes(path, b"")
    try:
        return root.modified(path) - (before + time.time()) / 2
    finally:
        root.remove(path)
