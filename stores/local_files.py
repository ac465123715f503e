"""Files of this machine: replaced by a rename, compared and swapped under a lock."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from stores.errors import StoreError


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
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and "://" not in str(named):
            raise StoreError(f"{named}: not writable or not readable by this user; change its owner or mode") from error
        raise StoreError(f"{named}: {error.strerror or error}") from error


def refuse_way_out(root: str, path: str) -> None:
    """Refuses a path under a root that symbolic links lead out of it; the root itself may be reached by one.

    Raises:
        StoreError: names the path and where it leads.
    """
    found, inside = os.path.realpath(path), os.path.realpath(root)
    if found != inside and not found.startswith(inside.rstrip("/") + "/"):
        raise StoreError(
            f"{path}: a symbolic link leads out of the root, to {found}; nothing there is read, written or removed: "
            "put the files themselves here, or mount the folder"
        )


def _fsync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


# Asked once, as the module is loaded: the umask is the process's, and to read it is to change it for a moment.
_UMASK = _umask()
_CHOSEN: list[int] = []  # the mode of `--file-mode`, last


def use_file_mode(mode: int | None) -> None:
    """Gives every file that this process writes from now on a mode of its own; None: what the umask says."""
    _CHOSEN[:] = [] if mode is None else [mode]


def chosen_file_mode() -> int | None:
    """What `use_file_mode` was given."""
    return _CHOSEN[-1] if _CHOSEN else None


def file_mode() -> int:
    """The mode of the next file: temporary ones are made for their owner alone, and get it as they are moved."""
    return _CHOSEN[-1] if _CHOSEN else 0o666 & ~_UMASK


@contextlib.contextmanager
def temporary_file(directory: str) -> Iterator[str]:
    """Yields the name of a new file in a folder, which is made if need be; removes it if it is still there."""
    os.makedirs(directory, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=directory)
    os.close(descriptor)
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def move_into_place(temporary: str, path: str, *, durable: bool = True) -> None:
    """fsync -> rename -> fsync of the folder: a reader sees the old content or the new, never a part.

    Args:
        durable: Wait until it is on the disk; without it a power cut may leave no file, or a damaged one.
    """
    # The rename alone is atomic for readers; what it lacks is only what a power cut takes away.
    if not durable:
        os.chmod(temporary, file_mode())
        os.replace(temporary, path)
        return
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.chmod(temporary, file_mode())
    os.replace(temporary, path)
    # A rename is an entry of the folder: without this a power cut may bring the old name back.
    _fsync_directory(os.path.dirname(path))


@contextlib.contextmanager
def replace_atomically(path: str, *, durable: bool = True) -> Iterator[str]:
    """Yields a temporary name beside `path`; what the body wrote there becomes `path` at once, or nothing does.

    Args:
        durable: As `move_into_place` takes it.
    """
    with explain_os_errors(path), temporary_file(os.path.dirname(path)) as temporary:
        yield temporary
        move_into_place(temporary, path, durable=durable)


class LocalFiles:
    """How a root on this machine, or on a file system that all workers mount, is written."""

    def scratch(self, path: str) -> str:
        """The folder for a file that is to become `path`: the same one, so that a rename is enough."""
        return os.path.dirname(path)

    def write(self, path: str, data: bytes, durable: bool = True) -> None:
        """As `Root.write_bytes`."""
        with replace_atomically(path, durable=durable) as temporary, open(temporary, "wb") as file:
            file.write(data)

    def put(self, temporary: str, path: str) -> None:
        """Makes a file of the scratch folder the content of `path`."""
        move_into_place(temporary, path)

    def compare_and_swap(self, path: str, expected: bytes | None, new: bytes) -> bool:
        """As `Root.compare_and_swap`: for processes of one machine, or of machines that share POSIX locks."""
        # POSIX has no compare-and-swap on a file's content, so read and rename are one step under a lock that everybody
        # takes.
        with self._locked(path):
            if self._content(path) != expected:
                return False
            self.write(path, new)
            return True

    def compare_and_remove(self, path: str, expected: bytes) -> bool:
        """As `Root.compare_and_remove`."""
        with self._locked(path), explain_os_errors(path):
            if self._content(path) != expected:
                return False
            os.unlink(path)
            return True

    def remove(self, path: str) -> None:
        """Removes a file, or a folder and everything in it; nothing happens if there is no such thing."""
        with explain_os_errors(path):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def local_copy(self, path: str, bytes: int, checksum: str) -> str:
        """The file itself."""
        return path

    def local_folder(self, path: str) -> str:
        """The folder itself."""
        return path

    def _content(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        directory, name = os.path.split(path)
        with explain_os_errors(path):
            os.makedirs(directory, exist_ok=True)
            # A lock file of its own beside the file: the file itself is replaced by a rename, and a lock on it would be
            # on what is gone. It is never removed, since another process may be waiting for it.
            descriptor = os.open(
                os.path.join(directory, f".lock-{name}"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644
            )
        try:
            # The kernel drops it with the process: a killed one blocks nobody.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
