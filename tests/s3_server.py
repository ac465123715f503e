"""A real S3 endpoint on loopback: moto's server, with conditional puts that are atomic."""

import contextlib
import logging
import threading
from collections.abc import Iterator

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow import fs
from werkzeug.serving import make_server

BUCKET = "pinnerformer-tests"


class OneAtATime:
    """Handles one request at a time: moto looks at a condition and then puts, and nothing keeps two requests apart."""

    def __init__(self, application):
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environment, start_response):
        with self._lock:
            return list(self._application(environment, start_response))


@contextlib.contextmanager
def running_s3(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a server with one empty bucket, sets the standard variables for it; yields the URL of the bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
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
