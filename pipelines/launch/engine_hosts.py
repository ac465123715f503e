"""What the launcher of a job makes sure of before an engine of several hosts is handed anything."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pinnerformer_model.checkpoint import CONFIG, WEIGHTS
from pipelines.launch.beam_options import is_local
from stores import locations
from stores.errors import InputError, StoreError, UsageError
from stores.files import Root
from stores.kv_urls import behind, without_password
from stores.object_stores import endpoint_host, is_url
from transforms.host_check import HostCheck, loopback_address, software

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.model import ModelReference
    from transforms.publish import PublishTarget

SOFTWARE = "pinnerformer_software"  # what a worker pool is asked with, beside the name of the worker
IN_THIS_PROCESS = ("", "embed")  # job endpoints that Beam starts a job service for


def job_server(options: PipelineOptions) -> tuple[str, int] | None:
    """Host and port of `--job_endpoint`; None where it names no server that runs already."""
    endpoint = options.get_all_options().get("job_endpoint") or ""
    host, _, port = endpoint.rpartition(":")
    return (host.strip("[]"), int(port)) if endpoint not in IN_THIS_PROCESS and port.isdigit() else None


def is_elsewhere(options: PipelineOptions) -> bool:
    """Whether workers may be on other hosts than this one."""
    named = options.get_all_options().get("runner")
    if is_local(options) or named == "PrismRunner":
        return False
    server = job_server(options)
    return named == "DataflowRunner" if server is None else not loopback_address(server[0])


def host_check(
    options: PipelineOptions, root: Root, model: ModelReference | None = None, target: PublishTarget | None = None
) -> HostCheck | None:
    """What workers compare their host with; None for runners whose workers are processes of this one.

    Raises:
        UsageError: a name that workers are to connect to is this host itself here, and the engine is elsewhere; or the
            store is a file of one host.
    """
    if is_local(options):
        return None
    names: list[str] = []
    if is_elsewhere(options):
        url = behind(target.url) if target is not None else ""
        if url.startswith("lmdb:"):
            raise UsageError(
                f"--kv {url}: LMDB is a file of one host, and the engine would write it wherever the job ends; "
                "give redis:// or redis+cluster://, or --publish none here and then `pinnerformer release --kv` on "
                "the host that reads it"
            )
        asked = {"AWS_ENDPOINT_URL": endpoint_host() if is_url(root.url) and root.url.startswith("s3://") else ""}
        if url:
            asked[f"--kv {without_password(url)}"] = urlsplit(url).hostname or ""
        for flag, name in asked.items():
            address = name and loopback_address(name)
            if address:
                raise UsageError(
                    f"{flag}: {name} is {address} here, this host itself, and workers on other hosts would ask "
                    "themselves; give a name or an address that means the same host everywhere"
                )
        names = [name for name in asked.values() if name]
    return HostCheck(software(), _model_files(model.directory) if model else (), tuple(names))


def _model_files(folder: str) -> tuple[tuple[str, int], ...]:
    """(location, bytes) of a model's files."""
    paths = [locations.join(locations.absolute(folder), name) for name in (CONFIG, WEIGHTS)]
    sizes = [(path, locations.size_of(path)) for path in paths]
    missing = [path for path, size in sizes if size is None]
    if missing:
        raise InputError(f"{missing[0]}: No such file or directory; a model is a folder with {CONFIG} and {WEIGHTS}")
    return tuple((path, size or 0) for path, size in sizes)


def find_job_server(options: PipelineOptions) -> None:
    """Waits until the job server takes connections, so long as `--job_server_timeout` says.

    Raises:
        StoreError: it does not; says whether its name means this host.
    """
    found = job_server(options)
    if is_local(options) or found is None:
        return
    end = time.monotonic() + float(options.get_all_options().get("job_server_timeout", 60))
    while True:
        try:
            socket.create_connection(found, timeout=10).close()
            return
        except OSError as error:
            address = loopback_address(found[0])
            named = address and address != found[0]
            # A name that means this host will not get right by waiting.
            if time.monotonic() > end or named:
                itself = f"; the name is {address} here, this host itself: mend its /etc/hosts or its DNS"
                raise StoreError(
                    f"--job_endpoint {found[0]}:{found[1]}: no job server there ({error.strerror or error})"
                    + (itself if named else "")
                ) from None
        time.sleep(1)


def say_software(options: PipelineOptions) -> None:
    """Lets the engine tell every worker pool what the launcher computes with: one of another version refuses."""
    from apache_beam.options.pipeline_options import PortableOptions

    portable = options.view_as(PortableOptions)
    if is_local(options) or portable.environment_type != "EXTERNAL" or not portable.environment_config:
        return
    text = portable.environment_config
    config = json.loads(text) if text.lstrip().startswith("{") else {"url": text}
    config["params"] = {**(config.get("params") or {}), SOFTWARE: json.dumps(dict(software()))}
    portable.environment_config = json.dumps(config)


def explain_artifacts(text: str, options: PipelineOptions) -> UsageError | None:
    """What it means that this host could not connect to itself, of an engine that is elsewhere.

    Args:
        text: Of the error.
    """
    found = re.search(r"ipv[46]:(?:%5B)?\[?(0\.0\.0\.0|127\.[\d.]+|::1?)(?:%5D)?\]?:(\d+)", text)
    server = job_server(options)
    if not found or server is None or not is_elsewhere(options):
        return None
    return UsageError(
        f"the job server at {server[0]}:{server[1]} sends artifacts to {found[1]}:{found[2]}, which is this host "
        f"itself; give --artifact_endpoint={server[0]}:{found[2]}, or start the job server with --job-host of its name"
    )
