"""The load generator of `benchmarks.serving`: vegeta, whose constant rate does not wait for answers.

A client that asks again once it is answered asks a slow server less, and so never sees what it keeps others waiting
for. Vegeta asks at its rate whatever comes back (`rate`), or as fast as some clients are answered (`clients`).
"""

import base64
import csv
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

INSTALL = (
    "expected vegeta 12 on PATH, or --vegeta FILE; Go installs it: `go install github.com/tsenart/vegeta/v12@latest`"
)


@dataclasses.dataclass(frozen=True)
class Target:
    """What is asked: `path` begins with a slash."""

    path: str
    body: bytes | None = None

    def line(self, port: int) -> str:
        """As vegeta's JSON targets."""
        found: dict[str, Any] = {"method": "GET", "url": f"http://127.0.0.1:{port}{self.path}"}
        if self.body is not None:
            found |= {"method": "POST", "body": base64.b64encode(self.body).decode()}
        return json.dumps(found)


@dataclasses.dataclass(frozen=True)
class Report:
    """What an attack found.

    Attributes:
        p50_ms, p99_ms: Of all answers.
        rate: Answers a second.
        failed: Requests that were not answered with 200.
        cpu_s: Of the generator.
    """

    requests: int
    p50_ms: float
    p99_ms: float
    rate: float
    failed: int
    cpu_s: float

    @classmethod
    def parse(cls, text: str, cpu_s: float) -> "Report":
        """Of `vegeta report -type=json`."""
        found = json.loads(text)
        latencies, requests = found["latencies"], found["requests"]
        good = found["status_codes"].get("200", 0)
        return cls(
            requests, latencies["50th"] / 1e6, latencies["99th"] / 1e6, found["throughput"], requests - good, cpu_s
        )


@dataclasses.dataclass(frozen=True)
class Answer:
    """One of them: when it was asked for, in seconds since the epoch, and the release that it is of."""

    asked_s: float
    latency_ms: float
    status: int
    release: str

    @classmethod
    def parse(cls, values: Sequence[str]) -> "Answer":
        """Of a row of `vegeta encode -to=csv`: nanoseconds since the epoch, status, nanoseconds; headers the 12th."""
        headers = base64.b64decode(values[11]).decode().lower().splitlines()
        named = dict(header.split(": ", 1) for header in headers if ": " in header)
        return cls(int(values[0]) / 1e9, int(values[2]) / 1e6, int(values[1]), named.get("pinnerformer-release", ""))


def find_vegeta(given: str | None) -> str:
    """The program.

    Raises:
        SystemExit: it is not there; says how it is installed.
    """
    found = shutil.which(given or "vegeta")
    if found is None:
        raise SystemExit(f"--vegeta {given}: no program there; {INSTALL}" if given else f"no vegeta here; {INSTALL}")
    return found


class Attack:
    """Asks a server while the block runs, and to its end.

    Args:
        vegeta: The program.
        targets: Asked in turn, again and again.
        rate: Requests a second; 0: as fast as `clients` are answered.
    """

    def __init__(
        self, vegeta: str, port: int, targets: Sequence[Target], seconds: float, *, rate: int = 0, clients: int = 0
    ):
        self._vegeta = vegeta
        self._folder = tempfile.TemporaryDirectory(prefix="vegeta-")
        self._results = os.path.join(self._folder.name, "results")
        path = os.path.join(self._folder.name, "targets")
        with open(path, "w") as file:
            file.writelines(f"{target.line(port)}\n" for target in targets)
        # Bodies are read, and not kept.
        self._command = [
            vegeta,
            "attack",
            "-format=json",
            f"-targets={path}",
            f"-output={self._results}",
            "-max-body=0",
        ]
        self._command += [f"-duration={seconds}s", f"-rate={rate}", "-timeout=30s"]
        self._command += [] if rate else [f"-max-workers={clients}", f"-workers={clients}"]

    def __enter__(self) -> "Attack":
        self._before = _cpu_of_children()
        self._process = subprocess.Popen(self._command)
        return self

    def __exit__(self, *_) -> None:
        code = self._process.wait()
        self._cpu_s = _cpu_of_children() - self._before
        if code:
            raise SystemExit(f"exit code {code}: {' '.join(self._command)}")

    def report(self) -> Report:
        """Once the block is left."""
        return Report.parse(self._read("report", "-type=json"), self._cpu_s)

    def answers(self) -> list[Answer]:
        """Once the block is left: all of them, in the order that they came."""
        return [Answer.parse(row) for row in csv.reader(self._read("encode", "-to=csv").splitlines())]

    def _read(self, *words: str) -> str:
        return subprocess.run([self._vegeta, *words, self._results], check=True, capture_output=True, text=True).stdout


def attack(
    vegeta: str, port: int, targets: Sequence[Target], seconds: float, *, rate: int = 0, clients: int = 0
) -> Report:
    """Asks, and says what came; arguments as of `Attack`."""
    with Attack(vegeta, port, targets, seconds, rate=rate, clients=clients) as running:
        pass
    return running.report()


def _cpu_of_children() -> float:
    """Of those that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
