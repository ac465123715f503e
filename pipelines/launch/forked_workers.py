"""How Beam's in-process runner gets its worker processes from a template, in place of starting programs."""

import threading
import weakref
from typing import Any

from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.transforms.environments import Environment, python_sdk_capabilities

from pipelines.launch.worker_template import WorkerTemplate, wait_for

URN = "pinnerformer:env:forked:v1"

# An environment is a name and bytes to Beam; here the bytes say which of these it means.
_TEMPLATES: weakref.WeakValueDictionary[bytes, WorkerTemplate] = weakref.WeakValueDictionary()


@Environment.register_urn(URN, bytes)
class ForkedEnvironment(Environment):
    """Beam's name for "workers of this template"."""

    def __init__(self, template: bytes, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._template = template

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return URN, self._template

    @staticmethod
    def from_runner_api_parameter(payload: bytes, capabilities: Any, artifacts: Any, resource_hints: Any, context: Any):
        return ForkedEnvironment(payload, capabilities, artifacts, resource_hints)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ForkedEnvironment) and super().__eq__(other) and self._template == other._template

    def __hash__(self) -> int:
        return hash((super().__hash__(), self._template))


@WorkerHandler.register_environment(URN, bytes)
class ForkedWorkerHandler(GrpcWorkerHandler):
    """Starts and awaits one worker, as Beam's handler of subprocesses does: in a thread of the same name, by whose
    exception `notice_dead_workers` knows a worker that died."""

    def __init__(self, payload: bytes, state: Any, provision_info: Any, grpc_server: Any):
        super().__init__(state, provision_info, grpc_server)
        self._template = _TEMPLATES[payload]

    def start_worker(self) -> None:
        pipe = self._template.start(self.worker_id, self.control_address)
        self._thread = threading.Thread(name="run_worker", target=wait_for, args=(pipe,))
        self._thread.start()

    def stop_worker(self) -> None:
        self._thread.join()


def runner_of(template: WorkerTemplate) -> FnApiRunner:
    """A runner whose workers are forks of a template; how many, Beam's option `direct_num_workers` says."""
    name = str(id(template)).encode()
    _TEMPLATES[name] = template
    return FnApiRunner(default_environment=ForkedEnvironment(name, capabilities=python_sdk_capabilities()))
