"""OpenLineage's events of a command (`--openlineage`): START, then COMPLETE or FAIL, by its own client library."""

import argparse
import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pipelines.arguments import night
from stores.errors import UsageError
from stores.kv_urls import without_password
from stores.locations import absolute
from stores.manifests import Manifest

PRODUCER = "https://github.com/pinnerformer/pinnerformer"
TIMEOUT_S = 5.0
TRIES = 2
READ = ("logs", "pins", "model", "timelines", "events", "vectors")  # flags whose folders a command reads
WRITTEN = ("out", "root", "kv")  # flags whose folders and stores a command writes
ONLY_LOOK = ("verify", "evaluate", "status", "export")  # commands that write no root
Flags = Mapping[str, Sequence[str]]  # by name, without dashes


def dataset_of(location: str) -> tuple[str, str]:
    """(namespace, name) of a location or store, as OpenLineage's naming has them."""
    location = without_password(location)
    if location.startswith("lmdb://"):
        return "file", absolute(location.removeprefix("lmdb://"))
    if "://" not in location or location.startswith("file://"):
        return "file", absolute(location)
    found = urlsplit(location)
    host = found.netloc.rpartition("@")[2]
    return f"{found.scheme}://{host}", found.path.strip("/") or "/"


class Lineage:
    """The events of one command.

    Args:
        target: An http(s) URL, or a file to add them to.
        command: Its name.
        flags: What it was given.
        began: When it started.

    Raises:
        UsageError: the library is not installed.
    """

    def __init__(self, target: str, command: str, flags: Flags, began: datetime.datetime):
        try:
            from openlineage.client.uuid import generate_new_uuid
        except ImportError:
            raise UsageError(
                "--openlineage: needs openlineage-python; pip install 'pinnerformer[openlineage]'"
            ) from None
        self._target, self._command, self._flags, self._began = target, command, flags, began
        self._run_id = str(generate_new_uuid(began))

    def start(self) -> None:
        """Tells of the start.

        Raises:
            Exception: whatever the library does where nobody listens.
        """
        self._emit("START", {}, None, None)

    def end(self, error: str | None, tags: Mapping[str, str], manifest: Manifest | None) -> None:
        """Tells of the end.

        Args:
            error: Why it failed, one line; None: it did not.
            tags: What else is known of the run.
            manifest: Of the release that it made.
        """
        self._emit("COMPLETE" if error is None else "FAIL", tags, error, manifest)

    def _emit(self, state: str, tags: Mapping[str, str], error: str | None, manifest: Manifest | None) -> None:
        from openlineage.client import OpenLineageClient
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState, set_producer
        from openlineage.client.facet_v2 import job_type_job

        set_producer(PRODUCER)
        kind = job_type_job.JobTypeJobFacet("BATCH", "PINNERFORMER", "COMMAND")
        event = RunEvent(
            eventTime=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            eventType=RunState[state],
            run=Run(self._run_id, self._run_facets(tags, error)),
            job=Job("pinnerformer", self._command, {"jobType": kind}),
            inputs=list(self._inputs(manifest)),
            outputs=list(self._outputs(manifest)),
            producer=PRODUCER,
        )
        # One client an event: an open connection would keep the workers of a job from being forked.
        client = OpenLineageClient(transport=self._transport())
        try:
            client.emit(event)
        finally:
            client.close()

    def _transport(self) -> Any:
        if not self._target.startswith(("http://", "https://")):
            from openlineage.client.transport.file import FileConfig, FileTransport

            return FileTransport(FileConfig(log_file_path=self._target, append=True))
        from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport

        config = HttpConfig(self._target, timeout=TIMEOUT_S, retry={"total": TRIES - 1, "backoff_factor": 0.3})
        key = os.environ.get("OPENLINEAGE_API_KEY")
        config.auth = ApiKeyTokenProvider({"apiKey": key}) if key else config.auth
        config.endpoint = os.environ.get("OPENLINEAGE_ENDPOINT", config.endpoint)
        return HttpTransport(config)

    def _run_facets(self, tags: Mapping[str, str], error: str | None) -> dict[str, Any]:
        from openlineage.client.facet_v2 import error_message_run, nominal_time_run, tags_run

        facets: dict[str, Any] = {}
        for date in self._flags.get("date", ())[-1:]:
            with contextlib.suppress(argparse.ArgumentTypeError):
                facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(f"{night(date)}T00:00:00.000Z")
        if tags:
            found = [tags_run.TagsRunFacetFields(name, value, "PINNERFORMER") for name, value in tags.items()]
            facets["tags"] = tags_run.TagsRunFacet(found)
        if error is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "PYTHON")
        # What a scheduler says of the task that started this: namespace/job/run, as OpenLineage's integrations have it.
        parent = os.environ.get("OPENLINEAGE_PARENT_ID", "").split("/")
        if len(parent) == 3:
            facets["parent"] = _parent(*parent)
        return facets

    def _inputs(self, manifest: Manifest | None) -> Iterator[Any]:
        from openlineage.client.event_v2 import InputDataset
        from openlineage.client.facet_v2 import dataset_version_dataset, input_statistics_input_dataset

        for name in (*READ, *(WRITTEN if self._command in ONLY_LOOK else ())):
            for location in self._flags.get(name, ()):
                facets: dict[str, Any] = {}
                statistics: dict[str, Any] = {}
                if manifest is not None and name == "logs":
                    read = manifest.inputs
                    sums = [sum(int(file.get(of) or 0) for file in read) for of in ("rows", "bytes")]
                    found = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                        rowCount=sums[0], size=sums[1], fileCount=len(read)
                    )
                    statistics["inputStatistics"] = found
                if manifest is not None and name == "model":
                    facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(manifest.model_digest)
                yield InputDataset(*dataset_of(location), statistics, facets=facets)

    def _outputs(self, manifest: Manifest | None) -> Iterator[Any]:
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import dataset_version_dataset, output_statistics_output_dataset

        if self._command in ONLY_LOOK:
            return
        version = {}
        if manifest is not None:
            version = {"version": dataset_version_dataset.DatasetVersionDatasetFacet(manifest.release)}
        for name in WRITTEN:
            for location in self._flags.get(name, ()):
                namespace, path = dataset_of(location)
                if name != "root" or manifest is None:
                    yield OutputDataset(namespace, path, {}, facets=dict(version))
                    continue
                for table, entries in manifest.tables.items():
                    sums = [sum(entry.rows for entry in entries), sum(entry.bytes for entry in entries)]
                    facet = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                        rowCount=sums[0], size=sums[1], fileCount=len(entries)
                    )
                    yield OutputDataset(
                        namespace, f"{path.rstrip('/')}/{table}", {"outputStatistics": facet}, facets=dict(version)
                    )


def _parent(namespace: str, job: str, run: str) -> Any:
    from openlineage.client.facet_v2 import parent_run

    return parent_run.ParentRunFacet(parent_run.Run(run), parent_run.Job(namespace, job))
