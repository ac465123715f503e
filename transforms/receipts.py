"""Receipts: how a run that is started again finds the parts of it that are done."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.names import Step
from stores.upgrades import FILE_ENTRY, read_record
from transforms.step_reports import StageReport

# Part of every run's name: raised when parts that an older version of this code finished may not be used any more.
PARTS_VERSION = 1

# Under a run's folder: what one part leaves for another, and no release keeps.
STAGED_FOLDERS = ("active", "embedded", "rows", "vector_pieces", "vectors")


@dataclasses.dataclass(frozen=True)
class Receipt:
    """One finished part: its files are written, and nothing of it needs to be done again.

    Attributes:
        reports: Stage -> what the part did there; they name the files that it made for the release.
        staged: Its files that later parts read and no release keeps.
    """

    reports: dict[Step, StageReport]
    staged: list[FileEntry] = dataclasses.field(default_factory=list)

    def files(self) -> list[FileEntry]:
        """Every file that must be there for the part to be done."""
        made = [entry for report in self.reports.values() for entries in report.files.values() for entry in entries]
        return made + self.staged

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Receipt":
        """Reads what `to_json` gave.

        Raises:
            TypeError, ValueError, KeyError, AttributeError: it is something else.
        """
        reports = {stage: StageReport.from_json(report) for stage, report in found["reports"].items()}
        return cls(reports, [read_record(FILE_ENTRY, FileEntry, entry, "staged") for entry in found["staged"]])


def _folder(folder: str, stage: str) -> str:
    return f"{folder}/done/{stage}"


def write_receipt(root: Root, folder: str, stage: str, part: str, receipt: Receipt) -> None:
    """Says that a part is done; to be called after its files are written. May be called twice.

    Args:
        folder: Of the run, relative to the root; its name stands for everything that the part's content depends on.
        part: A file name, the same on every attempt.
    """
    # One that a power cut took away costs doing the part again: no reason to wait for the disk.
    root.write_json(f"{_folder(folder, stage)}/{part}.json", receipt.to_json(), durable=False)


def read_receipts(root: Root, folder: str, stage: str) -> dict[str, Receipt]:
    """Part -> receipt, of the finished parts of a stage.

    A receipt that cannot be read, or one of whose files is missing or of another size, counts for nothing: the part is
    done again.
    """
    found = {}
    for name in root.list(_folder(folder, stage)):
        try:
            receipt = Receipt.from_json(root.read_json(f"{_folder(folder, stage)}/{name}"))
        except (StoreError, FileNotFoundError, TypeError, ValueError, KeyError, AttributeError):
            continue
        if all(root.size(entry.path) == entry.bytes for entry in receipt.files()):
            found[name.removesuffix(".json")] = receipt
    return found


def forget_parts(root: Root, folder: str) -> None:
    """Removes what only a run that goes on needs: receipts and staged files; reports and dead letters stay.

    Args:
        folder: Of a run whose release is committed.
    """
    for name in ("done", *STAGED_FOLDERS):
        root.remove(f"{folder}/{name}")


def merge_reports(receipts: Iterable[Receipt]) -> list[tuple[Step, StageReport]]:
    """What finished parts did, added up: one (stage, report) a stage."""
    merged: dict[Step, StageReport] = {}
    for receipt in receipts:
        for stage, report in receipt.reports.items():
            merged.setdefault(stage, StageReport()).add(report)
    return sorted(merged.items())
