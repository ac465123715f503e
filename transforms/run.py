"""What every worker of a run knows of it: who it is, what it has to do, how it was launched."""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Self

import numpy as np

from stores.errors import StoreError
from stores.files import Root
from stores.layout import Layout
from stores.local_files import chosen_file_mode, use_file_mode
from stores.user_lists import read_ids
from transforms.ageing import Ageing
from transforms.host_check import CLOCK, HostCheck

SENTINEL = "token"


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a run was launched; nothing that comes of the run depends on it.

    Attributes:
        root_sentinel: What the launcher left in the run's folder for the workers to find; "" if they need not look.
        lease: Whoever holds the root for it, as `hold_lease` gave it; without one nothing is checked at the commit.
        progress_run: The run in whose folder progress is noted, where it is another one: of a backfill its last day's.
        file_mode: Of every file that a worker writes under the root; None: what its umask says.
        hosts: What the host of a worker must be like; None where workers are processes of the launcher's machine.
    """

    root_sentinel: str = ""
    lease: str = ""
    progress_run: str = ""
    file_mode: int | None = None
    hosts: HostCheck | None = None

    @property
    def detached(self) -> bool:
        """Whether nobody waits for the run: a launcher that does holds the root for it."""
        return bool(self.root_sentinel) and not self.lease


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run under its root: all that a step needs that reads and writes there, whatever the run is.

    Small and picklable, as is every kind of run: workers hold it.

    Attributes:
        root: Where everything lies.
        name: Of the run: names its folder under `staging/`.
        launch: As `launched` made it.
        vectors_folder: Where its sorted vectors lie for runs after it too, as `sort_vectors.vectors_folder` has it.
    """

    root: Root
    name: str
    launch: Launch = dataclasses.field(default=Launch(), kw_only=True)
    vectors_folder: str = dataclasses.field(default="", kw_only=True)

    @property
    def staging(self) -> str:
        """The run's folder, relative to the root."""
        return f"staging/{self.name}"

    @property
    def vectors_home(self) -> str:
        """Where its sorted vectors and their markers lie, relative to the root."""
        return self.vectors_folder or self.staging

    def launched(self, *, lease: str = "", progress_run: str = "", hosts: HostCheck | None = None) -> Self:
        """The run as workers get it: leaves a sentinel in its folder, which they look for. For the launcher."""
        sentinel, path, before = secrets.token_hex(8), f"{self.staging}/{SENTINEL}", time.time()
        self.root.write_bytes(path, sentinel.encode())
        hosts = hosts and hosts.launched(self.root, path, (before + time.time()) / 2)
        return dataclasses.replace(self, launch=Launch(sentinel, lease, progress_run, chosen_file_mode(), hosts))

    def check_root(self) -> None:
        """Makes sure that this worker sees the launcher's root, and not a folder of the same name.

        On an engine also that its host has the launcher's version, model and time, and reaches what the launcher does.
        Every DoFn that reads or writes under the root calls it in its setup; it looks once per process.

        Raises:
            StoreError: it does not; says on which machine, and what to do.
        """
        if self.launch.file_mode is not None:
            use_file_mode(self.launch.file_mode)
        if self.launch.root_sentinel:
            _check(self.root, self.staging, self.launch.root_sentinel, self.launch.hosts)

    @property
    def progress_folder(self) -> str:
        """Where the workers of this machine note how far they are: a local folder, wherever the root lies."""
        return self.root.local_folder(f"staging/{self.launch.progress_run or self.name}/progress")

    def note_progress(self, step: str, units: int = 0, tasks: int = 1) -> None:
        """Tells whoever watches that `tasks` tasks of a step, with `units` rows or users, are done.

        A hint for the display only: appended to a file of this process, whole lines, never read by the job.
        """
        folder = self.progress_folder
        line = json.dumps({"step": step, "units": int(units), "tasks": tasks}) + "\n"
        # One file per process and whole lines in append mode: no lock, and a killed worker leaves at most its own last
        # line.
        path, flags = f"{folder}/{socket.gethostname()}-{os.getpid()}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            descriptor = os.open(path, flags, 0o644)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            descriptor = os.open(path, flags, 0o644)
        try:
            with contextlib.suppress(OSError):  # a full disk stops the work itself, in words that name the file
                os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def checks_removed(*runs: RunFolder) -> Iterator[None]:
    """Removes, after the body, what workers left that were stopped in the middle of looking at their host.

    One worker that refuses its host ends the job, and the engine stops the others wherever they are.
    """
    try:
        yield
    finally:
        # A root that does not answer is not what a run failed of.
        with contextlib.suppress(OSError, StoreError):
            for run in runs:
                for name in run.root.list(run.staging) if run.launch.hosts is not None else ():
                    if name.startswith(CLOCK):
                        run.root.remove(f"{run.staging}/{name}")


@functools.lru_cache(maxsize=16)
def _check(root: Root, folder: str, sentinel: str, hosts: HostCheck | None) -> None:
    if hosts is not None:
        hosts.refuse_early()
    _find_sentinel(root, f"{folder}/{SENTINEL}", sentinel)
    if hosts is not None:
        hosts.refuse_late(root, folder)


def _find_sentinel(root: Root, path: str, sentinel: str) -> None:
    try:
        found = root.read_bytes(path).decode()
    except FileNotFoundError:
        found = ""
    if found != sentinel:
        raise StoreError(
            f"{root.path(path)}: {'another one' if found else 'not there'} on worker {socket.gethostname()}: it does "
            "not see the launcher's --root; use s3:// or gs://, or mount the folder at the same path on every worker"
        )


@dataclasses.dataclass(frozen=True)
class Repair:
    """Whose histories are built again, and from when on.

    Attributes:
        users: The file under the root that lists the users.
        rebuilt_from_ms: Their rows before this moment are kept: the logs that had them are gone.
    """

    users: str
    rebuilt_from_ms: int

    def read_users(self, root: Root) -> np.ndarray:
        """Sorted int64 ids of the users."""
        return read_ids(root, self.users)


@dataclasses.dataclass(frozen=True)
class Instructions:
    """What a run does with the users that there are, beside taking in new rows.

    Attributes:
        everyone_active: Whether every user is embedded again: first release, or another model than the previous one's.
        ageing: How long rows, users and vectors last.
        repair: Of a repair, what it rebuilds; None for every other run.
    """

    everyone_active: bool
    ageing: Ageing = Ageing()
    repair: Repair | None = None


@dataclasses.dataclass(frozen=True)
class Run(RunFolder):
    """One run on the way to a release: of the daily job, of a repair, or of one day of a backfill.

    Attributes:
        date: The UTC day whose logs it includes last.
        release: The id its release will have.
        previous: The release it starts from; None on an empty root.
        layout: Of the root.
        instructions: What it does with the users that there are.
        after: The date of `previous`; None on an empty root.
    """

    date: datetime.date
    release: str
    previous: str | None
    layout: Layout
    instructions: Instructions
    after: datetime.date | None = None

    def repaired_users(self) -> np.ndarray | None:
        """Sorted int64 ids of the users that a repair builds again; None for every other run."""
        repair = self.instructions.repair
        return repair.read_users(self.root) if repair else None
