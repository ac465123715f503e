"""Runs that their launcher does not wait for: how they are handed over, and what is known of them later."""

import datetime
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.beam_options import is_local
from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.upgrades import SUBMITTED_RUN, read_json_record

SUBMITTED = "submitted.json"


def check_detachable(options: PipelineOptions) -> None:
    """Refuses runners whose job ends with the launcher.

    Raises:
        UsageError: says which run on.
    """
    named = options.get_all_options()
    if is_local(options) or named.get("runner") == "PrismRunner":
        raise UsageError(
            "--detach: the in-process runners and Prism end with the launcher; give --runner=PortableRunner with a "
            "--job_endpoint, or --runner=DataflowRunner"
        )


def note_submitted(root: Root, run: str, options: PipelineOptions, result: Any) -> None:
    """Keeps with the run whom it was handed to."""
    job = result.job_id() if callable(getattr(result, "job_id", None)) else getattr(result, "_job_id", None)
    named = options.get_all_options()
    root.write_json(
        f"staging/{run}/{SUBMITTED}",
        {
            "engine": named.get("runner") or f"job server {named.get('job_endpoint')}",
            "job": job and str(job),
            "submitted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )


def not_finished(root: Root, run: str) -> StoreError:
    """The error for a run that has staged nothing yet: still running, as far as anybody knows, or cut off."""
    try:
        found = read_json_record(root, f"staging/{run}/{SUBMITTED}", SUBMITTED_RUN)
    except FileNotFoundError:
        return StoreError(f"{root.path(f'staging/{run}')}: run {run} was not finished, start it again")
    return StoreError(
        f"run {run} has no outcome yet: handed to {found['engine']} as job {found['job']} at {found['submitted']}; ask "
        "again when the engine is done with it, and if the engine gave it up, start the same `daily` command again"
    )
