"""`pinnerformer release`: goes on from a staged run, without Beam and without computing anything again."""

import dataclasses
import sys
from collections.abc import Mapping

from pipelines.arguments import Parser, add_publish, add_root, add_store
from pipelines.operations.outcomes import open_target, publish_target, raise_for_outcome
from pipelines.operations.submitted import not_finished
from pipelines.operations.summary import print_summary
from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.lease import hold_lease
from stores.releases import read_hold, refuse_held, rolled_back_path
from transforms.gates import Thresholds, read_thresholds
from transforms.publish import PublishTarget, refuse_overtaken
from transforms.release import STAGED, check_commit_publish, is_committed, read_staged

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


@dataclasses.dataclass(frozen=True)
class ReleaseRequest:
    """What `pinnerformer release` is asked for.

    Attributes:
        run: The run's name.
        target: Where to publish; None: nowhere.
        thresholds: Where the gates close; None: where the run says.
        forced: Gate -> reason: closed gates that the operator opens.
    """

    root: Root
    run: str
    target: PublishTarget | None
    thresholds: Thresholds | None
    forced: Mapping[str, str]


def make_parser() -> Parser:
    """The flags of `pinnerformer release`."""
    parser = Parser(prog="pinnerformer release", description=DESCRIPTION, epilog=EPILOG, own=("gates",))
    add_root(parser)
    parser.add_argument("--run", required=True, metavar="NAME", help="a folder name under ROOT/staging")
    add_store(parser)
    add_publish(parser)
    parser.add_argument(
        "--rewrite", action="store_true", help="publish as a whole, also where the store says that it holds it already"
    )
    parser.add_argument("--gates", metavar="FILE", help="thresholds, as `daily --gates` (default the run's own)")
    parser.add_argument(
        "--force-gate", action="append", default=[], metavar="NAME", help="open a closed gate; may be repeated"
    )
    parser.add_argument("--reason", metavar="TEXT", help="why; the manifest keeps it")
    return parser


def parse(argv: list[str]) -> ReleaseRequest:
    """Reads the flags of `pinnerformer release`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    reason = (found.reason or "").strip()
    if bool(found.force_gate) != bool(reason):
        raise UsageError(
            "--force-gate NAME and --reason TEXT go together: the manifest keeps who is answered for, and why"
        )
    target = publish_target(found.kv, found.namespace, found.publish)
    return ReleaseRequest(
        root=Root(found.root),
        run=found.run,
        target=dataclasses.replace(target, rewrite=found.rewrite) if target else None,
        thresholds=read_thresholds(found.gates) if found.gates else None,
        forced=dict.fromkeys(found.force_gate, reason),
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    root, run = request.root, request.run
    open_target(request.target)
    with hold_lease(root, f"release {run}") as lease:
        if not root.exists(f"staging/{run}/{STAGED}"):
            raise not_finished(root, run)
        manifest, _ = read_staged(root, run)
        hold = read_hold(root)
        if hold is None or hold.release != manifest.release:
            refuse_held(root)
        if not is_committed(root, manifest):
            refuse_rolled_back(root, manifest.release)
        elif request.target:
            refuse_overtaken(root, manifest.release)
        thresholds = request.thresholds or Thresholds.from_manifest(manifest.settings["thresholds"])
        outcome = check_commit_publish(root, run, thresholds, request.target, request.forced, lease)
    print_summary(root, raise_for_outcome(root, run, outcome), seconds=0.0, file=sys.stderr)
    return 0


def refuse_rolled_back(root: Root, release: str) -> None:
    """Keeps a release that somebody rolled back from coming back by its run.

    Raises:
        StoreError: says when and why, and what to type where it is meant.
    """
    path = rolled_back_path(release)
    if root.exists(path):
        found = root.read_json(path)
        raise StoreError(
            f"{root.path(path)}: {release} was rolled back to {found['release']} on {found['since']} "
            f"({found['reason']}); to serve it again on purpose: "
            f"pinnerformer rollback --root {root.url} --kv URL --to {release} --reason TEXT"
        )
