"""`pinnerformer release`: goes on from a staged run, without Beam and without computing anything again."""

import shlex
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.arguments import Parser
from pipelines.detached import not_finished
from pipelines.summary import print_summary
from stores.errors import RefusedError, StoreError, UsageError
from stores.files import Root
from stores.kv import open_store
from stores.lease import hold_lease
from stores.manifests import Manifest
from stores.upgrades import read_settings
from transforms.gates import ADVICE, Thresholds, read_gate, read_thresholds
from transforms.release import FAILED, FAILED_USERS, REFUSED, STAGED, Publication, finish, read_staged

DESCRIPTION = """\
Runs check -> commit -> publish on a run that was staged: one that a gate refused and that you answer for, one that was
cut off before it committed, or one that committed and could not publish because the key-value store was down. Of a run
that `daily --detach` handed to an engine it tells how it ended, with the exit codes of `daily`, or that it has not yet.
Nothing is embedded again. Harmless to repeat.
"""

EPILOG = """\
example, after a gate refused the night and you know why:
  pinnerformer release --root ROOT --run daily-2026-11-23-0123456789ab --kv lmdb:///var/lib/pinnerformer \\
    --force-gate rows_against_weekday --reason "public holiday"
"""

AGAIN = (
    "once that is mended, start the same command again: the slices with users that failed are embedded anew, "
    "everything else is taken over"
)


def open_target(arguments: Any) -> Publication | None:
    """Where `--kv`, `--namespace` and `--publish` say to publish, looked at before any work; None: nowhere.

    Raises:
        UsageError: no store named. StoreError: it cannot be used.
    """
    if arguments.publish == "none":
        return None
    if not arguments.kv:
        raise UsageError("--kv is missing: say where to publish, or --publish none")
    target = Publication(arguments.kv, arguments.namespace)
    with open_store(target.url, target.namespace) as store:
        store.check()
    return target


def conclude(
    root: Root, name: str, outcome: dict[str, Any] | None, *, publish: str = "--kv URL", advice: str = ""
) -> dict[str, Any]:
    """The outcome of a run that committed; any other as the error that it is.

    Args:
        publish: As `refusal` takes it.
        advice: Said below a refusal.

    Raises:
        StoreError: the run failed, or did not say how it ended. RefusedError: a gate closed.
    """
    if outcome is None:
        raise StoreError(
            f"{root.path(f'staging/{name}')}: the run ended without an outcome; look into the engine's log"
        )
    if outcome["outcome"] == FAILED:
        raise StoreError(outcome["error"])
    if outcome["outcome"] == REFUSED:
        raise RefusedError("\n".join(filter(None, [refusal(root, name, outcome, publish), advice])))
    return outcome


def run(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = Parser(prog="pinnerformer release", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--root", required=True, metavar="DIR")
    parser.add_argument("--run", required=True, help="a folder name under ROOT/staging")
    parser.add_argument("--kv", metavar="URL")
    parser.add_argument("--namespace", default="pinnerformer")
    parser.add_argument("--publish", choices=("store", "none"), default="store", help="none: commit only")
    parser.add_argument("--gates", metavar="FILE", help="thresholds, as `daily --gates` (default: the run's own)")
    parser.add_argument("--force-gate", action="append", default=[], metavar="NAME", help="open a closed gate")
    parser.add_argument("--reason", metavar="TEXT", help="why; the manifest keeps it")
    arguments = parser.parse_args(argv)
    if bool(arguments.force_gate) != bool((arguments.reason or "").strip()):
        raise UsageError(
            "--force-gate NAME and --reason TEXT go together: the manifest keeps who is answered for, and why"
        )
    root, target = Root(arguments.root), open_target(arguments)
    with hold_lease(root, f"release {arguments.run}") as lease:
        if not root.exists(f"staging/{arguments.run}/{STAGED}"):
            raise not_finished(root, arguments.run)
        manifest, _ = read_staged(root, arguments.run)
        own = read_settings(Thresholds, manifest.settings["thresholds"])
        thresholds = read_thresholds(arguments.gates) if arguments.gates else own
        forced = dict.fromkeys(arguments.force_gate, (arguments.reason or "").strip())
        outcome = finish(root, arguments.run, thresholds, target, forced, lease)
    print_summary(root, conclude(root, arguments.run, outcome), seconds=0.0, file=sys.stderr)
    return 0


def refusal(root: Root, run: str, outcome: dict[str, Any], publish: str = "--kv URL") -> str:
    """One screen on why a release was refused: the gates, what they measured and allow, where to look, what to type.

    Args:
        publish: The flag, in what to type, that says where the forced release is published.
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
    checked = Manifest.from_json(root.read_json(path), root.path(path)).gates  # those forced have to be named again
    force = " ".join(f"--force-gate {found['name']}" for found in checked if not found["passed"])
    rows = [line.rstrip() for line in screen.get().splitlines() if line.strip()]
    return "\n".join(
        [
            f"release {outcome['release']} was refused by {len(gates)} gate{'s'[: len(gates) != 1]}: {names}; what was "
            "served before is still served",
            *rows,
            f"Every gate, with its value: {root.path(path)}",
            *failed,
            "Mend the cause and run the same command again. Or, if it is as it should be, release it as it is:",
            f"  pinnerformer release --root {shlex.quote(root.url)} --run {run} {force} --reason 'WHY' {publish}",
        ]
    )
