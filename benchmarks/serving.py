"""`pinnerformer serve` over loopback, under the load that vegeta makes.

    python -m benchmarks.serving_root --demo demo --out .cache/serving    # what it serves; says how it is made
    python -m benchmarks.serving --root .cache/serving/root --kv lmdb://$PWD/.cache/serving/kv \
        --catalogue .cache/serving/catalogue.parquet

Root (links) and store are copied and go back by a release; nothing is written into what is given. Measured, by round
and in turn, medians of the rounds:

- `start`: seconds from the command until it listens, the index read.
- `steady`: GET /v1/users/{id}/pins at a constant rate, with and without `exclude_engaged` and filters; what a request
  takes of CPU, and recall@k of what is found.
- `lookup`: POST /v1/embeddings:lookup as fast as `--clients` are answered, beside `get_many` in one thread.
- `workers`: pins as fast as four times as many clients are answered, by one worker and by two; memory.
- `switch`: a steady load in which the next release is committed, and published five seconds later. What a night costs
  is not in it: its vectors were made before.

The generator shares the machine with the server; its CPU is said.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import psutil

from benchmarks.records import record
from benchmarks.vegeta import Answer, Attack, Report, Target, attack, find_vegeta
from pipelines.serving.catalogue import read_catalogue
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.manifests import Manifest
from stores.neighbours import Neighbours, exact_top_k, tie_aware_recall
from stores.releases import CURRENT, current_release, move_current, read_current
from stores.retriever import Retriever
from stores.schemas import from_binary_column
from stores.tables import read_files
from transforms.publish import PublishTarget, publish

KINDS = ("start", "steady", "lookup", "workers", "switch")
NAMESPACE = "pinnerformer"
COMMIT_S, PUBLISH_S, END_S = 5, 10, 15  # of a load in which the release changes
NEAR_S = 2  # after commit or publish: that is looked at apart


@dataclasses.dataclass(frozen=True)
class Server:
    """One that listens.

    Attributes:
        started_s: Seconds from the command until then.
    """

    port: int
    process: psutil.Process
    started_s: float

    def tree(self) -> list[psutil.Process]:
        """Of its processes those that are there."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        """Of all its processes, user and system."""
        return sum(sum(process.cpu_times()[:2]) for process in self.tree())

    def pss(self) -> int:
        """Bytes of its memory, shared ones counted once."""
        return sum(process.memory_full_info().pss for process in self.tree())


@contextlib.contextmanager
def serving(arguments: argparse.Namespace, root: str, kv: str, workers: int = 1) -> Iterator[Server]:
    """A server, while the block runs."""
    command = [sys.executable, "-m", "pipelines.cli", "serve", f"--root={root}", f"--kv={kv}", "--port=0"]
    command += [f"--workers={workers}", "--no-explorer"]
    command += [f"--catalogue={arguments.catalogue}"] if arguments.catalogue else []
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next((line for line in process.stderr if line.startswith("listening on ")), None)
        if line is None:
            raise SystemExit(f"exit code {process.wait()}: {' '.join(command)}")
        port = int(line.split(";")[0].rpartition(":")[2])
        yield Server(port, psutil.Process(process.pid), time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def copied(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """A root and the URL of its store, both one release behind what is given."""
    store = arguments.kv.removeprefix("lmdb://")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(arguments.root))) as folder:
        root, kv = Root(f"{folder}/root"), f"lmdb://{folder}/kv"
        # Files of a root are replaced and never written into, so that links do; LMDB's are.
        shutil.copytree(arguments.root, f"{folder}/root", copy_function=os.link)
        shutil.copytree(store, f"{folder}/kv")
        newest = read_current(root)
        if newest is None or newest.previous is None:
            raise SystemExit(f"--root {arguments.root}: expected two releases, of which the last will be switched to")
        root.write_bytes(CURRENT, f"{newest.previous}\n".encode())
        publish(root, newest.previous, PublishTarget(kv, NAMESPACE))
        yield f"{folder}/root", kv


def pins_path(user: object, k: int, **query: str) -> str:
    """Of a question."""
    return f"/v1/users/{urllib.parse.quote(str(user), safe='')}/pins?{urllib.parse.urlencode({'k': k, **query})}"


class Bench:
    """The measurements of one run; each prints what it finds, and adds figures to `found`.

    Attributes:
        found: What -> values, one a round.
    """

    def __init__(self, arguments: argparse.Namespace, root: str, kv: str):
        self.arguments, self.root, self.kv = arguments, root, kv
        self.vegeta = find_vegeta(arguments.vegeta)
        self.found: dict[str, list[float]] = {}
        with Retriever(root, kv) as retriever:
            users = retriever.known_users(arguments.users).some
        self.users = [users[at] for at in np.random.default_rng(0).permutation(len(users)).tolist()]
        queries: list[dict[str, str]] = [{}, {"exclude_engaged": "true"}]
        queries += [{"where": where} for where in arguments.where if arguments.catalogue]
        self.queries = {
            " ".join(("pins", *(query.values() if "where" in query else query))): query for query in queries
        }

    def add(self, what: str, value: float) -> None:
        self.found.setdefault(what, []).append(value)

    def targets(self, query: dict[str, str]) -> list[Target]:
        return [Target(pins_path(user, self.arguments.k, **query)) for user in self.users]

    def say(self, name: str, report: Report, server: Server, cpu_s: float) -> float:
        """Prints a line, and returns milliseconds of the server's CPU a request."""
        cpu_ms = 1000 * cpu_s / max(1, report.requests)
        print(
            f"{name:<30}{report.rate:7.0f}/s  p50 {report.p50_ms:8.2f} ms  p99 {report.p99_ms:8.2f} ms  server "
            f"{cpu_ms:.2f} CPU ms a request, generator {1000 * report.cpu_s / max(1, report.requests):.2f}, "
            f"{report.failed} failed",
            flush=True,
        )
        self.add("requests that failed", report.failed)
        return cpu_ms

    def ask(self, server: Server, name: str, targets: list[Target], **how: int) -> tuple[Report, float]:
        """An attack, and milliseconds of the server's CPU a request."""
        before = server.cpu_s()
        report = attack(self.vegeta, server.port, targets, self.arguments.seconds, **how)
        return report, self.say(name, report, server, server.cpu_s() - before)

    def warm(self, server: Server) -> None:
        attack(self.vegeta, server.port, self.targets({}), 1, clients=2)

    def start(self) -> None:
        """Also done by the others, each time that they start a server."""
        with serving(self.arguments, self.root, self.kv) as server:
            self.note_start(server)

    def note_start(self, server: Server) -> None:
        cpu_s = server.cpu_s()
        print(
            f"{'start':<30}{server.started_s:8.2f} s, {cpu_s:.2f} s of CPU, {server.pss() / 2**20:,.0f} MiB", flush=True
        )
        self.add("start, s", server.started_s)
        self.add("start, CPU s", cpu_s)

    def steady(self) -> None:
        with serving(self.arguments, self.root, self.kv) as server:
            self.note_start(server)
            self.warm(server)
            for name, query in self.queries.items():
                report, cpu_ms = self.ask(server, name, self.targets(query), rate=self.arguments.rate)
                self.add(f"{name}: p50, ms", report.p50_ms)
                self.add(f"{name}: p99, ms", report.p99_ms)
                self.add(f"{name}: CPU ms a request", cpu_ms)
            if "pins: recall" not in self.found:
                for name, query in self.queries.items():
                    if "exclude_engaged" not in query:
                        self.add(f"{name}: recall", self.recall(server, query))

    def recall(self, server: Server, query: dict[str, str]) -> float:
        """recall@k of a hundred answers against all pins that may be found."""
        root = Root(self.root)
        manifest = read_current(root)
        assert manifest is not None
        ids, vectors = pins_of(root, manifest)
        if "where" in query:
            matching = read_catalogue(self.arguments.catalogue).matching(query["where"])
            kept = np.isin(ids, matching)
            ids, vectors = ids[kept], vectors[kept]
        k, users = self.arguments.k, self.users[:100]
        with EmbeddingClient(self.kv) as client:
            exact = exact_top_k(client.get_many(users)[0].astype(np.float32), ids, vectors, k)
        body = json.dumps({"ids": users, "k": k, **query}).encode()
        url = f"http://127.0.0.1:{server.port}/v1/users:pins"
        with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
            answers = json.load(response)["users"]
        scores = np.array([[pin["score"] for pin in one["pins"]] for one in answers], np.float32)
        return tie_aware_recall(Neighbours(np.zeros(scores.shape, np.int64), scores), exact)

    def lookup(self) -> None:
        size, rng = self.arguments.ids, np.random.default_rng(1)
        batches = [[self.users[at] for at in rng.integers(0, len(self.users), size)] for _ in range(50)]
        with serving(self.arguments, self.root, self.kv) as server:
            self.warm(server)
            for encoding in ("floats", "base64"):
                bodies = [json.dumps({"ids": ids, "encoding": encoding}).encode() for ids in batches]
                targets = [Target("/v1/embeddings:lookup", body) for body in bodies]
                own, own_ms = self.own_rate(batches)
                report, cpu_ms = self.ask(server, f"lookup {encoding}", targets, clients=self.arguments.clients)
                self.add(f"lookup {encoding} / get_many, rate", report.rate / own)
                self.add(f"lookup {encoding} / get_many, CPU", cpu_ms / own_ms)

    def own_rate(self, batches: list[list]) -> tuple[float, float]:
        """`get_many` of the client library, one thread: calls a second, and milliseconds of CPU a call."""
        with EmbeddingClient(self.kv) as client:
            client.get_many(batches[0])
            calls, cpu, began = 0, time.process_time(), time.perf_counter()
            while (took := time.perf_counter() - began) < self.arguments.seconds:
                client.get_many(batches[calls % len(batches)])
                calls += 1
            cpu_ms = 1000 * (time.process_time() - cpu) / calls
        print(f"{'get_many':<30}{calls / took:7.0f}/s  {cpu_ms:.2f} CPU ms a call", flush=True)
        return calls / took, cpu_ms

    def workers(self) -> None:
        rates, cpus, pss = [], [], []
        for workers in (1, 2):
            with serving(self.arguments, self.root, self.kv, workers) as server:
                self.warm(server)
                name, clients = f"pins, {workers} workers", 4 * self.arguments.clients
                report, cpu_ms = self.ask(server, name, self.targets({}), clients=clients)
                rates.append(report.rate)
                cpus.append(cpu_ms)
                pss.append(server.pss())
                print(f"{name:<30}{pss[-1] / 2**20:7,.0f} MiB", flush=True)
        self.add("two workers / one, rate", rates[1] / rates[0])
        self.add("two workers / one, CPU a request", cpus[1] / cpus[0])
        self.add("two workers / one, memory", pss[1] / pss[0])
        self.add("one worker, MiB", pss[0] / 2**20)

    def switch(self) -> None:
        with copied(self.arguments) as (root, kv), serving(self.arguments, root, kv) as server:
            self.warm(server)
            newest = current_release(Root(self.arguments.root))
            served = current_release(Root(root))
            assert newest is not None
            attacked = Attack(self.vegeta, server.port, self.targets({}), END_S, rate=self.arguments.rate)
            with attacked:
                began = time.time()
                time.sleep(COMMIT_S)
                move_current(Root(root), served, newest)
                time.sleep(PUBLISH_S - COMMIT_S)
                publish(Root(root), newest, PublishTarget(kv, NAMESPACE))
            self.note_switch(attacked.answers(), began)

    def note_switch(self, answers: list[Answer], began: float) -> None:
        at = np.array([answer.asked_s - began for answer in answers])
        latency = np.array([answer.latency_ms for answer in answers])
        failed = sum(answer.status != 200 for answer in answers)
        near = {"commit": COMMIT_S, "publish": PUBLISH_S}
        inside = {name: (at >= second) & (at < second + NEAR_S) for name, second in near.items()}
        steady = ~np.logical_or.reduce(list(inside.values())) & (at >= 1)
        p99 = {name: float(np.percentile(latency[rows], 99)) for name, rows in {**inside, "else": steady}.items()}
        releases = {name: sum(answer.release == name for answer in answers) for name in {a.release for a in answers}}
        shown = ", ".join(f"{name} {value:.1f}" for name, value in p99.items())
        print(f"{'switch':<30}p99 ms: {shown}; {failed} of {len(answers)} failed; {releases}", flush=True)
        self.add("requests that failed", failed)
        for name in near:
            self.add(f"p99 in the {NEAR_S} s after {name} / else", p99[name] / p99["else"])


def pins_of(root: Root, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Of a release: ids int64 [P], vectors float16 [P, d]."""
    table = read_files(root, manifest.tables["pin_embeddings"], ["pin_id", "embedding"])
    return table["pin_id"].to_numpy(), from_binary_column(table["embedding"])


def goals(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What figures are to be."""
    found: dict[str, dict[str, float]] = {
        "requests that failed": {"at_most": 0},
        "pins: p99, ms": {"at_most": 20},
        "lookup floats / get_many, rate": {"at_least": 0.9},
        "lookup base64 / get_many, rate": {"at_least": 0.9},
        "two workers / one, rate": {"at_least": 1.5},
    }
    found |= {f"p99 in the {NEAR_S} s after {name} / else": {"at_most": 5} for name in ("commit", "publish")}
    return found | {f"pins{tail}: recall": {"at_least": 0.95} for tail in ("", *(f" {w}" for w in arguments.where))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--kv", required=True, help="lmdb:///DIR")
    parser.add_argument("--catalogue", metavar="FILE", help="for the filters")
    text = "a filter (default those of benchmarks.serving_root)"
    parser.add_argument("--where", action="append", metavar="FILTER", help=text)
    parser.add_argument("--vegeta", metavar="FILE", help="the load generator (default: on PATH)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    for name, default in (("rate", 200), ("clients", 2), ("ids", 100), ("k", 100), ("rounds", 3), ("users", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    arguments.where = arguments.where or ["part<500", "part<50", "part<5"]
    find_vegeta(arguments.vegeta)
    with copied(arguments) as (root, kv):
        bench = Bench(arguments, root, kv)
        measures: dict[str, Callable[[], None]] = {kind: getattr(bench, kind) for kind in arguments.only}
        for number in range(arguments.rounds):
            print(f"round {number + 1}", flush=True)
            for measure in measures.values():
                measure()
    for what, values in bench.found.items():
        middle = max(values) if "failed" in what else statistics.median(values)
        note = "" if len(values) == 1 else f"{min(values):.3g} to {max(values):.3g}"
        record("serving", what, middle, **goals(arguments).get(what, {}), note=note)


if __name__ == "__main__":
    main()
