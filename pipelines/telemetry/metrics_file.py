"""The text file that the node exporter collects (`--metrics-file`): of every run, of CURRENT, of what is served.

One file may be given to every command and to several roots. What a command says of its own run takes the place of what
it said before; what others said stays. Ages are given as moments, `*_timestamp_seconds`: a file does not grow older
by itself.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stores.errors import PinnerFormerError
from stores.files import Root
from stores.kv import open_store
from stores.manifests import Manifest
from stores.releases import read_current
from transforms.gates.hindsight import hindsight_of

PREFIX = "pinnerformer_"

HELP: Mapping[str, str] = {
    "run_start_timestamp_seconds": "When the last run of the command was started.",
    "run_end_timestamp_seconds": "When the last run of the command that came to an end did.",
    "run_last_success_timestamp_seconds": "When a run of the command ended with exit code 0 last.",
    "run_duration_seconds": "From start to end of the last run of the command that came to an end.",
    "run_exit_code": "0 done, 1 failed, 2 wrong use, 3 refused by a gate, 4 nothing beat its start.",
    "run_gate_refused": "1 for every gate that refused the last run.",
    "run_info": "Of the last run: its name, the release that it made or would have made, the version that ran.",
    "alarm": "1 where `status` would ring (docs/alarms.md), 0 where not. Of too_old the age tells.",
    "release_info": "CURRENT, and the model that made its vectors.",
    "release_data_end_timestamp_seconds": "When the data of CURRENT ends: the midnight after its date.",
    "release_committed_timestamp_seconds": "When CURRENT was committed.",
    "release_rows_read": "Log rows that CURRENT read.",
    "release_rows_dropped": "Log rows that CURRENT dropped, by reason.",
    "release_rows_repeated": "Log rows that the histories had already.",
    "release_users": "Users that have a vector in CURRENT.",
    "release_users_active": "Users whose history changed, or that were due.",
    "release_users_embedded": "Users that were embedded.",
    "release_users_failed": "Users whose inference failed; they are tried again.",
    "release_users_stale": "Users that keep an older vector, because inference failed.",
    "release_users_carried_over": "Users whose vector is that of the release before.",
    "release_users_expired": "Users that left the snapshot, idle for too long.",
    "release_pins": "Pins that have an embedding in CURRENT.",
    "release_pins_reused": "Pins whose embedding is that of the release before.",
    "release_engaged_pins": "Pins that the night's rows engage with.",
    "release_engaged_pins_without_vector": "Of those, pins without a vector.",
    "release_step_seconds": "Seconds of work by step, summed over workers.",
    "release_index_recall_at_10": "How much of an exact search the index finds.",
    "release_hindsight_margin": "How much higher the vectors before ranked a user's acts than others' (docs/gates.md).",
    "release_hindsight_margin_error": "Its standard error.",
    "release_hindsight_users": "Users that it is measured on.",
    "release_hindsight_own_rank": "Mean rank of a user's own acts by the vectors before.",
    "release_hindsight_popularity_rank": "Mean rank of the same acts by popularity.",
    "release_gates": "Gates that CURRENT was checked by.",
    "release_gate_measured": "What a gate of CURRENT measured.",
    "release_gate_threshold": "What it allows.",
    "release_gate_passed": "1 where it was passed, 0 where an operator forced it.",
    "store_info": "What a key-value store serves.",
    "store_up": "1 where the store answered.",
    "store_users": "Users that it serves.",
    "store_data_end_timestamp_seconds": "When the data of what it serves ends: the midnight after its date.",
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """One value: `HELP`'s name of its metric, its labels, and itself."""

    name: str
    labels: Mapping[str, str]
    value: float


def run_samples(
    command: str, root: str, began: datetime.datetime, ended: datetime.datetime | None = None, **of_end: Any
) -> list[Sample]:
    """What is said of a run, at its start or at its end.

    Args:
        of_end: `exit_code`; `run`, `outcome` and `version`, each None where there is none.
    """
    labels = {"root": root, "command": command}
    found = [Sample("run_start_timestamp_seconds", labels, began.timestamp())]
    if ended is None:
        return found
    code, outcome = of_end["exit_code"], of_end["outcome"] or {}
    found.append(Sample("run_end_timestamp_seconds", labels, ended.timestamp()))
    found.append(Sample("run_duration_seconds", labels, (ended - began).total_seconds()))
    found.append(Sample("run_exit_code", labels, code))
    if code == 0:
        found.append(Sample("run_last_success_timestamp_seconds", labels, ended.timestamp()))
    for gate in outcome.get("refused") or ():
        found.append(Sample("run_gate_refused", {**labels, "gate": gate["name"]}, 1))
    named = {"run": of_end["run"] or "", "release": outcome.get("release") or "", "version": of_end["version"]}
    return [*found, Sample("run_info", {**labels, **named}, 1)]


def release_samples(root: str, manifest: Manifest, facts: Mapping[str, Any], committed_s: float) -> Iterator[Sample]:
    """What is said of CURRENT.

    Args:
        facts: As `summarise` gives them.
        committed_s: When its manifest was written, since 1970.
    """
    labels = {"root": root}

    def of(name: str, value: float, **more: str) -> Sample:
        return Sample(f"release_{name}", {**labels, **more}, value)

    yield of("info", 1, release=manifest.release, model=facts["model"])
    yield of("data_end_timestamp_seconds", manifest.data_until.timestamp())
    yield of("committed_timestamp_seconds", committed_s)
    for name in ("rows_read", "rows_repeated", "pins", "pins_reused", "engaged_pins", "engaged_pins_without_vector"):
        yield of(name, facts[name])
    for reason, count in facts["rows_dropped"].items():
        yield of("rows_dropped", count, reason=reason)
    for name in ("", "_active", "_embedded", "_failed", "_stale", "_carried_over", "_expired"):
        yield of(f"users{name}", facts[f"users{name}"])
    for step, seconds in facts["seconds"].items():
        yield of("step_seconds", seconds, step=step)
    if facts["index_recall_at_10"] is not None:
        yield of("index_recall_at_10", facts["index_recall_at_10"])
    if facts["margin"] is not None:
        yield of("hindsight_margin", facts["margin"])
        yield of("hindsight_margin_error", facts["margin_error"])
        yield of("hindsight_users", facts["margin_users"])
        for name in ("own", "popularity"):
            if (rank := hindsight_of(manifest)["foresight"].get(name)) is not None:
                yield of(f"hindsight_{name}_rank", rank)
    yield of("gates", len(manifest.gates))
    for gate in manifest.gates:
        yield of("gate_measured", gate["measured"], gate=gate["name"])
        yield of("gate_threshold", gate["threshold"], gate=gate["name"])
        yield of("gate_passed", float(gate["passed"]), gate=gate["name"])


def root_samples(root: Root, stores: Sequence[tuple[str, str]]) -> Iterator[Sample]:
    """What is said of a root, and of the stores that serve it.

    Args:
        stores: URL and namespace of each.

    Raises:
        StoreError: the root is damaged.
    """
    from pipelines.operations.alarms import NAMES, find_alarms
    from pipelines.operations.figures import summarise
    from stores.manifests import manifest_path

    manifest = read_current(root)
    if manifest is not None:
        yield from release_samples(
            root.url, manifest, summarise(manifest), root.modified(manifest_path(manifest.release))
        )
    ringing: set[str] = set()
    now = datetime.datetime.now(datetime.UTC)
    for url, namespace in stores or [("", "")]:
        with open_store(url, namespace) if url else contextlib.nullcontext() as store:
            labels = {"root": root.url, "store": store.url_shown if store else "", "namespace": namespace}
            try:
                ringing |= {alarm.name for alarm in find_alarms(root, store, None, now)}
                if store is not None:
                    yield from store_samples(root, store, labels)
            except PinnerFormerError:
                if store is None:
                    raise
                yield Sample("store_up", labels, 0)
    for name in NAMES:
        yield Sample("alarm", {"root": root.url, "alarm": name}, float(name in ringing))


def store_samples(root: Root, store: Any, labels: Mapping[str, str]) -> Iterator[Sample]:
    """What is said of a store."""
    from stores.manifests import read_manifest

    current = store.current()
    yield Sample("store_up", labels, 1)
    if current is None:
        return
    yield Sample("store_info", {**labels, "release": current.release, "model": current.model_digest[:12]}, 1)
    yield Sample("store_users", labels, current.users)
    with contextlib.suppress(PinnerFormerError):  # of a release that the root does not have: an alarm says so
        served = read_manifest(root, current.release)
        yield Sample("store_data_end_timestamp_seconds", labels, served.data_until.timestamp())


def write_metrics(path: str, said: Sequence[Sample], *, command: str, root: str) -> None:
    """Writes the file anew, by a rename: what was said before and is not said again of this root stays if it is
    of another command's run, or of a root when nothing is said of one now.

    Raises:
        OSError: the file cannot be written. ValueError: what is there is not Prometheus' text.
    """
    from prometheus_client import CollectorRegistry, write_to_textfile

    registry = CollectorRegistry()
    registry.register(_Families([*_kept(path, said, command, root), *said]))
    write_to_textfile(path, registry)


def _kept(path: str, said: Sequence[Sample], command: str, root: str) -> Iterator[Sample]:
    """What of the file that is there stays."""
    of_root = any(not one.name.startswith("run_") for one in said)
    ended = any(one.name == "run_end_timestamp_seconds" for one in said)
    now = {one.name for one in said}
    for one in read_metrics(path):
        if one.labels.get("root") != root:
            yield one
        elif not one.name.startswith("run_"):
            if not of_root:
                yield one
        elif one.labels.get("command") != command:
            yield one
        elif one.name not in now and (not ended or one.name == "run_last_success_timestamp_seconds"):
            yield one


def read_metrics(path: str) -> list[Sample]:
    """The samples of a file that `write_metrics` wrote; none where there is no file.

    Raises:
        ValueError: it is not Prometheus' text.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    return [
        Sample(sample.name.removeprefix(PREFIX), dict(sample.labels), float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.removeprefix(PREFIX) in HELP
    ]


class _Families:
    """Samples as `prometheus_client` collects them."""

    def __init__(self, samples: Iterable[Sample]):
        self._samples = list(samples)

    def collect(self) -> Iterator[Any]:
        from prometheus_client.metrics_core import Metric

        families: dict[str, Any] = {}
        for one in self._samples:
            family = families.setdefault(one.name, Metric(PREFIX + one.name, HELP[one.name], "gauge"))
            family.add_sample(PREFIX + one.name, dict(one.labels), one.value)
        return iter([families[name] for name in HELP if name in families])
