"""What every worker of a run knows, and what every part of it reports back."""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from stores.erasure import read_ids
from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.layout import Layout
from stores.upgrades import FILE_ENTRY, REPORT, read_record
from transforms.ageing import Ageing

REPORTS = "reports"
TOKEN = "token"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the daily job; small and picklable.

    Attributes:
        root: Where everything lies.
        name: Of the run: names its folder under `staging/`.
        date: The UTC day whose logs it includes last.
        release: The id its release will have.
        previous: The release it starts from; None on an empty root.
        layout: Of the root.
        everyone_active: Whether every user is embedded anew: first release, or another model than `previous`'s.
        repaired: Of a repair, the file under the root that lists the users whose histories are built anew.
        rebuilt_from_ms: Their rows before this moment are kept: the logs that had them are gone.
        ageing: How long rows, users and vectors last.
        after: The date of `previous`; None on an empty root.
        watched: The run in whose folder progress is noted, where it is another one: of a backfill its last day's.
        token: What the launcher left in the run's folder for the workers to find; "" if they need not look.
        lease: Whoever holds the root for it, as `hold_lease` gave it; without one nothing is checked at the commit.
    """

    root: Root
    name: str
    date: datetime.date
    release: str
    previous: str | None
    layout: Layout
    everyone_active: bool
    watched: str = ""
    token: str = ""
    lease: str = ""
    repaired: str = ""
    rebuilt_from_ms: int = 0
    ageing: Ageing = Ageing()
    after: datetime.date | None = None

    def repaired_users(self) -> np.ndarray | None:
        """Sorted int64 ids of the users that a repair builds anew; None for every other run."""
        return read_ids(self.root, self.repaired) if self.repaired else None

    @property
    def staging(self) -> str:
        """The run's folder, relative to the root."""
        return f"staging/{self.name}"

    def leave_token(self) -> "Run":
        """Writes a token into the run's folder, and returns the run that knows it: for the launcher."""
        token = secrets.token_hex(8)
        self.root.write_bytes(f"{self.staging}/{TOKEN}", token.encode())
        return dataclasses.replace(self, token=token)

    def check_root(self) -> None:
        """Makes sure that this worker sees the launcher's root, and not a folder of the same name.

        Every DoFn that reads or writes under the root calls it in its setup; the file is read once a process.

        Raises:
            StoreError: it does not; says on which machine, and what to do.
        """
        if self.token:
            _find_token(self.root, f"{self.staging}/{TOKEN}", self.token)

    @property
    def progress_folder(self) -> str:
        """Where the workers of this machine note how far they are: a local folder, wherever the root lies."""
        return self.root.local_folder(f"staging/{self.watched or self.name}/progress")

    def note_progress(self, stage: str, units: int = 0, parts: int = 1) -> None:
        """Tells whoever watches that `parts` parts of a stage, with `units` rows or users, are done.

        A hint for the display only: appended to a file of this process, whole lines, never read by the job.
        """
        folder = self.progress_folder
        line = json.dumps({"stage": stage, "units": int(units), "parts": parts}) + "\n"
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


@functools.lru_cache(maxsize=16)
def _find_token(root: Root, path: str, token: str) -> None:
    try:
        found = root.read_bytes(path).decode()
    except FileNotFoundError:
        found = ""
    if found != token:
        raise StoreError(
            f"{root.path(path)}: {'another one' if found else 'not there'} on worker {socket.gethostname()}: it does "
            "not see the launcher's --root; use s3:// or gs://, or mount the folder at the same path on every worker"
        )


@dataclasses.dataclass
class StageReport:
    """What one part of a stage, or all of them together, did.

    Attributes:
        seconds: Of work, summed over parts.
        parts: How many.
        counters: Name -> sum.
        lowest: Name -> minimum over parts.
        highest: Name -> maximum over parts.
        histograms: Name -> counts a bin, summed.
        files: Table name -> files written or carried over.
        failures: (user_id, why) of users that could not be embedded.
    """

    seconds: float = 0.0
    parts: int = 0
    counters: dict[str, int] = dataclasses.field(default_factory=dict)
    lowest: dict[str, float] = dataclasses.field(default_factory=dict)
    highest: dict[str, float] = dataclasses.field(default_factory=dict)
    histograms: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    files: dict[str, list[FileEntry]] = dataclasses.field(default_factory=dict)
    failures: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def add(self, other: "StageReport") -> None:
        """Adds another part's report to this one."""
        self.seconds += other.seconds
        self.parts += other.parts
        for name, number in other.counters.items():
            self.counters[name] = self.counters.get(name, 0) + number
        for name, value in other.lowest.items():
            self.lowest[name] = min(self.lowest.get(name, value), value)
        for name, value in other.highest.items():
            self.highest[name] = max(self.highest.get(name, value), value)
        for name, counts in other.histograms.items():
            before = self.histograms.get(name, [0] * len(counts))
            self.histograms[name] = [a + b for a, b in zip(before, counts, strict=True)]
        for table, entries in other.files.items():
            self.files.setdefault(table, []).extend(entries)
        self.failures += other.failures

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "StageReport":
        """Reads a report that was written as a plain dict.

        Raises:
            TypeError, ValueError, AttributeError: it is something else.
        """
        told = read_record(REPORT, cls, found, "report")
        told.files = {
            table: [read_record(FILE_ENTRY, FileEntry, entry, table) for entry in entries]
            for table, entries in told.files.items()
        }
        told.failures = [(user, why) for user, why in told.failures]
        return told


def part_report(
    started: float,
    counters: Mapping[str, int],
    *,
    files: Mapping[str, Iterable[FileEntry]] | None = None,
    lowest: Mapping[str, float] | None = None,
    highest: Mapping[str, float] | None = None,
    histograms: Mapping[str, list[int]] | None = None,
    failures: Iterable[tuple[int, str]] = (),
) -> StageReport:
    """What one part of a stage did.

    Args:
        started: `time.perf_counter()` when the part's work began.
    """
    return StageReport(
        seconds=time.perf_counter() - started,
        parts=1,
        counters={name: int(number) for name, number in counters.items()},
        lowest=dict(lowest or {}),
        highest=dict(highest or {}),
        histograms=dict(histograms or {}),
        files={table: list(entries) for table, entries in (files or {}).items()},
        failures=list(failures),
    )


def tagged(stage: str, report: StageReport) -> beam.pvalue.TaggedOutput:
    """A part's report, for the `reports` output of its DoFn; its counters also show in the engine's dashboard.

    Reports travel as elements, so that they count the attempts that the engine kept, and those only.
    """
    for name, number in report.counters.items():
        Metrics.counter(stage, name).inc(number)
    return beam.pvalue.TaggedOutput(REPORTS, (stage, report))


def report(
    stage: str,
    started: float,
    counters: Mapping[str, int],
    *,
    files: Mapping[str, Iterable[FileEntry]] | None = None,
    lowest: Mapping[str, float] | None = None,
    highest: Mapping[str, float] | None = None,
) -> beam.pvalue.TaggedOutput:
    """`part_report` for the `reports` output, where no receipt is kept of the part."""
    return tagged(stage, part_report(started, counters, files=files, lowest=lowest, highest=highest))


class MergeReports(beam.CombineFn):
    """(stage, report) elements -> one dict, stage -> report."""

    def create_accumulator(self) -> dict[str, StageReport]:
        return {}

    def add_input(self, accumulator: dict[str, StageReport], element: tuple[str, StageReport]) -> Any:
        stage, part = element
        accumulator.setdefault(stage, StageReport()).add(part)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[dict[str, StageReport]]) -> dict[str, StageReport]:
        merged: dict[str, StageReport] = {}
        for accumulator in accumulators:
            for stage, part in accumulator.items():
                merged.setdefault(stage, StageReport()).add(part)
        return merged

    def extract_output(self, accumulator: dict[str, StageReport]) -> dict[str, StageReport]:
        return accumulator
