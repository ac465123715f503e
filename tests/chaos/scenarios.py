"""The nights that are cut off: what they start from, the command, and how the undisturbed one ended."""

import dataclasses
import faulthandler
import hashlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable

import numpy as np

from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.layout import find_root_id
from stores.releases import read_current
from stores.retriever import Retriever
from stores.tables import read_files
from tests.chaos.events import VARIABLE, Plan, instrument, read_log
from tests.chaos.sinks import LmdbSink, Sink
from tests.worlds import FIRST, day, make_rows, make_vectors, write_file, write_model, write_vectors
from transforms.markers import STAGED_FOLDERS

USERS, PINS, ROWS = 14, 40, 110
WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
HERE = os.path.dirname(os.path.abspath(__file__))


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One kind of night.

    Attributes:
        number: Of the night; 0 starts from an empty root.
        model: The folder of the model.
        workers: Whether the steps run in processes of their own.
        last: Of a backfill, its last night, of which `number` is the first.
        redis: Whether it publishes to the Redis server of all runs, which becomes its sink once it runs.
        sink: The store that it publishes to.
    """

    name: str
    number: int
    model: str
    workers: bool
    last: int | None = None
    redis: bool = False
    sink: Sink = LmdbSink()

    def command(self, world: str, folder: str) -> list[str]:
        """What is typed, the first time and again."""
        dates = [f"--date={day(self.number)}", f"--bootstrap-from={FIRST}"]
        if self.last is not None:
            dates = [f"--start={day(self.number)}", f"--end={day(self.last)}"]
        return [
            "daily" if self.last is None else "backfill",
            f"--root={folder}/root",
            f"--kv={self.sink.url(folder)}",
            f"--logs={world}/logs",
            f"--pins={world}/pins",
            f"--model={world}/{self.model}",
            *dates,
            *(("--user-buckets=3", "--pin-shards=2", "--history-length=40") if self.number == 0 else ()),
            "--quiet",
            *(WORKERS if self.workers else ()),
        ]


SCENARIOS = (
    Scenario("a night", 1, "model", False),
    Scenario("a night, worker processes", 1, "model", True),
    Scenario("a new model", 1, "other-model", False),
    Scenario("a backfill", 1, "model", False, last=3),
    Scenario("a night, Redis", 1, "model", False, redis=True),
    Scenario("a new model, Redis", 1, "other-model", False, redis=True),
    Scenario("the first night", 0, "model", False),
)


def make_world(folder: str) -> None:
    """Four days of logs, pins, and two models."""
    for number in range(4):
        write_file(f"{folder}/logs", number, make_rows(number, ROWS, USERS, PINS, seed=8))
    write_vectors(f"{folder}/pins", make_vectors(PINS))
    write_model(f"{folder}/model")
    write_model(f"{folder}/other-model", seed=2)


def fork(body: Callable[[], int], output: str) -> int:
    """Runs `body` in a child process, a group of its own; returns its process id.

    The parent has imported everything and started no thread, so that a child is ready at once.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        faulthandler.register(signal.SIGUSR1, file=descriptor, all_threads=True)
        sys.stdout = sys.stderr = os.fdopen(os.dup(descriptor), "w", buffering=1)
        code = body()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int, log: str | None = None, seconds: float = 300.0) -> int | None:
    """The exit code of a child; negative: the signal that ended it; None: it hung, wrote its stacks and was killed.

    Args:
        log: Of its events: it hangs if nothing but renewals of the lease happened for `seconds`.
    """
    seen, deadline = -1, time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        work = sum(step != "root" for step in read_log(log)) if log and os.path.exists(log) else 0
        if work != seen:
            seen, deadline = work, time.monotonic() + seconds
        time.sleep(0.02)
    os.kill(pid, signal.SIGUSR1)
    time.sleep(1.0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def instrumented(plan: Plan) -> dict[str, str]:
    """The environment in which a Python process counts its events from its start."""
    path = os.pathsep.join([f"{HERE}/site", os.path.dirname(os.path.dirname(HERE))])
    return {VARIABLE: plan.to_text(), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run_daily(command: list[str], plan: Plan) -> int:
    """The body of a child: the job as the console runs it, its events counted."""
    from pipelines.cli import main

    here = dataclasses.replace(plan, driver=os.getpid())
    os.environ |= instrumented(here)
    instrument(here)
    return main(command)


def left_in_staging(root: Root) -> list[str]:
    """What a finished run should have removed, and did not."""
    runs = ((run, root.list(f"staging/{run}")) for run in root.list("staging"))
    return [f"{run}/{name}" for run, names in runs for name in names if name in ("done", *STAGED_FOLDERS)]


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(folder: str, sink: Sink) -> dict:
    """What a root and a store hold: CURRENT, every manifest but for times, every file named in one, the store."""
    with open(f"{folder}/root/CURRENT") as file:
        state: dict = {"CURRENT": file.read(), "manifests": {}, "files": {}, "store": {}}
    for release in sorted(os.listdir(f"{folder}/root/releases")):
        with open(f"{folder}/root/releases/{release}/manifest.json") as file:
            manifest = json.load(file)
        manifest["timings"] = manifest["digest"] = None  # which holds the timings too
        state["manifests"][release] = manifest
        for entries in manifest["tables"].values():
            for entry in entries:
                found = digest(f"{folder}/root/{entry['path']}")
                state["files"][entry["path"]] = found
                assert found == entry["checksum"], f"{entry['path']} is not what the manifest of {release} says"
        dead = f"{folder}/root/releases/{release}/dead_letters"
        for name in Root(f"{folder}/root").list(f"releases/{release}/dead_letters"):
            state["files"][f"dead letters {release} {name}"] = digest(f"{dead}/{name}")
    own = find_root_id(Root(f"{folder}/root")) or "none"
    store = [(key, without_moments(key, value, own)) for key, value in sink.read(folder)]
    state["store"] = {key.hex(): hashlib.sha256(value).hexdigest() for key, value in store}
    return state


def without_moments(key: bytes, value: bytes, root_id: str) -> bytes:
    """A value of the store without what no two runs have in common.

    That is the moment at which a generation was retired, the number that a publish raises, and the id of the root.
    """
    if key.endswith(b":fence"):
        return b"a number"
    if key.endswith(b":contents"):
        return value.replace(root_id.encode(), b"own")
    if not key.endswith(b":generations"):
        return value
    entries = json.loads(value)
    for entry in entries.values():
        entry["retired_at"] = entry["retired_at"] is not None
    return json.dumps(entries, sort_keys=True).encode()


@dataclasses.dataclass(frozen=True)
class Reference:
    """How a scenario begins and how it ends undisturbed.

    Attributes:
        before: Folder with root and store to start from; None for an empty one.
        after: `state_of` at the end.
        events: Of the undisturbed run, in order.
        stores: Release -> the store's `current`, generation and values under it.
    """

    before: str | None
    after: dict
    events: list[str]
    stores: dict[str, dict[str, str]]


def make_reference(scenario: Scenario, world: str, before: str | None, folder: str) -> Reference:
    """Runs a scenario undisturbed."""
    start(before, folder, scenario.sink)
    held = scenario.sink.read(folder) if before else None
    plan = Plan(folder, f"{folder}/events")
    code = wait(fork(lambda: run_daily(scenario.command(world, folder), plan), f"{folder}/said"), plan.log)
    if code != 0:
        with open(f"{folder}/said") as file:
            raise AssertionError(f"{scenario.name}: undisturbed, it ended with {code}: {file.read()[-3000:]}")
    stores = {}
    for content in map(dict, filter(None, (held, scenario.sink.read(folder)))):
        current = json.loads(content[b"pinnerformer:current"])
        prefix = f"pinnerformer:{current['generation']}:u:".encode()
        stores[current["release"]] = {k.hex(): v.hex() for k, v in content.items() if k.startswith(prefix)}
    scenario.sink.save(folder)
    return Reference(before, state_of(folder, scenario.sink), read_log(f"{folder}/events"), stores)


def start(before: str | None, folder: str, sink: Sink) -> None:
    """Lays out what a run starts from."""
    os.makedirs(folder)
    if before:
        shutil.copytree(f"{before}/root", f"{folder}/root")
    sink.start(before, folder)


def read_all_the_time(folder: str, reference: Reference, sink: Sink, stop: str, found: str, pause_s: float) -> int:
    """The body of the reader: looks at the store and the root until `stop` exists; writes what it saw.

    `pause_s` is waited between two looks: without it the reader takes a core for as long as the runs take.

    It fails when a value is not whole or of no release, when LMDB shows a part of a publish, when a vector and the
    index it is searched in are not of one release, and when a release that it opened before cannot be read any more.
    """
    looks = 0
    opened: list[Retriever] = []
    kept = read_current(Root(f"{folder}/root")) if reference.before else None
    problems: list[str] = []
    client = None
    while not problems:
        last = os.path.exists(stop)
        try:
            if sink.is_there(folder):
                client = client or EmbeddingClient(sink.url(folder))
                if client._store.current() is not None:
                    problems += _look(folder, client, sink, reference, opened)
                    looks += 1
            if kept is not None and looks % 5 == 0:
                for entry in kept.tables["user_embeddings"] + kept.tables["histories"] + kept.tables["pin_embeddings"]:
                    read_files(Root(f"{folder}/root"), [entry])
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        if last:
            break
        time.sleep(pause_s)
    with open(found, "w") as file:
        json.dump({"looks": looks, "problems": problems[:3]}, file)
    return 0


def _look(folder: str, client: EmbeddingClient, sink: Sink, reference: Reference, opened: list[Retriever]) -> list[str]:
    problems, users = sink.look(client, reference.stores)
    if problems or not users:
        return problems
    vectors, _, there, _ = client.get_many_of(client.current, users)
    norms = np.linalg.norm(vectors[there].astype(np.float32), axis=1)
    if not np.allclose(norms, 1, atol=2e-3):
        problems.append("a vector that is not whole")
    if not opened:
        opened.append(Retriever(f"{folder}/root", sink.url(folder)))
    for retriever in (opened[0],):
        answer = retriever.retrieve(int(users[0]), 3)
        if answer.release not in reference.stores or len(answer.pin_ids) != 3:
            problems.append(f"a search in {answer.release}")
    return problems
