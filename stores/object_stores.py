"""Clients of object stores, one set of environment variables for both.

Bytes are read through `pyarrow.fs`, which reads ranges of a Parquet file; listing, and writes, above all the
conditional ones, go through `obstore`, which puts an object whole or not at all. Both find their credentials by
themselves, in the standard variables or in the machine's own role; none of them is kept, passed on or printed here.
"""

import contextlib
import datetime
import errno
import functools
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from obstore import exceptions
from obstore.store import GCSStore, S3Store
from pyarrow import fs

from stores.errors import UsageError

SCHEMES = ("s3", "gs", "hdfs")
_TIMEOUT_S = 60
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, away from AWS, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "hdfs": "HADOOP_HOME and CLASSPATH",
}


def is_url(location: str) -> bool:
    """Whether a location is a URL of an object store; else it is a local path.

    Raises:
        UsageError: a URL of a kind that is not supported.
    """
    scheme, separator, rest = location.partition("://")
    if not separator or scheme == "file":
        return False
    if scheme not in SCHEMES:
        raise UsageError(f"{location}: expected a local path, file://, s3://BUCKET/... or gs://BUCKET/...")
    if not rest.strip("/"):
        raise UsageError(f"{location}: names no bucket; write {scheme}://BUCKET/FOLDER")
    if "@" in rest.split("/")[0]:
        raise UsageError(f"{scheme}://: credentials do not belong into a URL; set {_CREDENTIALS[scheme]}")
    return True


def _s3_endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def endpoint_host() -> str:
    """The host that this process's variables say serves S3; "" if they leave that to AWS."""
    return urlsplit(_s3_endpoint() or "").hostname or ""


def _s3_options() -> tuple[tuple[str, str], ...]:
    """Endpoint and region as the standard variables have them; clients are kept by them."""
    # Read on every call, and part of the cache's key: a client is of the variables that it was made with.
    endpoint = _s3_endpoint()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options = {"endpoint": endpoint.rstrip("/")} if endpoint else {}
    if region or endpoint:
        options["region"] = region or "us-east-1"
    return tuple(options.items())


@functools.lru_cache(maxsize=32)
def _file_system(scheme: str, bucket: str, process: int, s3: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    if scheme == "gs":
        return fs.GcsFileSystem()
    if scheme == "hdfs":
        host, _, port = bucket.partition(":")
        return fs.HadoopFileSystem(host or "default", int(port or 0))
    options: dict[str, Any] = {"connect_timeout": 10, "request_timeout": _TIMEOUT_S}
    found = dict(s3)
    if "endpoint" in found:
        endpoint = urlsplit(found["endpoint"])
        options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    options["region"] = found.get("region") or fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(**options)


def _split(url: str) -> tuple[str, str, str]:
    """Scheme, bucket, and the rest from its first `/` on: in a key `#` and `?` are letters like any other."""
    scheme, _, rest = url.partition("://")
    bucket, slash, path = rest.partition("/")
    return scheme, bucket, slash + path


def file_system(url: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow file system of a URL, one per process, and the path in it."""
    scheme, bucket, path = _split(url)
    path = path if scheme == "hdfs" else f"{bucket}{path}".rstrip("/")
    return _file_system(scheme, bucket, os.getpid(), _s3_options()), path


@functools.lru_cache(maxsize=32)
def _bucket_client(scheme: str, bucket: str, process: int, s3: tuple[tuple[str, str], ...]) -> Any:
    retries: Any = {"max_retries": 5, "retry_timeout": datetime.timedelta(seconds=_TIMEOUT_S)}
    if scheme == "gs":
        return GCSStore(bucket, retry_config=retries)
    if scheme == "s3":
        options: Any = dict(s3)
        options["region"] = options.get("region") or fs.resolve_s3_region(bucket)
        http = options.get("endpoint", "").startswith("http://")
        client: Any = {"allow_http": True} if http else {}
        return S3Store(bucket, **options, client_options=client, retry_config=retries)
    raise UsageError(f"{scheme}://{bucket}: no conditional put there, which CURRENT and the lease of a root need")


def bucket_client(url: str) -> tuple[Any, str]:
    """The obstore client of a URL's bucket, one per process, and the key in it.

    Raises:
        UsageError: `hdfs://`, which has no conditional put.
    """
    scheme, bucket, path = _split(url)
    return _bucket_client(scheme, bucket, os.getpid(), _s3_options()), path.strip("/")


@contextlib.contextmanager
def as_os_errors(location: str) -> Iterator[None]:
    """Turns what either client raises into an OSError with a number, a reason of one line and the location.

    Raises:
        FileNotFoundError, PermissionError, OSError: `strerror` says why, `filename` is the location.
    """
    try:
        yield
    except (FileNotFoundError, exceptions.NotFoundError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise _refused(location) from None
    except (OSError, pa.ArrowException, exceptions.BaseError) as error:
        if isinstance(error, OSError) and error.errno and error.filename:
            raise
        # pyarrow and obstore say a refusal in words only, each in its own.
        text = " ".join(str(error).split())
        if any(word in text for word in ("ACCESS_DENIED", "HTTP status 403", "HTTP status 401", "credential")):
            raise _refused(location) from None
        raise OSError(errno.EIO, text[:300], location) from None


def _refused(location: str) -> PermissionError:
    scheme = location.partition("://")[0]
    return PermissionError(errno.EACCES, f"access denied; set {_CREDENTIALS.get(scheme, 'credentials')}", location)
