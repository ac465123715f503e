"""A vector set written a batch at a time: files named by their content, and `version.json` last."""

import dataclasses
import hashlib
import os
import re
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.errors import UsageError
from stores.files import Root
from stores.vector_sets import read_manifest
from stores.vector_version import VERSION_FILE

MADE_BY = "import"
STAGED = "_import"  # below the folder; readers of vectors leave it alone
ROWS_PER_FILE, ROWS_PER_GROUP = 1 << 18, 8192
_FILE_NAME = re.compile(r"vectors-\d{5}-[0-9a-f]{16}\.parquet")


@dataclasses.dataclass
class VectorWriter:
    """Writes vectors of one width.

    Args:
        folder: Of the vector set; local.
        ids: Type of `pin_id`.
    """

    folder: str
    ids: pa.DataType
    width: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        if "://" in self.folder:
            raise UsageError(f"--pins {self.folder}: an import writes to a local folder; copy it there afterwards")
        self.folder = os.path.abspath(self.folder)
        self._root = Root(self.folder)
        self._names: list[str] = []
        self._writer: pq.ParquetWriter | None = None
        self._digest = hashlib.sha256()
        self._waiting_rows = 0
        self.rows = 0

    @property
    def staged(self) -> str:
        return os.path.join(self.folder, STAGED)

    def add(self, ids: pa.Array, vectors: np.ndarray) -> None:
        """Takes rows.

        Args:
            vectors: float16 or float32 [N, width].
        """
        width = self.width = self.width or vectors.shape[1]
        flat = pa.array(np.ascontiguousarray(vectors, self.dtype).reshape(-1))
        rows = pa.table({"pin_id": ids.cast(self.ids), "vector": pa.FixedSizeListArray.from_arrays(flat, width)})
        start = 0
        while start < rows.num_rows:
            taken = min(ROWS_PER_FILE - self._waiting_rows, rows.num_rows - start)
            self._write(rows.slice(start, taken))
            start += taken
            if self._waiting_rows == ROWS_PER_FILE:
                self._close_file()
        self.rows += rows.num_rows

    def _write(self, rows: pa.Table) -> None:
        if self._writer is None:
            os.makedirs(self.staged, exist_ok=True)
            self._writer = pq.ParquetWriter(os.path.join(self.staged, "writing"), rows.schema)
        self._writer.write_table(rows, row_group_size=ROWS_PER_GROUP)
        self._waiting_rows += rows.num_rows

    def _close_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        path = os.path.join(self.staged, "writing")
        digest = locations.sha256_of(path)
        name = f"vectors-{len(self._names):05d}-{digest[:16]}.parquet"
        os.replace(path, os.path.join(self.staged, name))
        self._names.append(name)
        self._digest.update(digest.encode())
        self._writer, self._waiting_rows = None, 0

    def commit(self, version: str | None, facts: dict[str, Any]) -> str:
        """Makes a vector set of what was written, in place of the one that is there; returns its version.

        Args:
            version: Its name; None: one made of the content.
            facts: Go into `version.json`.
        """
        self._close_file()
        os.sync()
        named = version or f"import-{self._digest.hexdigest()[:12]}"
        # Without its version a folder is no vector set: at no moment is one there that is half old and half new.
        self._root.remove(VERSION_FILE)
        for name in self._root.list(""):
            if _FILE_NAME.fullmatch(name):
                self._root.remove(name)
        for name in self._names:
            os.replace(os.path.join(self.staged, name), os.path.join(self.folder, name))
        self._root.write_json(
            VERSION_FILE, {"pinsage_version": named, "made_by": MADE_BY, **facts, "files": self._names}
        )
        self.discard()
        return named

    def discard(self) -> None:
        """Removes what is staged."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        shutil.rmtree(self.staged, ignore_errors=True)


def refuse_existing(folder: str, replace: bool) -> None:
    """Keeps an import from mixing with vectors, or anything else, that is there.

    Raises:
        UsageError: the folder holds a vector set and `--replace` was not given, or files that no import wrote.
    """
    folder = locations.absolute(folder)
    names = [name for name in os.listdir(folder) if name != STAGED] if os.path.isdir(folder) else []
    complete = VERSION_FILE in names
    foreign = [name for name in names if name != VERSION_FILE and not _FILE_NAME.fullmatch(name)]
    if foreign:
        raise UsageError(f"--pins {folder}: {sorted(foreign)[0]} in it is not an import's; name a new folder")
    if complete and not replace:
        version = (read_manifest(folder) or {}).get("pinsage_version", "NAME")
        raise UsageError(
            f"--pins {folder}: a vector set is there; --replace puts the imported one in its place, as another "
            f"version, which needs another model; for the same encoder and more pins add --vectors-version {version}"
        )
