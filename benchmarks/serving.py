"""`pinnerformer serve` over loopback: lookups beside the store's own `get_many`, pins of users by percentile.

    python -m benchmarks.serving --root ROOT --kv URL --workers 1 --seconds 5 --clients 2

The generator is this file: `--clients` processes, a connection each, that ask again as soon as they are answered. Their
CPU seconds are said, since they share the machine with the server.
"""

import argparse
import http.client
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

from stores.embedding_client import EmbeddingClient
from stores.retriever import Retriever


def ask(port: int, method: str, path: str, bodies: list[bytes | None], seconds: float, queue) -> None:
    """One client: its latencies in milliseconds, and the CPU seconds that it took."""
    connection, found, number = http.client.HTTPConnection("127.0.0.1", port), [], 0
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        connection.request(method, path, bodies[number % len(bodies)])
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        found.append(1000 * (time.perf_counter() - began))
        number += 1
    usage = resource.getrusage(resource.RUSAGE_SELF)
    queue.put((found, usage.ru_utime + usage.ru_stime))


def load(arguments: argparse.Namespace, port: int, name: str, method: str, path: str, bodies: list) -> float:
    """Asks with all clients at once; prints a line, returns requests a second."""
    context, queue = multiprocessing.get_context("fork"), multiprocessing.get_context("fork").Queue()
    flags = (port, method, path, bodies, arguments.seconds, queue)
    clients = [context.Process(target=ask, args=flags) for _ in range(arguments.clients)]
    for client in clients:
        client.start()
    answers = [queue.get() for _ in clients]
    for client in clients:
        client.join()
    latencies = np.sort(np.concatenate([found for found, _ in answers]))
    rate = len(latencies) / arguments.seconds
    p50, p99 = np.percentile(latencies, [50, 99])
    cpu = sum(cpu for _, cpu in answers)
    print(f"{name:<34}{rate:9.0f}/s   p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   generator {cpu:.1f} CPU s", flush=True)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--kv", required=True)
    for name, default in (("workers", 1), ("clients", 2), ("ids", 100), ("k", 100), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    with Retriever(arguments.root, arguments.kv) as retriever:
        users = retriever.known_users(10_000).some
    random = np.random.default_rng(0)
    batches = [[users[at] for at in random.integers(0, len(users), arguments.ids)] for _ in range(50)]
    command = [sys.executable, "-m", "pipelines.cli", "serve", f"--root={arguments.root}", f"--kv={arguments.kv}"]
    command += ["--port=0", f"--workers={arguments.workers}"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        line = next(line for line in server.stderr if line.startswith("listening on "))
        port = int(line.split(";")[0].rpartition(":")[2])
        ratios: dict[str, list[float]] = {"floats": [], "base64": []}
        # One after the other, again and again: what else the machine does is then in both.
        for _ in range(arguments.rounds):
            own = own_rate(arguments, batches)
            for encoding, found in ratios.items():
                bodies = [json.dumps({"ids": ids, "encoding": encoding}).encode() for ids in batches]
                rate = load(arguments, port, f"lookup {encoding}", "POST", "/v1/embeddings:lookup", bodies)
                found.append(rate / own)
            body = [json.dumps({"ids": [ids[0]], "k": arguments.k}).encode() for ids in batches]
            load(arguments, port, "pins of a user", "POST", "/v1/users:pins", body)
            load(arguments, port, "health", "GET", "/healthz", [None])
        for encoding, found in ratios.items():
            print(f"lookups of {arguments.ids} ids, {encoding}: {statistics.median(found):.2f} of get_many")
    finally:
        server.terminate()
        server.wait()


def own_rate(arguments: argparse.Namespace, batches: list[list]) -> float:
    """`get_many` of the client library, one thread; prints a line, returns calls a second."""
    with EmbeddingClient(arguments.kv) as client:
        client.get_many(batches[0])
        calls, end = 0, time.perf_counter() + arguments.seconds
        while time.perf_counter() < end:
            client.get_many(batches[calls % len(batches)])
            calls += 1
    print(f"{'get_many':<34}{calls / arguments.seconds:9.0f}/s", flush=True)
    return calls / arguments.seconds


if __name__ == "__main__":
    main()
