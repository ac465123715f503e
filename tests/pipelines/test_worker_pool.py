"""What the worker pool promises beyond Beam's own."""

import subprocess
import sys

from pipelines.worker_pool import MESSAGE_BYTES

SMALL_MESSAGES = """
from apache_beam.runners.worker.data_plane import ClosableOutputStream
from pipelines.worker_pool import prepare_data_plane

prepare_data_plane()
sent = []
stream = ClosableOutputStream.create(sent.append, sent.append, 0)
for _ in range(40):
    stream.write(bytes(100_000))
    stream.maybe_flush()
print(max(map(len, sent)), len(sent))
"""


def test_messages_are_small_in_this_version_of_beam():
    done = subprocess.run([sys.executable, "-c", SMALL_MESSAGES], capture_output=True, text=True, check=True)
    largest, count = map(int, done.stdout.split())
    assert MESSAGE_BYTES < largest <= MESSAGE_BYTES + 100_000 and count == 3


SENDS_WITHOUT_A_READER = """
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker import data_plane
from pipelines.worker_pool import prepare_data_plane

prepare_data_plane()
channel = data_plane._GrpcDataChannel()
for _ in range(20_100):
    channel._enqueue_to_send(beam_fn_api_pb2.Elements.Data(instruction_id="bundle"))
print("done", flush=True)
"""


def test_a_worker_ends_its_bundle_though_the_engine_takes_none_of_its_output_before():
    done = subprocess.run(
        [sys.executable, "-c", SENDS_WITHOUT_A_READER], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "done\n"
