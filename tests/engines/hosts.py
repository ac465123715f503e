"""Hosts on one machine: each a network namespace with a link of its own to a switch, and one folder that it may write.

What hosts share is read-only, as the layers of an image are: the system, this checkout and its environment. Needs root
and iproute2; nothing of the machine's own network is touched.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

NETWORK = "10.77.0"
CLONE_NEWNET = 0x40000000
# What a host is, seen from inside: its name, its /etc/hosts, its folder at `/mnt`; everything else is read-only, and
# the folders of other hosts are not there.
ENTER = """
hostname "$1"; mount --bind "$2/$1" /mnt; mount --bind "$2/$1/hosts" /etc/hosts; mount -t tmpfs none "$2"
mount -o remount,bind,ro /; if mountpoint -q /tmp; then mount -o remount,bind,ro /tmp; fi
cd /mnt; shift 2; exec "$@"
"""


def why_not() -> str:
    """Why hosts cannot be made here; "" if they can."""
    if os.geteuid():
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "no `ip`: apt-get install iproute2"
    name = f"pf{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    try:
        link = ["ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two"]
        tried = subprocess.run(link, capture_output=True, text=True)
        return f"veth pairs: {tried.stderr.strip()}" if tried.returncode else ""
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class Hosts:
    """A context manager: inside it, the hosts are there; at its end all that was started on them is stopped.

    Args:
        folder: Has a folder for each host, which it sees as `/mnt`, and `logs`.
        names: Of the hosts.
        aliases: Further name -> host.
    """

    def __init__(self, folder: str, names: Sequence[str], aliases: Mapping[str, str]):
        self.folder, self.names = folder, tuple(names)
        self.addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, 1)}
        self._aliases = dict(aliases)
        self._prefix = f"pf{os.getpid()}"
        self._processes: dict[tuple[str, str], subprocess.Popen] = {}

    def __enter__(self) -> "Hosts":
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host, name in list(self._processes)[::-1]:
            self.stop(host, name)
        for name in (*self.names, "switch"):
            subprocess.run(["ip", "netns", "del", self._namespace(name)], capture_output=True)

    def _namespace(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _make(self) -> None:
        switch = self._namespace("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        os.makedirs(f"{self.folder}/logs", exist_ok=True)
        for number, host in enumerate(self.names):
            name, port = self._namespace(host), f"port{number}"
            _ip("netns", "add", name)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{self.addresses[host]}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")
            os.makedirs(f"{self.folder}/{host}/tmp", exist_ok=True)
            self.write_names(host)

    def write_names(self, host: str, other: Mapping[str, str] | None = None) -> None:
        """Writes a host's `/etc/hosts`: every host and alias.

        Args:
            other: Name -> address that this host takes it for.
        """
        known = self.addresses | {alias: self.addresses[of] for alias, of in self._aliases.items()} | dict(other or {})
        with open(f"{self.folder}/{host}/hosts", "w") as file:  # in place: it is mounted
            file.writelines(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **known}.items())

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        """The words that run a command on a host, as the process that is started itself."""
        tied = ["setpriv", "--pdeathsig", "TERM", "--"]  # the kernel stops it when we are gone, even if we were killed
        inside = ["ip", "netns", "exec", self._namespace(host), "unshare", "--mount", "--uts", "sh", "-ec", ENTER, "sh"]
        return [*tied, *inside, host, self.folder, *words]

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Variables of a process on a host: what it writes by itself lies in its folder."""
        own = {"TMPDIR": "/mnt/tmp", "HOME": "/mnt", "PINNERFORMER_CACHE": "/mnt/cache"}
        return {**os.environ, **own, "PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": "1", **more}

    def start(self, host: str, name: str, words: Sequence[str], more: Mapping[str, str]) -> None:
        """Starts a process on a host; what it says is in `logs`."""
        with open(self.log(host, name), "ab") as log:
            self._processes[host, name] = subprocess.Popen(
                self.command(host, words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # what `stop` kills; still in our session, so with our share of a busy machine
                env=self.environment(more),
            )

    def log(self, host: str, name: str) -> str:
        """Where a process's words are."""
        return f"{self.folder}/logs/{host}-{name}.out"

    def pid(self, host: str, name: str) -> int:
        return self._processes[host, name].pid

    def ended(self) -> list[str]:
        """The logs of processes that ended by themselves."""
        return [self.log(*key) for key, process in self._processes.items() if process.poll() is not None]

    def stop(self, host: str, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stops a process and what it started."""
        process = self._processes.pop((host, name), None)
        if process is None:
            return
        for signum in (how, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)

    def link(self, host: str, state: str) -> None:
        """Pulls a host's plug out of the switch, `down`, or puts it back, `up`."""
        port = f"port{self.names.index(host)}"
        _ip("-n", self._namespace("switch"), "link", "set", port, state)

    def bytes_of(self, host: str) -> tuple[int, int]:
        """Bytes that a host has sent and received since it was made."""
        read = "cat /sys/class/net/eth0/statistics/tx_bytes /sys/class/net/eth0/statistics/rx_bytes"
        sent, received = subprocess.run(
            ["ip", "netns", "exec", self._namespace(host), "sh", "-c", read], capture_output=True, text=True, check=True
        ).stdout.split()
        return int(sent), int(received)

    @contextlib.contextmanager
    def seen_from(self, host: str) -> Iterator[None]:
        """This thread, and those it starts, are on a host's network while the body runs; files are as they were."""
        # Python 3.11 has no os.setns.
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self._namespace(host)}") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(before.fileno(), CLONE_NEWNET)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def main() -> int:
    """Says why hosts cannot be made here, if they cannot; returns the exit code."""
    why = why_not()
    print(why, end="\n" if why else "")
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
