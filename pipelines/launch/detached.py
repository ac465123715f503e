"""Runs that their launcher does not wait for: how they are handed over."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from pipelines.launch.beam_options import is_local
from pipelines.operations.submitted import SUBMITTED
from stores.errors import UsageError
from stores.files import Root

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


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
