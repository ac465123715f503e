"""What Prometheus is told of a server."""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # where several processes of one server keep their counts


class Metrics:
    """Counts of one server; of all its processes where `SHARED` names a folder.

    Args:
        served: Says what is served: (release, model, seconds since its data ended); None where nothing is.
    """

    def __init__(self, served: Callable[[], tuple[str, str, float] | None]):
        self._registry = CollectorRegistry()
        text = "Requests by endpoint and status."
        self._requests = Counter("pinnerformer_serve_requests", text, ["endpoint", "status"], registry=self._registry)
        text = "Seconds from the first byte of a request to the answer."
        self._seconds = Histogram(
            "pinnerformer_serve_request_seconds", text, ["endpoint"], buckets=SECONDS, registry=self._registry
        )
        text = "Users and pins that were asked for, by whether the release has them."
        self._ids = Counter("pinnerformer_serve_ids", text, ["kind", "found"], registry=self._registry)
        self._served = _Served(served)

    def count(self, endpoint: str, status: int, began: float) -> None:
        """Counts a request; `began` as of `time.perf_counter`."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(time.perf_counter() - began)

    def count_ids(self, kind: str, found: int, missing: int) -> None:
        """Counts users or pins that were asked for."""
        self._ids.labels(kind, "true").inc(found)
        self._ids.labels(kind, "false").inc(missing)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        if os.environ.get(SHARED):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # registers itself
        else:
            registry = self._registry
        mine = CollectorRegistry()
        mine.register(self._served)
        return generate_latest(registry) + generate_latest(mine)


class _Served(Collector):
    def __init__(self, served: Callable[[], tuple[str, str, float] | None]):
        self._look = served

    def describe(self) -> Iterable[Any]:
        return []  # or registering would look at the store

    def collect(self) -> Iterable[Any]:
        found = self._look()
        up = GaugeMetricFamily("pinnerformer_serve_ready", "1 where a release is served, 0 where none can be.")
        up.add_metric([], 0.0 if found is None else 1.0)
        yield up
        if found is not None:
            release, model, age_s = found
            info = GaugeMetricFamily("pinnerformer_serve_release", "What is served.", labels=["release", "model"])
            info.add_metric([release, model[:12]], 1)
            yield info
            age = GaugeMetricFamily(
                "pinnerformer_serve_data_age_seconds", "Since the last day of what is served ended."
            )
            age.add_metric([], age_s)
            yield age
