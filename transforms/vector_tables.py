"""The pin vectors of a run, mapped once per process."""

from collections.abc import Sequence

from apache_beam.utils.shared import Shared

from stores.files import FileEntry, Root
from stores.pin_vectors import VectorTable


class SharedVectorTable:
    """The table of all pin vectors for the DoFns of one step; small and picklable until it is opened.

    Every thread of a worker process gets the same mapping.

    Args:
        root: Of the run.
        dtype: `float16` or `float32`.
    """

    def __init__(self, root: Root, dtype: str):
        self._root = root
        self._dtype = dtype
        self._shared = Shared()

    def open(self, tables: Sequence[FileEntry]) -> VectorTable:
        """The table that some files make, one per shard."""
        # The tag holds the paths: in a long-lived worker the next run's tables must not be answered from these.
        return self._shared.acquire(
            lambda: VectorTable.open(self._root, list(tables), self._dtype),
            tag=tuple(sorted(entry.path for entry in tables)),
        )
