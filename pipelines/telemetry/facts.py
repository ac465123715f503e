"""What is known of the command that runs: for its log lines, its metrics, its lineage and its webhook."""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass
class Facts:
    """One command of this process; commands write here what they come to know.

    Attributes:
        command: Its name.
        began: When it was started.
        run: The run that it works on, once there is one.
        outcome: How that run ended, as `read_outcome` gives it.
        quiet: Whether it is to say nothing of how far it is.
        said_loading: Whether it has said what it loads.
        alarms: What `status` rings for, as `{"name", "text"}`; None: it was not asked.
    """

    command: str = ""
    began: datetime.datetime = dataclasses.field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    quiet: bool = False
    said_loading: bool = False
    run: str | None = None
    outcome: dict[str, Any] | None = None
    alarms: Sequence[dict[str, str]] | None = None


_now = Facts()


def facts() -> Facts:
    """Those of the command that runs."""
    return _now


def begin(command: str, quiet: bool) -> None:
    """Forgets the command before."""
    global _now
    _now = Facts(command, quiet=quiet)
