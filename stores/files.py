"""The root: every byte the job owns, written whole or not at all."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from stores import locations
from stores.errors import StoreError, UsageError
from stores.local_files import (
    LocalFiles,
    explain_os_errors,
    refuse_way_out,
    replace_atomically,
    sha256_file,
    temporary_file,
)
from stores.object_files import ObjectFiles

__all__ = ["FileEntry", "Root", "explain_os_errors", "replace_atomically", "sha256_file"]


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of a table as the manifest names it.

    Attributes:
        path: Relative to the root, with `/`.
        part: The bucket or shard it holds rows of.
        rows: Number of rows (of vectors, for an index).
        bytes: Size.
        checksum: Hex sha256 of the content; its first 16 digits are part of the name.
    """

    path: str
    part: int
    rows: int
    bytes: int
    checksum: str


class Files(Protocol):
    """How files are written where a root lies; `path` is what `Root.path` gives."""

    def scratch(self, path: str) -> str: ...
    def write(self, path: str, data: bytes, durable: bool = True) -> None: ...
    def put(self, temporary: str, path: str) -> None: ...
    def compare_and_swap(self, path: str, expected: bytes | None, new: bytes) -> bool: ...
    def compare_and_remove(self, path: str, expected: bytes) -> bool: ...
    def remove(self, path: str) -> None: ...
    def local_copy(self, path: str, bytes: int, checksum: str) -> str: ...
    def local_folder(self, path: str) -> str: ...


@dataclasses.dataclass(frozen=True)
class Root:
    """The folder under which everything the job owns lies; small and picklable, so that workers can hold it.

    Args:
        url: A local path, `file://`, `s3://BUCKET/FOLDER` or `gs://BUCKET/FOLDER`.

    Raises:
        UsageError: another kind of URL, or one without a conditional put, which CURRENT and the lease need.
    """

    url: str

    def __post_init__(self):
        object.__setattr__(self, "url", locations.absolute(self.url))
        if self.url.startswith("hdfs://"):
            raise UsageError(
                f"--root {self.url}: HDFS has no conditional put, which CURRENT and the lease need; "
                "use s3://, gs:// or a local path"
            )

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine, or one that is mounted on it."""
        return "://" not in self.url

    @property
    def _files(self) -> Files:
        return LocalFiles() if self.is_local else ObjectFiles()

    def path(self, relative: str) -> str:
        """The absolute path or the URL of a name under the root: what messages show, and what `stores.locations` reads.

        Only of a local root may it be opened as a file.
        """
        return locations.join(self.url, *relative.split("/")) if relative else self.url

    def _inside(self, relative: str) -> str:
        """`path`, of whatever is read, written or removed there.

        Raises:
            StoreError: links lead out of the root.
        """
        path = self.path(relative)
        if self.is_local:
            refuse_way_out(self.url, path)
        return path

    def exists(self, relative: str) -> bool:
        return locations.exists(self.path(relative))

    def size(self, relative: str) -> int | None:
        """Bytes of a file; None if there is no such file."""
        with explain_os_errors(self.path(relative)):
            return locations.size_of(self._inside(relative))

    def modified(self, relative: str) -> float:
        """When a file was written last, in seconds since 1970.

        Raises:
            FileNotFoundError: no such file.
        """
        return locations.modified_ns(self._inside(relative)) / 1e9

    def list(self, relative: str, *, temporary: bool = False) -> list[str]:
        """Sorted names in a folder; empty if there is no such folder.

        Args:
            temporary: Whether names of files that are being written, or that a killed process left, are listed too.
        """
        try:
            names = locations.list_names(self._inside(relative))
            return [name for name in names if temporary or not name.startswith(".tmp-")]
        except FileNotFoundError:
            return []

    def open_input(self, relative: str) -> pa.NativeFile:
        """Opens a file for reading at any place in it: mapped into memory if it is local, by ranges elsewhere.

        Raises:
            FileNotFoundError: no such file.
        """
        return locations.open_input(self._inside(relative))

    def local_copy(self, entry: FileEntry) -> str:
        """The path of a local file with an entry's content, to map it or to hand it to a library that wants a file.

        On a local root it is the file itself, unchecked; on an object store a copy in this machine's cache, downloaded
        once and checked against the entry's checksum.

        Raises:
            StoreError: on an object store, the object is missing or not what the entry says.
        """
        return self._files.local_copy(self._inside(entry.path), entry.bytes, entry.checksum)

    def local_folder(self, relative: str) -> str:
        """A folder of this machine for hints that no result needs: `relative` itself if the root is local."""
        return self._files.local_folder(self._inside(relative))

    def read_bytes(self, relative: str) -> bytes:
        """Content of a file.

        Raises:
            FileNotFoundError: no such file.
            StoreError: it cannot be read.
        """
        try:
            return locations.read_bytes(self._inside(relative))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.path(relative)}: {error.strerror}") from error

    def read_json(self, relative: str) -> Any:
        """Content of a JSON file.

        Raises:
            FileNotFoundError: no such file.
            StoreError: it is not JSON.
        """
        try:
            return json.loads(self.read_bytes(relative))
        except ValueError as error:
            raise StoreError(
                f"{self.path(relative)}: not valid JSON ({error}); it was damaged after it was written, "
                "restore it from a backup of the root"
            ) from error

    def checksum(self, relative: str) -> str:
        """Hex sha256 of a file's content, read to its end.

        Raises:
            FileNotFoundError: no such file.
        """
        return locations.sha256_of(self._inside(relative))

    def write_bytes(self, relative: str, data: bytes, *, durable: bool = True) -> None:
        """Writes a file whole or not at all, replacing what was there.

        Args:
            durable: On a local root, wait until it is on the disk. Without it a power cut, but no killed process, may
                take it away or damage it: for what can be made again.
        """
        self._files.write(self._inside(relative), data, durable)

    def write_json(self, relative: str, value: Any, *, durable: bool = True) -> None:
        """Writes a JSON file as `write_bytes` does; keys keep their order."""
        self.write_bytes(relative, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), durable=durable)

    def write_named_by_content(
        self, folder: str, stem: str, suffix: str, part: int, rows: int, write: Callable[[str], None]
    ) -> FileEntry:
        """Writes `folder/stem-<digest><suffix>`, where the digest is the content's.

        A second attempt of a worker that writes the same bytes meets the same name; one that writes other bytes meets
        another. Neither can change what a manifest names.

        Args:
            write: Writes the content to the local path it is given.
        """
        scratch = self._files.scratch(self._inside(f"{folder}/{stem}"))
        with explain_os_errors(scratch), temporary_file(scratch) as temporary:
            write(temporary)
            # Read again: the writers are libraries that take a path, and their bytes do not pass through here.
            checksum = sha256_file(temporary)
            size = os.path.getsize(temporary)
            relative = f"{folder}/{stem}-{checksum[:16]}{suffix}"
            self._files.put(temporary, self.path(relative))
        return FileEntry(path=relative, part=part, rows=rows, bytes=size, checksum=checksum)

    def compare_and_swap(self, relative: str, expected: bytes | None, new: bytes) -> bool:
        """Replaces a file's content if it is still what the caller last saw; of two that try, at most one succeeds.

        Locally, this holds for processes of one machine, or of machines that share a file system with POSIX locks; on
        an object store everywhere.

        Args:
            expected: The content it must have; None: it must not exist.

        Returns:
            Whether it was replaced.
        """
        return self._files.compare_and_swap(self._inside(relative), expected, new)

    def compare_and_remove(self, relative: str, expected: bytes) -> bool:
        """Removes a file if its content is still what the caller last saw; an object store keeps an empty object.

        Returns:
            Whether it was removed.
        """
        return self._files.compare_and_remove(self._inside(relative), expected)

    def remove(self, relative: str) -> None:
        """Removes a file, or a folder and everything in it; nothing happens if there is no such thing."""
        self._files.remove(self._inside(relative))
