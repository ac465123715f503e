"""How much memory a process may still take."""

import itertools
import os
from collections.abc import Iterator

# Version of control groups -> what its files are called: the limit, what is used, the key in `memory.stat` of what is
# used for copies of files, which the system takes back.
_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(system: str = "/") -> int:
    """Bytes that could still be given to processes: by the machine, and by the control groups that this one is in.

    A container sees the memory of its whole machine, and is ended when it takes more than its own.

    Args:
        system: Where `proc` and `sys` lie.
    """
    return min([_of_machine(system), *_of_groups(system)])


def _of_machine(system: str) -> int:
    try:
        return _numbers(f"{system}/proc/meminfo")["MemAvailable:"] * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _of_groups(system: str) -> Iterator[int]:
    """What each control group that has a limit has left."""
    try:
        with open(f"{system}/proc/self/cgroup") as file:
            groups = [line.strip().split(":", 2) for line in file]
    except OSError:
        return
    for _, controllers, path in groups:
        if not controllers or "memory" in controllers.split(","):
            version, mounted = (1, "memory") if controllers else (2, "")
            # A limit of one further up counts too. Seen from within a container they all are at the top.
            parts = [part for part in path.split("/") if part and part != ".."]
            for folder in itertools.accumulate(parts, "{}/{}".format, initial=f"{system}/sys/fs/cgroup/{mounted}"):
                left = _left(folder, *_FILES[version])
                if left is not None:
                    yield left


def _left(folder: str, limit: str, used: str, copies: str) -> int | None:
    """What a group has left; None where it has no limit, or does not tell."""
    try:
        with open(f"{folder}/{limit}") as file:
            most = int(file.read())  # a word where there is none
        with open(f"{folder}/{used}") as file:
            taken = int(file.read())
        return max(most - taken + _numbers(f"{folder}/memory.stat").get(copies, 0), 0)
    except (OSError, ValueError):
        return None


def _numbers(path: str) -> dict[str, int]:
    """Name -> number, of a file with both on each line."""
    with open(path) as file:
        return {words[0]: int(words[1]) for line in file if len(words := line.split()) > 1}
