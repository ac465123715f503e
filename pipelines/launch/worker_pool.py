"""`pinnerformer worker-pool`: starts a Python worker process for every one that an engine asks for."""

import json
import multiprocessing
import os
import signal
import socket
from concurrent import futures
from multiprocessing.process import BaseProcess
from typing import Any

import grpc  # type: ignore[import-untyped]
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from pipelines.launch.engine_hosts import SOFTWARE
from pipelines.launch.worker_pool_request import parse
from pipelines.telemetry.lines import say
from stores.errors import StoreError, UsageError
from transforms.host_check import refuse_other_software

# Imported once, before any worker is forked: seconds of a worker's life otherwise. None of them starts a thread.
PRELOAD = ["apache_beam.runners.worker.sdk_worker", "torch", "pyarrow.parquet", "pipelines.daily_inference"]


MESSAGE_BYTES = 1 << 20


def prepare_data_plane() -> None:
    """Sets what Beam has no options for, in this process: messages of `MESSAGE_BYTES`, and sending that never waits.

    A Java engine takes no more than 100 messages of a bundle's output before the worker says that the bundle is done
    (`SdkHarnessClient.close`). A worker that waits for room in its send queue, of 100 MB, never says so: a stage that
    put out more than some 300 MB per slot stood still forever. Without that limit the rest waits in this process. What
    is received stays limited, to 5 messages.
    """
    from apache_beam.runners.worker import data_plane

    made = data_plane.SizeBasedBufferingClosableOutputStream.__init__
    large = data_plane._DEFAULT_SIZE_FLUSH_THRESHOLD
    made.__defaults__ = tuple(MESSAGE_BYTES if value == large else value for value in made.__defaults__)
    data_plane._DEFAULT_SIZE_FLUSH_THRESHOLD = MESSAGE_BYTES
    data_plane._DEFAULT_SEND_QUEUE_MAX_BYTES = data_plane._DEFAULT_SEND_QUEUE_MAX_ELEMENTS = 0


def _work(control: str, worker_id: str) -> None:
    """Runs one worker until its engine hangs up."""
    # Whoever reads the pool's stdout would otherwise have to read what every worker prints, or a full pipe stops them.
    os.dup2(2, 1)
    prepare_data_plane()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool, which ends its workers
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    SdkHarness(control, worker_id=worker_id, state_cache_size=0, data_buffer_time_limit_ms=0).run()


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts and ends workers as the engine asks; one process each."""

    def __init__(self) -> None:
        # Forked from a process without threads: gRPC's, forked along, would hang the worker.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._workers: dict[str, BaseProcess] = {}

    def StartWorker(self, request: Any, context: Any) -> Any:
        # Before anything of the launcher's is read: what another version pickled may not be readable here.
        wanted = request.params.get(SOFTWARE)
        try:
            refuse_other_software(json.loads(wanted or "{}"), f"the worker pool of {socket.gethostname()}")
        except StoreError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=f"{StoreError.__module__}.StoreError: {error}")
        worker = self._context.Process(target=_work, args=(request.control_endpoint.url, request.worker_id))
        worker.start()
        self._workers[request.worker_id] = worker
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:
        worker = self._workers.pop(request.worker_id, None)
        if worker is not None:
            _end(worker)
        return beam_fn_api_pb2.StopWorkerResponse()

    def close(self) -> None:
        """Ends every worker, those that `StopWorker` is ending in another thread left to it."""
        for worker_id in list(self._workers):
            worker = self._workers.pop(worker_id, None)
            if worker is not None:
                _end(worker)


def _end(worker: BaseProcess) -> None:
    worker.terminate()
    worker.join(5)
    if worker.is_alive():
        worker.kill()
        worker.join()


def main(argv: list[str]) -> int:
    """Serves until SIGTERM or Ctrl-C; returns the exit code.

    Raises:
        UsageError: the port is taken.
    """
    request = parse(argv)
    pool = WorkerPool()
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    address = f"{request.host}:{request.port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise UsageError(f"--port {request.port}: taken on {request.host}; choose another") from None
    # A handler that raises does so wherever the main thread stands, inside a lock of gRPC's too: it only wakes it up.
    asked, ask = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(ask, b"."))
    signal.signal(signal.SIGINT, lambda *_: os.write(ask, b"."))
    server.start()
    say(f"worker pool on {address}")
    os.read(asked, 1)
    server.stop(1).wait()  # no worker is started after this
    pool.close()
    return 0
