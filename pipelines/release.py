"""`pinnerformer release`: goes on from a staged run, without Beam and without computing anything again."""

import sys

from pipelines.arguments import Parser
from pipelines.outcomes import conclude, open_target
from pipelines.submitted import not_finished
from pipelines.summary import print_summary
from stores.errors import UsageError
from stores.files import Root
from stores.lease import hold_lease
from transforms.gates import Thresholds, read_thresholds
from transforms.release import STAGED, finish, read_staged

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
        own = Thresholds.from_manifest(manifest.settings["thresholds"])
        thresholds = read_thresholds(arguments.gates) if arguments.gates else own
        forced = dict.fromkeys(arguments.force_gate, (arguments.reason or "").strip())
        outcome = finish(root, arguments.run, thresholds, target, forced, lease)
    print_summary(root, conclude(root, arguments.run, outcome), seconds=0.0, file=sys.stderr)
    return 0
