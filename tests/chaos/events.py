"""Counts the work events of a run over all its processes, and kills one of them when a given event is reached.

An event is a file operation under the run's folder, or one on an object, an element or a batch that a step takes up, a
batch or a switch of the key-value store, a call of check, commit or publish. The job's code knows nothing of this: it
is patched from outside, in the driver and, through `site/sitecustomize.py`, in the workers.
"""

import dataclasses
import functools
import importlib
import inspect
import os
import pkgutil
import random
import signal
import tempfile
import threading
from collections.abc import Callable

STAGED_FOLDERS = (
    "active",
    "acts",
    "asked_histories",
    "asked_vectors",
    "dead_letters",
    "embedded",
    "rows",
    "vector_pieces",
    "vectors",
)
VARIABLE = "PINNERFORMER_CHAOS"
RECORD = 64  # bytes an event in the log; the log's length is the counter


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is watched and who dies.

    Attributes:
        folder: Holds the root, a path or a URL; only what is done to files or objects under it counts.
        log: Where events are recorded.
        kill_at: Number of the event, from 1; 0 kills nobody.
        victim: `own`, whoever reaches the event; `driver`, whatever process reached it.
        step: Events of this step only are numbered; empty: all.
        driver: Process id of the driver.
    """

    folder: str
    log: str
    kill_at: int = 0
    victim: str = "own"
    step: str = ""
    driver: int = 0

    def to_text(self) -> str:
        return "\t".join(str(value) for value in dataclasses.astuple(self))

    @classmethod
    def from_text(cls, text: str) -> "Plan":
        folder, log, kill_at, victim, step, driver = text.split("\t")
        return cls(folder, log, int(kill_at), victim, step, int(driver))


class Events:
    """The counter of one process; all processes of a run append to the same log."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._lock = threading.Lock()
        self._file = os.open(plan.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def happen(self, step: str, torn: str | None = None) -> None:
        """Records an event of a step; the run ends here if it is the one.

        Args:
            torn: A file that is being written: it is cut before the kill, as a write that did not get to its end.
        """
        with self._lock:
            os.write(self._file, step.encode()[: RECORD - 1].ljust(RECORD - 1) + b"\n")
            number = os.lseek(self._file, 0, os.SEEK_CUR) // RECORD
            if self._plan.step:
                number = read_log(self._plan.log).count(step) if step == self._plan.step else 0
            if 0 < number == self._plan.kill_at:
                if torn is not None:
                    os.truncate(torn, random.Random(number).randrange(1 + os.path.getsize(torn)))
                os.kill(self._plan.driver if self._plan.victim == "driver" else os.getpid(), signal.SIGKILL)

    def stage_of(self, path: str | int) -> str | None:
        """The step that a path belongs to; None outside of the root, and for the hints of the display."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.fsdecode(path)
        path = path if "://" in path else os.path.abspath(path)
        parts = path.removeprefix(f"{self._plan.folder}/").split("/")
        if parts[0] != "root" or len(parts) < 2 or "progress" in parts:
            return None
        if parts[1] == "staging":
            inside = parts[3:]
            if "done" in inside:
                return f"markers of {inside[1]}" if len(inside) > 1 else "markers"
            return f"staging {inside[0]}" if inside and inside[0] in STAGED_FOLDERS else "staging, the run's own files"
        if len(parts) > 2:
            return "manifest and dead letters" if parts[1] == "releases" else f"table {parts[1]}"
        return "CURRENT" if parts[1] == "CURRENT" else "root"


def instrument_from_environment() -> None:
    """Instruments this process as `PINNERFORMER_CHAOS` says."""
    instrument(Plan.from_text(os.environ[VARIABLE]))


def instrument(plan: Plan) -> None:
    """Patches this process so that its events count."""
    events = Events(plan)
    _watch_files(events)
    _watch_objects(events)
    _watch_steps(events)
    _watch_store(events)
    _watch_release(events)


def _before(owner: object, name: str, tell: Callable[..., None]) -> None:
    """Calls `tell` with the arguments of a function before every call of it."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def told(*arguments, **named):
        tell(*arguments, **named)
        return function(*arguments, **named)

    setattr(owner, name, told)


def _watch_files(events: Events) -> None:
    def one_path(path, *_, dir_fd=None, **__):
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        step = events.stage_of(path)
        if step:
            events.happen(step)

    def rename(_, target, **__):
        one_path(target)

    def flush(descriptor):
        step = events.stage_of(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if step:
            events.happen(step, path if os.path.isfile(path) else None)

    def make_temporary(*_, dir=None, **__):
        if dir is not None:
            one_path(os.path.join(dir, "x"))

    for name in ("unlink", "remove", "rmdir", "link"):
        _before(os, name, one_path)
    for name in ("replace", "rename"):
        _before(os, name, rename)
    _before(os, "fsync", flush)
    _before(tempfile, "mkstemp", make_temporary)


def _watch_objects(events: Events) -> None:
    from stores.object_files import ObjectFiles

    def tell(path):
        step = events.stage_of(path)
        if step:
            events.happen(step)

    for name in ("write", "compare_and_swap", "remove"):
        _before(ObjectFiles, name, lambda _, path, *__, **___: tell(path))
    _before(ObjectFiles, "put", lambda _, __, path: tell(path))


def _watch_steps(events: Events) -> None:
    import apache_beam as beam

    import transforms
    from pinnerformer_model.inference import UserEncoder

    for module in pkgutil.iter_modules(transforms.__path__):
        if module.ispkg:
            continue
        for _, kind in inspect.getmembers(importlib.import_module(f"transforms.{module.name}"), inspect.isclass):
            if kind.__module__ == f"transforms.{module.name}" and issubclass(kind, beam.DoFn):
                step = f"step {kind.__name__}"
                for name in ("process", "setup"):
                    if name in vars(kind):
                        _before(kind, name, lambda *_, step=step, **__: events.happen(step))
    _before(UserEncoder, "encode_batch", lambda *_: events.happen("step RunInference"))


def _watch_store(events: Events) -> None:
    from stores.kv.base import Current
    from stores.kv.lmdb_store import LmdbStore
    from stores.kv.redis_cluster import RedisClusterStore
    from stores.kv.redis_store import RedisStore

    for store in (LmdbStore, RedisStore):
        _before(store, "_keys", lambda *_: events.happen("store batch"))
    _before(RedisStore, "_key_words", lambda *_: events.happen("store batch"))
    _before(RedisStore, "_guarded", lambda *_: events.happen("store write"))
    for name in ("_write", "_put", "_delete"):
        _before(RedisClusterStore, name, lambda *_, **__: events.happen("store write"))
    for store in (LmdbStore, RedisStore):
        _before(store, "hold_writes", lambda *_: events.happen("store hold"))
    _before(Current, "to_bytes", lambda *_: events.happen("store current"))


def _watch_release(events: Events) -> None:
    from transforms import release

    for name in ("write_staged", "check", "commit", "move_current", "publish", "discard_staged"):
        _before(release, name, lambda *_, name=name, **__: events.happen(f"release {name}"))


def read_log(path: str) -> list[str]:
    """The steps of the events that happened, in order."""
    with open(path, "rb") as file:
        data = file.read()
    return [data[start : start + RECORD].decode().strip() for start in range(0, len(data), RECORD)]
