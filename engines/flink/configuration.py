"""The folder that a Flink process is started with: `conf` and `lib`, and the variables that name them."""

import glob
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

from engines.flink.artifacts import beam_library


def memory_settings(slots: int, heap_mb: int) -> dict[str, Any]:
    """Flink's memory on a machine of our size; of a TaskManager with so many slots.

    Args:
        heap_mb: Java heap of the TaskManager; what it sorts lies in as much managed memory beside it.
    """
    return {
        "jobmanager.memory.heap.size": "384m",
        "jobmanager.memory.jvm-metaspace.size": "192m",
        "taskmanager.memory.task.heap.size": f"{heap_mb}m",
        "taskmanager.memory.managed.size": f"{heap_mb}m",
        # Messages from and to the workers lie in gRPC's direct memory, of which Flink grants a task none.
        "taskmanager.memory.task.off-heap.size": f"{256 * slots}m",
        "taskmanager.memory.network.min": "256m",
        "taskmanager.memory.network.max": "256m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
    }


def write_configuration(
    folder: str, seen_as: str, home: str, job_server: str, settings: Mapping[str, Any], cache: str | None = None
) -> None:
    """Makes `conf`, `lib`, `tmp` and `logs` in a folder.

    Args:
        seen_as: Where the process that is started sees the folder.
        home: Of Flink.
        job_server: The jar whose classes lie beside Flink's own.
        settings: Flink's, beside those that any start needs.
    """
    shutil.rmtree(os.path.join(folder, "lib"), ignore_errors=True)  # links of an earlier start
    for name in ("conf", "lib", "tmp", "logs"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    for path in [*glob.glob(f"{home}/lib/*.jar"), beam_library(home, job_server, cache)]:
        os.symlink(path, os.path.join(folder, "lib", os.path.basename(path)))
    for path in glob.glob(f"{home}/conf/log4j*"):
        shutil.copy(path, f"{folder}/conf")
    with open(f"{home}/conf/config.yaml") as file:
        (java_options,) = re.findall(r"^ +all: (--add-.*)$", file.read(), re.MULTILINE)
    written = {
        "env.java.opts.all": java_options,
        "io.tmp.dirs": f"{seen_as}/tmp",
        "web.tmpdir": f"{seen_as}/tmp",
        "heartbeat.timeout": 20000,
        "pekko.ask.timeout": "60 s",
        "pekko.startup-timeout": "60 s",
        "slot.request.timeout": 60000,
        "classloader.resolve-order": "parent-first",  # Beam is in Flink's lib: `beam_library` says why
        # Data arrives on gRPC's threads: out of memory there leaves the job standing forever, unless it is fatal.
        "cluster.uncaught-exception-handling": "FAIL",
        **settings,
    }
    with open(f"{folder}/conf/config.yaml", "w") as file:
        file.writelines(f"{name}: {value}\n" for name, value in written.items())


def flink_variables(folder: str, java: str) -> dict[str, str]:
    """What Flink's scripts read: where a process sees the folder that `write_configuration` made, and its Java."""
    return {
        "FLINK_CONF_DIR": f"{folder}/conf",
        "FLINK_LIB_DIR": f"{folder}/lib",
        "FLINK_LOG_DIR": f"{folder}/logs",
        "FLINK_PID_DIR": f"{folder}/tmp",
        "JAVA_HOME": os.path.dirname(os.path.dirname(os.path.realpath(java))),
    }
