"""Completion markers: how a run that is started again finds the tasks of it that are done."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.names import Step
from stores.upgrades import FILE_ENTRY, read_record
from transforms.step_reports import NAMES_AT_ONCE, StepReport

# Part of every run's name: raised when tasks that an older version of this code finished may not be used any more.
TASKS_VERSION = 3

# Under a run's folder: what one task leaves for another, and no release keeps.
STAGED_FOLDERS = (
    "active",
    "acts",
    "asked_histories",
    "asked_vectors",
    "embedded",
    "picked",
    "pin_names",
    "rows",
    "vector_pieces",
    "vectors",
)


@dataclasses.dataclass(frozen=True)
class CompletionMarker:
    """One finished task: its files are written, and nothing of it needs to be done again.

    Attributes:
        reports: Step -> what the task did there; they name the files that it made for the release.
        staged: Its files that later tasks read and no release keeps.
        run: That did it, of tasks that count for other runs too; "" of others.
    """

    reports: dict[Step, StepReport]
    staged: list[FileEntry] = dataclasses.field(default_factory=list)
    run: str = ""

    def files(self) -> list[FileEntry]:
        """Every file that must be there for the task to be done."""
        made = [entry for report in self.reports.values() for entries in report.files.values() for entry in entries]
        return made + self.staged

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "CompletionMarker":
        """Reads what `to_json` gave.

        Raises:
            TypeError, ValueError, KeyError, AttributeError: it is something else.
        """
        reports = {step: StepReport.from_json(report) for step, report in found["reports"].items()}
        staged = [read_record(FILE_ENTRY, FileEntry, entry, "staged") for entry in found["staged"]]
        return cls(reports, staged, str(found.get("run", "")))


def _folder(folder: str, step: str) -> str:
    return f"{folder}/done/{step}"


def write_marker(root: Root, folder: str, step: str, task: str, marker: CompletionMarker) -> None:
    """Says that a task is done; to be called after its files are written. May be called twice.

    Args:
        folder: Of the run, relative to the root; its name stands for everything that the task's content depends on.
        task: A file name, the same on every attempt.
    """
    # One that a power cut took away costs doing the task again: no reason to wait for the disk.
    root.write_json(f"{_folder(folder, step)}/{task}.json", marker.to_json(), durable=False)


def read_markers(root: Root, folder: str, step: str) -> dict[str, CompletionMarker]:
    """Task -> marker, of the finished tasks of a step.

    A marker that cannot be read, or one of whose files is missing or of another size, counts for nothing: the task is
    done again.
    """
    found = {}
    for name in root.list(_folder(folder, step)):
        task = name.removesuffix(".json")
        marker = read_marker(root, folder, step, task)
        if marker is not None:
            found[task] = marker
    return found


def read_marker(root: Root, folder: str, step: str, task: str) -> CompletionMarker | None:
    """The marker of one task; None where there is none that counts, as `read_markers` has it."""
    try:
        marker = CompletionMarker.from_json(root.read_json(f"{_folder(folder, step)}/{task}.json"))
    except (StoreError, FileNotFoundError, TypeError, ValueError, KeyError, AttributeError):
        return None
    # Size and not sha256: whoever reads such a file checks its digest; to hash all of them here would read the run's
    # output twice.
    return marker if all(root.size(entry.path) == entry.bytes for entry in marker.files()) else None


def discard_staged(root: Root, folder: str) -> None:
    """Removes what only a run that goes on needs: markers and staged files; reports and dead letters stay.

    Args:
        folder: Of a run whose release is committed.
    """
    for name in ("done", *STAGED_FOLDERS):
        root.remove(f"{folder}/{name}")


def merge_reports(markers: Iterable[CompletionMarker]) -> list[tuple[Step, StepReport]]:
    """What finished tasks did, added up: (step, report) per step, and more where one would name too many files."""
    merged: dict[Step, StepReport] = {}
    for marker in markers:
        for step, report in marker.reports.items():
            merged.setdefault(step, StepReport()).add(report)
    found = []
    for step, report in sorted(merged.items()):
        first, *more = [*report.names(NAMES_AT_ONCE), StepReport()]
        first = dataclasses.replace(report, files=first.files, failures=first.failures)
        found += [(step, first), *((step, piece) for piece in more if piece.count_names())]
    return found
