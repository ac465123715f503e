"""Cuts a run off between two of its parts."""

import collections
import dataclasses

import pytest

from stores.errors import StoreError
from transforms.receipts import write_receipt


@dataclasses.dataclass
class Parts:
    """Counts the parts that are finished, and cuts the run off before the receipt of a given one."""

    done: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    stop_at: int | None = None

    def watch(self, monkeypatch: pytest.MonkeyPatch, modules) -> None:
        """Stands between some modules and their receipts."""
        for module in modules:
            monkeypatch.setattr(module, "write_receipt", self.write)

    def write(self, root, folder, stage, part, receipt):
        if self.stop_at is not None and self.done.total() >= self.stop_at:
            raise StoreError("cut off")
        self.done[stage] += 1
        write_receipt(root, folder, stage, part, receipt)
