"""What `pinnerformer worker-pool` is asked for: its flags, read into one request."""

import dataclasses

from pipelines.arguments import Parser, positive

DESCRIPTION = """\
Serves workers to an engine that runs beside it (--environment_type=EXTERNAL --environment_config=HOST:PORT): one pool a
machine or pod, next to Flink's TaskManager.

Beam's own pool does the same with five differences: it starts whatever `python` is first on the PATH, which then
imports everything again; it reads none of what its workers print, so that one that has printed 64 KiB stands still, and
the job with it; its workers send messages of 10 MB, of which a Java engine keeps up to 100 a stage on its heap; they
wait for room before they send more than 100 MB ahead, and the engine waits for them, forever; and it listens on every
interface. Here a worker is forked from a process that has imported everything already (Flink starts new workers for
every wave of stages), stdout goes where stderr goes, messages are of 1 MB, sending does not wait (a worker holds what a
stage puts out in its slot), the default is loopback.
"""


@dataclasses.dataclass(frozen=True)
class WorkerPoolRequest:
    """What `pinnerformer worker-pool` is asked for: the address to listen on."""

    host: str
    port: int


def make_parser() -> Parser:
    """The flags of `pinnerformer worker-pool`."""
    parser = Parser(prog="pinnerformer worker-pool", description=DESCRIPTION)
    parser.add_argument("--port", type=positive, default=50000, help="port to listen on")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    return parser


def parse(argv: list[str]) -> WorkerPoolRequest:
    """Reads the flags of `pinnerformer worker-pool`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    return WorkerPoolRequest(found.host, found.port)
