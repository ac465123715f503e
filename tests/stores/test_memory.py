"""How much memory is left: the machine's, or less where the process is in a group that may not have it."""

import os

import pytest

from stores.memory import available_memory

GIB = 1 << 30
NO_LIMIT_OF_1 = "9223372036854771712"


def write(folder, files: dict[str, str]) -> str:
    machine = {"proc/meminfo": "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\nHugePages_Free: 0\n"}
    for name, text in {**machine, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n"}, 16),
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"},
            16,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "0::/user/job\n",
                "sys/fs/cgroup/user/memory.max": f"{GIB}\n",
                "sys/fs/cgroup/user/memory.current": f"{2 * GIB}\n",
                "sys/fs/cgroup/user/memory.stat": "",
                "sys/fs/cgroup/user/job/memory.max": "max\n",
                "sys/fs/cgroup/user/job/memory.current": "0\n",
            },
            0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n3:memory,hugetlb:/pod\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_OF_1,
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "0",
                "sys/fs/cgroup/memory/memory.stat": "",
                "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": f"{8 * GIB}",
                "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": f"{2 * GIB}",
                "sys/fs/cgroup/memory/pod/memory.stat": f"total_inactive_file {GIB}\n",
            },
            7,
        ),
    ],
    ids=["machine", "no file of a limit", "no limit", "a container", "a group above", "version 1"],
)
def test_what_is_left_is_the_least_of_what_the_machine_and_its_groups_have(tmp_path, files, gib):
    assert available_memory(write(tmp_path, files)) == gib * GIB


def test_here_it_is_some_of_the_machine():
    assert 0 <= available_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_system_that_tells_nothing_has_half_of_its_memory(tmp_path):
    assert available_memory(str(tmp_path)) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
