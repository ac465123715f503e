"""What the worker pool promises beyond Beam's own."""

import pytest

from pipelines.launch.worker_pool import MESSAGE_BYTES
from tests.warm import run_python

SMALL_MESSAGES = """
from apache_beam.runners.worker.data_plane import ClosableOutputStream
from pipelines.launch.worker_pool import prepare_data_plane

prepare_data_plane()
sent = []
stream = ClosableOutputStream.create(sent.append, sent.append, 0)
for _ in range(40):
    stream.write(bytes(100_000))
    stream.maybe_flush()
print(max(map(len, sent)), len(sent))
"""


def test_messages_are_small_in_this_version_of_beam():
    done = run_python(SMALL_MESSAGES)
    assert done.returncode == 0, done.stderr
    largest, count = map(int, done.stdout.split())
    assert MESSAGE_BYTES < largest <= MESSAGE_BYTES + 100_000 and count == 3


SENDS_WITHOUT_A_READER = """
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker import data_plane
from pipelines.launch.worker_pool import prepare_data_plane

prepare_data_plane()
channel = data_plane._GrpcDataChannel()
for _ in range(20_100):
    channel._enqueue_to_send(beam_fn_api_pb2.Elements.Data(instruction_id="bundle"))
print("done", flush=True)
"""


@pytest.mark.timeout(60)
def test_a_worker_ends_its_bundle_though_the_engine_takes_none_of_its_output_before():
    done = run_python(SENDS_WITHOUT_A_READER)
    assert done.stdout == "done\n", done.stderr
