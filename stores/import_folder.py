"""Partitions that are made elsewhere and appear whole: a folder of logs, and what an import leaves in it.

Everything is written below `LOGS/_import/`, which readers of logs leave alone. A plan says what is to be moved once
all of it is there; then each day's folder is moved by a rename. An import that was killed before the plan was written
has left nothing; one killed after it is finished by the next, whatever that one is for.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import filecmp
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import InputError, StoreError, UsageError
from stores.files import Root
from stores.local_files import explain_os_errors, replace_atomically
from stores.object_stores import is_url
from stores.partitions import list_data_files, list_partitions
from stores.string_ids import INT64, STRING

FOLDER = "_import"
PLAN, REPORT = "plan.json", "last.json"
MODES = ("new", "append", "replace")


@dataclasses.dataclass(frozen=True)
class ImportFolder:
    """The folder of logs that an import writes into; local.

    Raises:
        UsageError: it is on an object store.
    """

    logs: str

    def __post_init__(self):
        if is_url(self.logs):
            raise UsageError(f"--logs {self.logs}: an import writes to a local folder; copy it there afterwards")
        object.__setattr__(self, "logs", os.path.abspath(self.logs))

    def path(self, *names: str) -> str:
        """Below `_import`."""
        return os.path.join(self.logs, FOLDER, *names)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second import out; the kernel gives the lock back with the process.

        Raises:
            StoreError: another import is writing here.
        """
        with explain_os_errors(self.logs):
            os.makedirs(self.path(), exist_ok=True)
            descriptor = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreError(f"--logs {self.logs}: another import is writing here; wait for it") from None
        try:
            yield
        finally:
            os.close(descriptor)

    def existing_days(self) -> set[datetime.date]:
        """Days that have a partition."""
        names = os.listdir(self.logs) if os.path.isdir(self.logs) else []
        return set(list_partitions(self.logs)) if any(name.startswith("ds=") for name in names) else set()

    def read_report(self) -> dict[str, Any]:
        """What the last import said of itself; empty where there was none."""
        try:
            with open(self.path(REPORT)) as file:
                found = json.load(file)
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def clear(self) -> None:
        """Removes what an import that was killed while it read has left."""
        for name in ("runs", "staged", "replaced", "duckdb"):
            shutil.rmtree(self.path(name), ignore_errors=True)

    def refuse_existing(self, days: set[datetime.date], mode: str) -> None:
        """Keeps an import from mixing with partitions that are there.

        Raises:
            UsageError: some of the days have a partition, and nobody said what to do with it.
        """
        taken = sorted(days & self.existing_days())
        if taken and mode == "new":
            raise UsageError(
                f"--logs {self.logs}: there are partitions of {len(taken)} of these days, ds={taken[0]} to "
                f"ds={taken[-1]}; --replace puts the imported days in their place, --append adds files to them"
            )

    def commit(self, days: list[datetime.date], mode: str, report: dict[str, Any]) -> None:
        """Makes the staged days partitions of the logs, each at once."""
        os.sync()  # once, not a file at a time: after a power cut too, what the plan names is there
        plan = {"days": [day.isoformat() for day in days], "mode": mode, "report": report}
        with replace_atomically(self.path(PLAN)) as path, open(path, "w") as file:
            json.dump(plan, file)
        self.finish()

    def finish(self) -> dict[str, Any] | None:
        """Moves what a plan names and removes the plan; may be done again, from anywhere.

        Returns:
            The report of the import whose plan it was; None where there is no plan.
        """
        try:
            with open(self.path(PLAN)) as file:
                plan = json.load(file)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{self.path(PLAN)}: damaged ({error}); remove {self.path()}, import again") from None
        for day in plan["days"]:
            with explain_os_errors(self.logs):
                self._move_day(f"ds={day}", plan["mode"])
        with replace_atomically(self.path(REPORT)) as path, open(path, "w") as file:
            json.dump(plan["report"], file, indent=1)
        os.unlink(self.path(PLAN))
        self.clear()
        return plan["report"]

    def _move_day(self, name: str, mode: str) -> None:
        staged, final, before = self.path("staged", name), os.path.join(self.logs, name), self.path("replaced", name)
        if not os.path.isdir(staged):
            return  # moved by an earlier attempt
        if mode == "append" and os.path.isdir(final):
            for file in os.listdir(staged):
                there = os.path.join(final, file)
                # A file that is there already stays as it is: under another time the next night would take it for
                # rewritten. Whether the rest of the partition is complete, its writer says.
                same = os.path.isfile(there) and filecmp.cmp(os.path.join(staged, file), there, shallow=False)
                if file != "_SUCCESS" and not same:
                    os.replace(os.path.join(staged, file), there)
            shutil.rmtree(staged)
            return
        if mode == "replace" and os.path.isdir(final) and not os.path.isdir(before):
            os.makedirs(os.path.dirname(before), exist_ok=True)
            os.rename(final, before)
        os.rename(staged, final)

    def stage_day(self, day: datetime.date) -> str:
        """Makes the folder of a day, complete and empty; returns its location."""
        folder = self.path("staged", f"ds={day.isoformat()}")
        os.makedirs(folder, exist_ok=True)
        open(os.path.join(folder, "_SUCCESS"), "w").close()
        return folder


def staged_root(folder: ImportFolder) -> Root:
    """For files that are named by their content."""
    return Root(folder.path("staged"))


def refuse_other_ids(folder: ImportFolder, user_ids: str, pin_ids: str) -> None:
    """Keeps string ids out of logs of whole numbers, and the reverse.

    Raises:
        InputError: a partition has ids of the other kind.
    """
    for day in sorted(folder.existing_days(), reverse=True):
        for file in list_data_files(os.path.join(folder.logs, f"ds={day.isoformat()}"))[:1]:
            try:
                schema = pq.read_schema(file.path)
            except (pa.ArrowException, OSError):
                return  # what is wrong with it, the job says
            for name, kind in (("user_id", user_ids), ("pin_id", pin_ids)):
                if name in schema.names:
                    found = INT64 if pa.types.is_integer(schema.field(name).type) else STRING
                    if found != kind:
                        raise InputError(
                            f"{file.path}: {name} is {found} there and would be {kind} here; say "
                            f"--{name.replace('_', '-')}s {found}, or import into another --logs"
                        )
            return
