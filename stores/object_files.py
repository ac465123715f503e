"""Objects of S3 or Google Cloud Storage: put whole, swapped by a conditional put, copied here to be mapped."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import obstore
from obstore import exceptions

from stores import locations
from stores.errors import StoreError
from stores.local_files import explain_os_errors, move_into_place, temporary_file
from stores.object_stores import as_os_errors, bucket_client

PART_BYTES = 16 << 20  # of an upload in parts: 10,000 of them are the most that S3 takes, 156 GiB
KEPT_S = 2 * 86_400  # a copy that nobody asked for in this long is removed
_BLOCK = 8 << 20


def cache_folder(*names: str) -> str:
    """A folder of this machine's cache: in $PINNERFORMER_CACHE, or in the folder for temporary files.

    Raises:
        StoreError: it is another user's, who could put other bytes into it, or it cannot be made.
    """
    cache = os.environ.get("PINNERFORMER_CACHE") or os.path.join(
        tempfile.gettempdir(), f"pinnerformer-cache-{os.getuid()}"
    )
    with explain_os_errors(cache):
        os.makedirs(cache, mode=0o700, exist_ok=True)
        if os.stat(cache).st_uid != os.getuid():
            raise StoreError(f"{cache}: belongs to another user; set PINNERFORMER_CACHE to a folder of your own")
    return os.path.join(cache, *names)


class ObjectFiles:
    """How a root on an object store is written; every path is a URL."""

    def scratch(self, path: str) -> str:
        """The folder for a file that is to become `path`: one of this machine."""
        return cache_folder("writing")

    def write(self, path: str, data: bytes, durable: bool = True) -> None:
        """Puts an object, replacing what was there; an object that was put is durable."""
        with self._client(path) as (client, key):
            obstore.put(client, key, data)

    def put(self, temporary: str, path: str) -> None:
        """Uploads a file; large ones in parts, which become an object when the last has arrived."""
        with self._client(path) as (client, key), open(temporary, "rb") as file:
            obstore.put(client, key, file, chunk_size=PART_BYTES, max_concurrency=4)

    def compare_and_swap(self, path: str, expected: bytes | None, new: bytes) -> bool:
        """As `Root.compare_and_swap`, by the store's own conditional put: no lock, any number of machines.

        If the answer to a put is lost and the client asks again, a swap that happened counts as one that did not:
        whoever must know reads what is there now and looks whether it is its own.
        """
        with self._client(path) as (client, key):
            # The store compares, not we: between our read and the put anybody may write, and then the put with the old
            # ETag fails.
            mode: Any = "create"
            if expected is not None:
                try:
                    found = obstore.get(client, key)
                except (FileNotFoundError, exceptions.NotFoundError):
                    return False
                if bytes(found.bytes()) != expected:
                    return False
                mode = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name] is not None}
            try:
                # In one piece: the condition is on the one put that makes the object.
                obstore.put(client, key, new, mode=mode, use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return False
            except (FileNotFoundError, exceptions.NotFoundError):  # removed between the two
                return False
        return True

    def compare_and_remove(self, path: str, expected: bytes) -> bool:
        """As `Root.compare_and_remove`; there is no conditional delete everywhere, so an empty object stays."""
        return self.compare_and_swap(path, expected, b"")

    def remove(self, path: str) -> None:
        """Removes an object, and everything whose name begins with it and a slash."""
        with self._client(path) as (client, key):
            # The slash keeps `part-1` from taking `part-10` with it.
            for page in obstore.list(client, prefix=f"{key}/"):
                _delete(client, [found["path"] for found in page])
            _delete(client, [key])

    def local_copy(self, path: str, bytes: int, checksum: str) -> str:
        """A copy in this machine's cache: downloaded by the first process that asks, the others wait for it.

        Raises:
            StoreError: the object is missing, or its content has another digest.
        """
        suffix = os.path.splitext(path)[1]
        copy = cache_folder("copies", f"{checksum}{suffix}")
        with explain_os_errors(copy):
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            # One download per machine, however many workers start at once: the others find the file when they get the
            # lock.
            with _locked(f"{copy}.lock"):
                if not os.path.exists(copy) or os.path.getsize(copy) != bytes:
                    _remove_old_copies(os.path.dirname(copy))
                    self._download(path, copy, checksum)
                # Use counts as youth: `_remove_old_copies` looks at this time.
                os.utime(copy)
        return copy

    def _download(self, path: str, copy: str, checksum: str) -> None:
        digest = hashlib.sha256()
        with temporary_file(os.path.dirname(copy)) as temporary:
            with self._client(path) as (client, key), open(temporary, "wb") as file:
                for block in obstore.get(client, key).stream(min_chunk_size=_BLOCK):
                    # Hashed while it arrives: the check costs no second read of the file.
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != checksum:
                raise StoreError(
                    f"{path}: its content has sha256 {digest.hexdigest()[:16]}, its manifest says {checksum[:16]}; "
                    "restore the file from a backup"
                )
            move_into_place(temporary, copy)

    def local_folder(self, path: str) -> str:
        """A folder of this machine that stands for `path`."""
        return cache_folder("folders", hashlib.sha256(path.encode()).hexdigest()[:16])

    @contextlib.contextmanager
    def _client(self, path: str) -> Iterator[tuple[Any, str]]:
        with explain_os_errors(path), as_os_errors(path):
            yield bucket_client(path)


def _delete(client: Any, keys: list[str]) -> None:
    """Removes objects that may be gone: Google Cloud Storage says so of one, and S3 does not."""
    missing = (FileNotFoundError, exceptions.NotFoundError)
    try:
        obstore.delete(client, keys)
    except missing:
        for key in keys:
            with contextlib.suppress(*missing):
                obstore.delete(client, key)


def copy_folder(url: str, names: tuple[str, ...], digest_of: Callable[[str], str], digest: str | None = None) -> str:
    """A copy of some files of a folder in this machine's cache, named by what `digest_of` makes of them.

    Args:
        names: Of the files.
        digest_of: Local folder -> hex digest.
        digest: What it must be, if that is known; a copy that is there already is then not asked for again.

    Returns:
        The local folder; if `digest` was given and the files have another by now, that of the others.

    Raises:
        OSError: a file is missing or cannot be read; `filename` is its URL.
    """
    models = cache_folder("models")
    if digest and os.path.isdir(os.path.join(models, digest)):
        return os.path.join(models, digest)
    os.makedirs(models, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".tmp-", dir=models)
    try:
        for name in names:
            with open(os.path.join(temporary, name), "wb") as file:
                for block in locations.read_blocks(locations.join(url, name)):
                    file.write(block)
        target = os.path.join(models, digest_of(temporary))
        with contextlib.suppress(OSError):  # another process was faster: its copy is the same
            os.rename(temporary, target)
        return target
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_old_copies(folder: str) -> None:
    """Removes what was not asked for lately; whoever has it open or mapped keeps it."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):
            if os.path.getmtime(path) < time.time() - KEPT_S:
                os.unlink(path)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.utime(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
