"""`pinnerformer release`: goes on from a staged run, without Beam and without computing anything again."""

import sys

from pipelines.arguments import Parser
from pipelines.summary import print_summary
from stores.errors import RefusedError, StoreError, UsageError
from stores.files import Root
from stores.kv import open_store
from stores.lease import hold_lease
from transforms.gates import Thresholds
from transforms.release import FAILED, FAILED_USERS, REFUSED, STAGED, Publication, finish, read_staged

DESCRIPTION = """\
Runs check -> commit -> publish on a run that was staged: one that was cut off before it committed, or one that
committed and could not publish because the key-value store was down. Harmless to repeat.
"""

AGAIN = (
    "once that is mended, start the same command again: the slices with users that failed are embedded anew, "
    "everything else is taken over"
)


def run(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = Parser(prog="pinnerformer release", description=DESCRIPTION)
    parser.add_argument("--root", required=True, metavar="DIR")
    parser.add_argument("--run", required=True, help="a folder name under ROOT/staging")
    parser.add_argument("--kv", metavar="URL")
    parser.add_argument("--namespace", default="pinnerformer")
    parser.add_argument("--publish", choices=("store", "none"), default="store", help="none: commit only")
    arguments = parser.parse_args(argv)
    root, target = Root(arguments.root), None
    if arguments.publish == "store":
        if not arguments.kv:
            raise UsageError("--kv is missing: say where to publish, or --publish none")
        target = Publication(arguments.kv, arguments.namespace)
        with open_store(target.url, target.namespace) as store:
            store.check()
    with hold_lease(root, f"release {arguments.run}"):
        manifest, _ = read_staged(root, arguments.run)
        outcome = finish(root, arguments.run, Thresholds(**manifest.settings["thresholds"]), target)
    if outcome["outcome"] == FAILED:
        raise StoreError(outcome["error"])
    if outcome["outcome"] == REFUSED:
        raise RefusedError(refusal(root, arguments.run, outcome))
    print_summary(root, outcome, seconds=0.0, file=sys.stderr)
    return 0


def refusal(root: Root, run: str, outcome: dict) -> str:
    """One screen on why a release was refused."""
    words = "; ".join(
        f"{gate['name']} is {gate['measured']:g}, allowed {gate['threshold']:g} ({gate['reads']})"
        for gate in outcome["refused"]
    )
    failed = root.exists(f"staging/{run}/{FAILED_USERS}")
    return (
        f"release {outcome['release']} was refused: {words}. What was served before is still served; "
        f"see {root.path(f'staging/{run}/checked.json')}"
        + (f"\nwhy users failed: {root.path(f'staging/{run}/{STAGED}')}\n{AGAIN}" if failed else "")
    )
