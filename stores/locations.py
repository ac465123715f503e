"""Reading from a location, which is a local path or a URL of an object store.

Logs, vectors and models are given as locations, and the names under a root are locations too. Every function raises
OSErrors whose `strerror` is a reason and whose `filename` is the location, wherever the bytes lie.
"""

import dataclasses
import datetime
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any

import obstore
import pyarrow as pa
from pyarrow import fs

from stores.object_stores import as_os_errors, bucket_client, file_system, is_url

_BLOCK = 8 << 20
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True)
class Listed:
    """What a listing says of one name in a folder.

    Attributes:
        name: The last part of its location.
        kind: `file`, `folder`, or `other`: a pipe, a device, a link that leads nowhere.
        bytes: Size of a file.
        modified_ns: When a file was written last, in ns since 1970.
        stamp: Changes whenever a file is written or replaced, whatever time it is given; "" where nothing says so.
    """

    name: str
    kind: str
    bytes: int = 0
    modified_ns: int = 0
    stamp: str = ""


def absolute(location: str) -> str:
    """The location as workers in other folders can use it: an absolute path, or the URL without a slash at its end."""
    if is_url(location):
        return location.rstrip("/")
    return os.path.abspath(location.removeprefix("file://"))


def join(folder: str, *names: str) -> str:
    """The location of something in a folder."""
    return "/".join([folder.rstrip("/"), *names]) if is_url(folder) else os.path.join(folder, *names)


def base_name(location: str) -> str:
    """The last part of a location."""
    return location.rpartition("/")[2]


def parent(location: str) -> str:
    """The folder that something lies in."""
    return absolute(location).rpartition("/")[0] or "/"


def _information(location: str) -> Any:
    with as_os_errors(location):
        system, path = file_system(location)
        return system.get_file_info(path)


def list_names(folder: str) -> list[str]:
    """Sorted names of the files and folders in a folder.

    Raises:
        FileNotFoundError: no such folder; an object store has no empty ones.
    """
    if not is_url(folder):
        return sorted(os.listdir(folder))
    with as_os_errors(folder):
        if folder.startswith("hdfs://"):
            system, path = file_system(folder)
            return sorted(found.base_name for found in system.get_file_info(fs.FileSelector(path)))
        # Not pyarrow: on Google Cloud Storage it lists no folder but those that it made itself.
        client, key = bucket_client(folder)
        found = obstore.list_with_delimiter(client, key or None)
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        names = {base_name(path.rstrip("/")) for path in paths if path.strip("/") != key}
        if not names and key:
            raise FileNotFoundError
        return sorted(names)


def list_entries(folder: str) -> list[Listed]:
    """As `list_names`, with the kind, size and time of each: one request where the store gives them with the names.

    Raises:
        FileNotFoundError: no such folder; an object store has no empty ones.
    """
    if not is_url(folder):
        with os.scandir(folder) as found:
            return sorted((_of_local(entry) for entry in found), key=lambda entry: entry.name)
    with as_os_errors(folder):
        if folder.startswith("hdfs://"):
            system, path = file_system(folder)
            return sorted(
                (_of_information(info) for info in system.get_file_info(fs.FileSelector(path))),
                key=lambda entry: entry.name,
            )
        client, key = bucket_client(folder)
        listed = obstore.list_with_delimiter(client, key or None)
        if not listed["common_prefixes"] and not listed["objects"] and key:
            raise FileNotFoundError
        entries = [Listed(base_name(prefix), "folder") for prefix in listed["common_prefixes"]]
        entries += [
            Listed(base_name(one["path"]), "file", one["size"], _ns_of(one["last_modified"]), one["e_tag"] or "")
            for one in listed["objects"]
            if one["path"].strip("/") != key  # an object called like the folder marks that it is there
        ]
        return sorted(entries, key=lambda entry: entry.name)


def _of_local(entry: os.DirEntry) -> Listed:
    try:
        found = entry.stat()
    except OSError:
        return Listed(entry.name, "other")
    kind = "file" if stat.S_ISREG(found.st_mode) else "folder" if stat.S_ISDIR(found.st_mode) else "other"
    # Nobody can set the time of the last change of an inode, as `rsync -t` and `touch` do that of its content.
    stamp = f"{found.st_ino}-{found.st_ctime_ns}"
    return Listed(entry.name, kind, found.st_size, found.st_mtime_ns, stamp)


def _of_information(found: Any) -> Listed:
    kinds = {fs.FileType.File: "file", fs.FileType.Directory: "folder"}
    return Listed(found.base_name, kinds.get(found.type, "other"), found.size or 0, found.mtime_ns or 0)


def _ns_of(moment: datetime.datetime) -> int:
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1) * 1000


def exists(location: str) -> bool:
    """Whether there is a file or a folder."""
    if not is_url(location):
        return os.path.exists(location)
    return _information(location).type != fs.FileType.NotFound


def size_of(location: str) -> int | None:
    """Bytes of a file; None if there is no such file."""
    if is_url(location):
        found = _information(location)
        return found.size if found.type == fs.FileType.File else None
    try:
        # One call and not `exists` first: between the two the file may go.
        found = os.stat(location)
        return found.st_size if stat.S_ISREG(found.st_mode) else None
    except FileNotFoundError:
        return None


def modified_ns(location: str) -> int:
    """When a file was written last, in ns since 1970; 0 for a folder of an object store, which has no such time.

    Raises:
        FileNotFoundError: no such file.
    """
    if not is_url(location):
        return os.stat(location).st_mtime_ns
    found = _information(location)
    if found.type == fs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location)
    return found.mtime_ns or 0


def read_bytes(location: str) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: no such file.
    """
    if not is_url(location):
        with open(location, "rb") as file:
            return file.read()
    with as_os_errors(location):
        system, path = file_system(location)
        with system.open_input_stream(path) as stream:
            return stream.read()


def open_input(location: str) -> pa.NativeFile:
    """Opens a file for reading at any place in it: mapped into memory if it is local, by ranges elsewhere.

    Raises:
        FileNotFoundError: no such file.
    """
    if not is_url(location):
        return pa.memory_map(location)
    with as_os_errors(location):
        system, path = file_system(location)
        return system.open_input_file(path)


def read_blocks(location: str) -> Iterator[bytes]:
    """Yields the content of a file in blocks of a few MB.

    Raises:
        FileNotFoundError: no such file.
    """
    with as_os_errors(location):
        if is_url(location):
            system, path = file_system(location)
            stream = system.open_input_stream(path)
        else:
            stream = open(location, "rb")
        with stream:
            while block := stream.read(_BLOCK):
                yield block


def sha256_of(location: str) -> str:
    """Hex sha256 of a file's content.

    Raises:
        FileNotFoundError: no such file.
    """
    digest = hashlib.sha256()
    for block in read_blocks(location):
        digest.update(block)
    return digest.hexdigest()
