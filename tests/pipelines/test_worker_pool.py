"""What the worker pool promises beyond Beam's own."""

import subprocess
import sys

from pipelines.worker_pool import MESSAGE_BYTES

SMALL_MESSAGES = """
from apache_beam.runners.worker.data_plane import ClosableOutputStream
from pipelines.worker_pool import send_small_messages

send_small_messages()
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
