"""Cuts a run off between two of its parts."""

import collections
import dataclasses

import pytest

from stores.errors import StoreError
from transforms.markers import write_marker


@dataclasses.dataclass
class Parts:
    """Counts the parts that are finished, and cuts the run off before the marker of a given one."""

    done: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    stop_at: int | None = None

    def watch(self, monkeypatch: pytest.MonkeyPatch, modules) -> None:
        """Stands between some modules and their markers."""
        for module in modules:
            monkeypatch.setattr(module, "write_marker", self.write)

    def write(self, root, folder, step, part, marker):
        if self.stop_at is not None and self.done.total() >= self.stop_at:
            raise StoreError("cut off")
        self.done[step] += 1
        write_marker(root, folder, step, part, marker)
