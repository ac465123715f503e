"""The first line of a command that loads much: seconds pass before it can say anything else."""

import sys

from pipelines.telemetry.facts import facts
from pipelines.telemetry.lines import say

# Command -> what its module loads.
LOADS = {
    **dict.fromkeys(("daily", "backfill", "repair", "training-data"), ("apache_beam", "torch")),
    **dict.fromkeys(("item-vectors", "rebucket"), ("apache_beam",)),
    **dict.fromkeys(("train", "evaluate", "study", "init-model"), ("torch",)),
}
NAMES = {"apache_beam": "Beam", "torch": "torch"}


def say_loading(command: str) -> None:
    """Says once what a command is about to load, unless that is loaded, or the command is to be quiet."""
    now, missing = facts(), [NAMES[name] for name in LOADS.get(command, ()) if name not in sys.modules]
    if missing and not now.quiet and not now.said_loading:
        now.said_loading = True
        say(f"pinnerformer {command}: loading {' and '.join(missing)}", stage="load")
