"""A real S3 endpoint on loopback: moto's server, with conditional puts that are atomic."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pyarrow import fs

BUCKET = "pinnerformer-tests"


class OneAtATime:
    """Handles one request at a time: moto looks at a condition and then puts, and nothing keeps two requests apart."""

    def __init__(self, application):
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environment, start_response):
        with self._lock:
            return list(self._application(environment, start_response))


def make_s3(host: str, port: int) -> Any:
    """A server that listens and does not serve yet; port 0: any."""
    # A second to load, which a process that only collects its tests need not pay.
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    return make_server(host, port, application, threaded=True)


@contextlib.contextmanager
def running_s3(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a server with one empty bucket, sets the standard variables for it; yields the URL of the bucket."""
    server = make_s3("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", "tests")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "never shown")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        address = endpoint.removeprefix("http://")
        fs.S3FileSystem(endpoint_override=address, scheme="http", allow_bucket_creation=True).create_dir(BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    """Serves S3 with one empty bucket until it is stopped: HOST PORT BUCKET."""
    host, port, bucket = sys.argv[1:]
    server = make_s3(host, int(port))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True).create_dir(bucket)
    threading.Event().wait()


if __name__ == "__main__":
    main()
