"""What is known of a run that was handed to an engine and not waited for."""

from stores.errors import StoreError
from stores.files import Root
from stores.upgrades import SUBMITTED_RUN, read_json_record

SUBMITTED = "submitted.json"


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
