"""A Beam worker pool on the loopback interface: starts a Python worker process for every one that Flink asks for.

Beam's own `worker_pool_main` listens on every interface, starts whatever `python` is first on the PATH, and reads none
of what its workers print: after 64 KiB on stdout a worker stands still, and the job with it. Here the `python` is this
one, its stdout goes where its stderr goes, and nobody else can connect.
"""

import argparse
import os
import signal
import stat
import sys
import tempfile
from concurrent import futures

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

DESCRIPTION = __doc__


def put_python_first(folder: str) -> None:
    """Makes the literal `python` on the PATH this interpreter, with stdout sent to stderr."""
    path = os.path.join(folder, "python")
    with open(path, "w") as file:
        file.write(f'#!/bin/sh\nexec "{sys.executable}" "$@" 1>&2\n')
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM or Ctrl-C; then ends the workers it started."""
    parser = argparse.ArgumentParser(prog="python -m deploy.flink.worker_pool", description=DESCRIPTION)
    parser.add_argument("--port", type=int, required=True, help="of 127.0.0.1")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="worker-pool-") as folder:
        put_python_first(folder)
        pool = BeamFnExternalWorkerPoolServicer(use_process=True)
        server = grpc.server(futures.ThreadPoolExecutor(16))
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
        if not server.add_insecure_port(f"127.0.0.1:{arguments.port}"):
            print(f"worker pool: port {arguments.port} is taken", file=sys.stderr)
            return 1
        server.start()
        try:
            server.wait_for_termination()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            for process in pool._worker_processes.values():
                process.terminate()
            server.stop(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
