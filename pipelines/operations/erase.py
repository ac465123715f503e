"""`pinnerformer erase`: removes people from every release, store, report and run, and keeps them out."""

import dataclasses
import datetime

import numpy as np

from pipelines.arguments import Parser, add_quiet, add_root, add_stores
from pipelines.operations.doing import QUIET, Doing
from pipelines.operations.figures import as_json
from pipelines.report.write import write_again
from pipelines.telemetry.lines import say
from stores.erasure import (
    check_known_tables,
    digest_of_ids,
    erase_from_dead_letters,
    erase_from_files,
    erase_from_runs,
    erase_from_training_data,
    erase_temporary_files,
    keep_out,
    names_known,
    new_erasure_report,
)
from stores.errors import UsageError
from stores.files import Root
from stores.kv import open_store
from stores.layout import require_layout
from stores.lease import hold_lease
from stores.string_ids import STRING
from stores.user_lists import read_listed
from transforms.publish import after_erasure, known_contents

DESCRIPTION = """\
Removes users: histories, embeddings and canaries of every release (new files, the manifest's next revision, the old
files deleted), dead letters, every generation of every store given, timelines under the root, and the leftovers of
runs. Where their ids are strings, no file keeps one. ROOT/erased keeps them out: no later run, backfill or delivery
takes a row of theirs in. Of strings it has the hashes.

Prints a report of counts and writes it to ROOT/erasures/. May be repeated after any interruption, and harmlessly.
Logs, models, exports and backups are not the job's: erase there too. `pinnerformer verify --erased FILE` proves absence
here.
"""

EPILOG = """\
example:
  pinnerformer erase --root ROOT --users leavers.txt --kv redis://HOST/0 --kv lmdb:///var/lib/pinnerformer
"""
SHOWN = 5  # ids that are nobody's


@dataclasses.dataclass(frozen=True)
class EraseRequest:
    """What `pinnerformer erase` is asked for.

    Attributes:
        users: A file that lists whom to erase.
        stores: URLs of all stores that the root is published to.
    """

    root: Root
    users: str
    stores: tuple[str, ...]
    namespace: str
    quiet: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer erase`."""
    parser = Parser(prog="pinnerformer erase", description=DESCRIPTION, epilog=EPILOG)
    add_root(parser)
    parser.add_argument("--users", required=True, metavar="FILE", help="one user id per line, as the logs have them")
    add_stores(parser)
    add_quiet(parser, QUIET)
    return parser


def parse(argv: list[str]) -> EraseRequest:
    """Reads the flags of `pinnerformer erase`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    return EraseRequest(Root(found.root), found.users, tuple(found.kv), found.namespace, found.quiet)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    root, doing = request.root, Doing(not request.quiet)
    kind = require_layout(root).user_ids
    listed = read_listed(request.users, kind)
    users = np.unique(np.array(list(listed), np.int64))
    stores = [open_store(url, request.namespace) for url in request.stores]
    for store in stores:
        store.check()
    report = new_erasure_report(users)
    with hold_lease(root, "erase"):
        check_known_tables(root)
        if kind == STRING:
            check_names(root, users, listed)
        everybody = keep_out(root, users)  # first: whatever comes after, they do not come back
        report.erased_digest, report.erased_users = digest_of_ids(everybody), len(everybody)
        known = [known_contents(root, store) for store in stores]
        for store in stores:
            with doing.piece(f"erase from {store.url_shown}"), store.hold_writes(f"erase on {root.url}"):
                for generation in store.generations():
                    key = f"{store.url_shown} {request.namespace} {generation}"
                    report.stored[key] = store.delete_users(generation, users)
        with doing.piece("erase from releases"):
            erase_from_runs(root, report)
            erase_temporary_files(root, report)
            erase_from_files(root, users, report)
        for store, contents in zip(stores, known, strict=True):
            after_erasure(root, store, contents)
        with doing.piece("erase from dead letters and reports"):
            erase_from_dead_letters(root, users, report)
            write_again(root)  # of what is left: reports show some dead letters
        with doing.piece("erase from training data"):
            erase_from_training_data(root, users, report)
        now = datetime.datetime.now(datetime.UTC)
        report.finished = now.isoformat(timespec="seconds")
        path = f"erasures/{now:%Y%m%dT%H%M%S}-{report.list_digest[:8]}.json"
        root.write_json(path, dataclasses.asdict(report))
    for store in stores:
        store.close()
    if kind != STRING and not any(report.rows.values()) and not any(report.stored.values()):
        say(
            f"warning: none of the {len(users):,} ids is in a release or a store given (erased before, or spelled "
            "otherwise than in the logs?)"
        )
    if not stores:
        say("warning: no store was given (--kv): what one serves of them stays there; run this again with every one")
    print(as_json(dataclasses.asdict(report)))
    say(f"report: {root.path(path)}")
    return 0


def check_names(root: Root, users: np.ndarray, listed: dict[int, str]) -> None:
    """Says which ids of a list are nobody's: a space too many is another id, and shows in no other way.

    Args:
        listed: Inner id -> how the list has it.

    Raises:
        UsageError: an id has the hash of somebody else, who would be erased.
    """
    known = names_known(root, users)
    for user, name in known.items():
        if name != listed[user]:
            raise UsageError(
                f"--users: {listed[user]!r} has the hash of {name!r}, and nothing but dead letters of its own; take it "
                "out of the list, nobody was erased"
            )
    unknown = [listed[user] for user in users.tolist() if user not in known]
    if unknown:
        shown = ", ".join(map(repr, unknown[:SHOWN]))
        more = f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
        say(
            f"warning: {len(unknown):,} of the {len(users):,} ids are in no release (erased before, or spelled "
            f"otherwise than in the logs?): {shown}{more}"
        )
