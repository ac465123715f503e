"""Reports of releases and of refused runs: where they lie, and which users they name."""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

from stores.errors import StoreError
from stores.files import Root

REPORT = "report.html"
RANGE = "range.html"  # of several releases, beside the last of them; it names no user
_NAMED = re.compile(r'data-user="([^"]*)"')  # what the page's template says of an id that is a user's

_OUTCOME = re.compile(r'<meta name="pinnerformer-outcome" content="([^"]*)">')


def report_path(release: str) -> str:
    """Of a release, relative to the root."""
    return f"releases/{release}/{REPORT}"


def users_named(page: str) -> list[str]:
    """The ids of users that a page shows, as the logs have them."""
    return [html.unescape(found) for found in _NAMED.findall(page)]


def outcome_in(page: str) -> dict[str, Any] | None:
    """The outcome of the run that a page says it is of: what is left of it once the run's folder is gone."""
    found = _OUTCOME.search(page)
    try:
        outcome = json.loads(html.unescape(found.group(1))) if found else None
    except ValueError:
        return None
    return (
        outcome if isinstance(outcome, dict) and {"outcome", "finished", "publish", "error"} <= set(outcome) else None
    )


def reports_of_releases(root: Root) -> Iterator[tuple[str, str]]:
    """(release, path of its report) of every release that has one."""
    for release in root.list("releases"):
        if root.exists(report_path(release)):
            yield release, report_path(release)


def read_page(root: Root, path: str) -> str:
    """The text of a report.

    Raises:
        StoreError: it is no text; damaged.
    """
    try:
        return root.read_bytes(path).decode()
    except UnicodeDecodeError:
        raise StoreError(f"{root.path(path)}: no text, damaged; `pinnerformer report` writes it again") from None
