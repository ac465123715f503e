"""How a run ended, for the commands that start, finish or roll back one: its errors, and what to type next."""

import shlex
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.report.write import Seen, write_run_report
from pipelines.telemetry.facts import facts
from pipelines.telemetry.lines import say_warning
from stores.dead_letters import describe_dead_letters
from stores.errors import RefusedError, StoreError, UsageError
from stores.files import Root
from stores.kv import open_store
from stores.manifests import Manifest
from stores.names import Step
from transforms.gates import ADVICE, CANNOT_SEE, read_gate
from transforms.release import FAILED, FAILED_USERS, REFUSED, STAGED, PublishTarget

AGAIN = (
    "once that is mended, start the same command again: the slices with users that failed are embedded again, "
    "everything else is taken over"
)


def publish_target(kv: str | None, namespace: str, publish: str) -> PublishTarget | None:
    """Where `--kv`, `--namespace` and `--publish` say to publish; None: nowhere.

    Raises:
        UsageError: no store named.
    """
    if publish == "none":
        return None
    if not kv:
        raise UsageError("--kv is missing: say where to publish, or --publish none")
    return PublishTarget(kv, namespace)


def open_target(target: PublishTarget | None) -> None:
    """Looks at the store that will be published to, before any work.

    Raises:
        UsageError: no store can be named so. StoreError: it cannot be used.
    """
    if target is not None:
        with open_store(target.url, target.namespace) as store:
            store.check()


def raise_for_outcome(
    root: Root,
    name: str,
    outcome: dict[str, Any] | None,
    *,
    publish: str = "--kv URL",
    advice: str = "",
    seen: Seen | None = None,
) -> dict[str, Any]:
    """The outcome of a run that committed; any other as the error that it is. Its report is written by then.

    Args:
        publish: As `refusal` takes it.
        advice: Said below a refusal.
        seen: As `write_run_report` takes it.

    Raises:
        StoreError: the run failed, or did not say how it ended. RefusedError: a gate closed.
    """
    facts().run, facts().outcome = name, outcome
    if outcome is None:
        raise StoreError(
            f"{root.path(f'staging/{name}')}: the run ended without an outcome; look into the engine's log"
        )
    report = write_run_report(root, name, outcome, seen)
    if outcome["outcome"] == FAILED:
        raise StoreError(outcome["error"])
    if outcome["outcome"] == REFUSED:
        raise RefusedError("\n".join(filter(None, [refusal(root, name, outcome, publish, report), advice])))
    warn(outcome["publish"])
    return outcome


def warn(published: dict[str, Any] | None) -> None:
    """Shows what a publish warns of, whatever `--quiet` says."""
    for line in (published or {}).get("warnings", []):
        say_warning(line, stage=Step.FINISH)


def refusal(root: Root, run: str, outcome: dict[str, Any], publish: str = "--kv URL", report: str | None = None) -> str:
    """One screen on why a release was refused: the gates, what they measured and allow, where to look, what to type.

    Args:
        publish: The flag, in what to type, that says where the forced release is published.
        report: Where the page of the run lies; None: nowhere.
    """
    gates = [read_gate(found) for found in outcome["refused"]]
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("gate", "measured", "allowed", "what it is", "where to look"):
        table.add_column(title, overflow="fold", justify="right" if title in ("measured", "allowed") else "left")
    for gate in gates:
        allowed = f"{'>=' if gate.at_least else '<='} {gate.threshold:.6g}"
        table.add_row(gate.name, f"{gate.measured:.6g}", allowed, gate.reads, ADVICE.get(gate.name, ""))
    console = Console(width=120, no_color=True)
    with console.capture() as screen:
        console.print(table, highlight=False)
    failed = []
    if root.exists(f"staging/{run}/{FAILED_USERS}"):
        failed = [f"why users failed: {root.path(f'staging/{run}/{STAGED}')}", AGAIN]
    names = ", ".join(gate.name for gate in gates)
    path = f"staging/{run}/checked.json"
    checked = Manifest.from_json(root.read_json(path), root.path(path))  # gates forced before have to be named again
    force = " ".join(f"--force-gate {found['name']}" for found in checked.gates if not found["passed"])
    dropped = []
    if any(gate.name == "rows_dropped_share" for gate in gates):
        counters = checked.counters.get(Step.READ_LOGS, {}) | checked.counters.get(Step.UPDATE_HISTORIES, {})
        dropped = describe_dead_letters(root, f"staging/{run}/dead_letters", counters)
    blind = [f"{gate} cannot see: {why}" for gate, why in checked.statistics.get(CANNOT_SEE, {}).items()]
    rows = [line.rstrip() for line in screen.get().splitlines() if line.strip()]
    return "\n".join(
        [
            f"release {outcome['release']} was refused by {len(gates)} gate{'s'[: len(gates) != 1]}: {names}; what was "
            "served before is still served",
            *rows,
            *blind,
            *dropped,
            f"Every gate, with its value: {root.path(path)}",
            *([f"The same as a page, beside the nights before: {report}"] if report else []),
            *failed,
            "Mend the cause and run the same command again. Or, if it is as it should be, release it as it is:",
            f"  pinnerformer release --root {shlex.quote(root.url)} --run {run} {force} --reason 'WHY' {publish}",
        ]
    )
