"""The root: every byte the job owns, written whole or not at all."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from stores.errors import StoreError, UsageError


def sha256_file(path: str) -> str:
    """Hex sha256 of a local file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explain_os_errors(path: str) -> Iterator[None]:
    """Turns the operating system's refusals into messages that name the path and the way out.

    Raises:
        StoreError: in place of every OSError.
    """
    try:
        yield
    except OSError as error:
        named = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"{named}: the disk is full; free some space and run the same command again "
                "(no half-written release is left, the previous one is still served)"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(f"{named}: not writable or not readable by this user; change its owner or mode") from error
        raise StoreError(f"{named}: {error.strerror or error}") from error


def _fsync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replace_atomically(path: str) -> Iterator[str]:
    """Yields a temporary name beside `path`; what the body wrote there becomes `path` at once, or nothing does.

    Order: write -> fsync -> rename -> fsync of the folder. A reader sees the old content or the new, never a part.
    """
    directory = os.path.dirname(path)
    with explain_os_errors(path):
        os.makedirs(directory, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=directory)
        os.close(descriptor)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _fsync_directory(directory)


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


@dataclasses.dataclass(frozen=True)
class Root:
    """A local folder under which everything the job owns lies; small and picklable, so that workers can hold it.

    Object stores are refused for now: what they lack here is the conditional put that CURRENT and the lease need.
    """

    url: str

    def __post_init__(self):
        scheme, separator, rest = self.url.partition("://")
        if separator and scheme != "file":
            raise UsageError(
                f"--root {self.url}: only local paths and file:// are supported so far, "
                f"{scheme}:// is not; mount it, or use a local folder"
            )
        object.__setattr__(self, "url", os.path.abspath(rest if separator else self.url))

    def path(self, relative: str) -> str:
        """The absolute local path of a name under the root."""
        return os.path.join(self.url, *relative.split("/")) if relative else self.url

    def exists(self, relative: str) -> bool:
        return os.path.exists(self.path(relative))

    def size(self, relative: str) -> int | None:
        """Bytes of a file; None if there is no such file."""
        try:
            return os.stat(self.path(relative)).st_size
        except FileNotFoundError:
            return None

    def remove(self, relative: str) -> None:
        """Removes a file, or a folder and everything in it; nothing happens if there is no such thing."""
        path = self.path(relative)
        with explain_os_errors(path):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def list(self, relative: str) -> list[str]:
        """Sorted names in a folder; empty if there is no such folder. Temporary names are left out."""
        try:
            return sorted(n for n in os.listdir(self.path(relative)) if not n.startswith(".tmp-"))
        except FileNotFoundError:
            return []

    def read_bytes(self, relative: str) -> bytes:
        """Content of a file.

        Raises:
            FileNotFoundError: no such file.
            StoreError: it cannot be read.
        """
        try:
            with open(self.path(relative), "rb") as file:
                return file.read()
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

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Writes a file whole or not at all, replacing what was there."""
        path = self.path(relative)
        with replace_atomically(path) as temporary, open(temporary, "wb") as file:
            file.write(data)

    def write_json(self, relative: str, value: Any) -> None:
        """Writes a JSON file whole or not at all; keys keep their order."""
        self.write_bytes(relative, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def write_named_by_content(
        self, folder: str, stem: str, suffix: str, part: int, rows: int, write: Callable[[str], None]
    ) -> FileEntry:
        """Writes `folder/stem-<digest><suffix>`, where the digest is the content's.

        A second attempt of a worker that writes the same bytes meets the same name; one that writes other bytes meets
        another. Neither can change what a manifest names.

        Args:
            write: Writes the content to the path it is given.
        """
        directory = self.path(folder)
        with explain_os_errors(directory):
            os.makedirs(directory, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=directory)
            os.close(descriptor)
            try:
                write(temporary)
                checksum = sha256_file(temporary)
                size = os.path.getsize(temporary)
                relative = f"{folder}/{stem}-{checksum[:16]}{suffix}"
                path = self.path(relative)
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
            _fsync_directory(directory)
        return FileEntry(path=relative, part=part, rows=rows, bytes=size, checksum=checksum)

    def compare_and_swap(self, relative: str, expected: bytes | None, new: bytes) -> bool:
        """Replaces a file's content if it is still what the caller last saw.

        Two processes of one machine, or of machines that share a file system with POSIX locks, cannot both win.

        Args:
            expected: The content it must have; None: it must not exist.

        Returns:
            Whether it was replaced.
        """
        with self._locked(relative):
            try:
                found: bytes | None = self.read_bytes(relative)
            except FileNotFoundError:
                found = None
            if found != expected:
                return False
            self.write_bytes(relative, new)
            return True

    @contextlib.contextmanager
    def _locked(self, relative: str) -> Iterator[None]:
        path = self.path(relative)
        with explain_os_errors(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor = os.open(
                os.path.join(os.path.dirname(path), f".lock-{os.path.basename(path)}"), os.O_RDWR | os.O_CREAT, 0o644
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
