"""What is wrong with what is served, as far as a root and a store tell: the lines that `status --max-age` ends with."""

import contextlib
import dataclasses
import datetime
import shlex
from collections.abc import Iterator

from stores.errors import StoreError
from stores.files import Root
from stores.kv import KeyValueStore
from stores.kv.base import Current
from stores.layout import find_root_id
from stores.lease import live_run
from stores.manifests import Manifest, read_manifest
from stores.releases import read_current, read_hold, read_move, rolled_back_path
from transforms.publish import snapshot_digest
from transforms.release import FAILED, REFUSED, read_outcome

NAMES = (  # docs/alarms.md
    *("no_release", "store_empty", "store_of_another_root", "store_behind", "half_published", "too_old"),
    *("held", "moved", "refused", "failed"),
)


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Something that a person has to see to.

    Attributes:
        name: For programs; one of those in docs/alarms.md.
        text: What is wrong, and what to type.
    """

    name: str
    text: str


def find_alarms(
    root: Root, store: KeyValueStore | None, max_age_s: float | None, now: datetime.datetime
) -> list[Alarm]:
    """Everything that is wrong, the most serious first; empty where all is well.

    While a run holds the lease, a store behind CURRENT and the note of a publish are its work and no alarm.

    Args:
        store: What readers read; None: CURRENT is looked at in its place.
        max_age_s: How old the data of what is served may be; None: as old as it likes.
    """
    move = read_move(root)
    if move is not None:  # what is wrong here is nobody's any more
        there = f"pinnerformer status --root {shlex.quote(move.url)}"
        return [Alarm("moved", f"{move.url} took the place of this root on {move.since}; look there: {there}")]
    newest, idle = read_current(root), live_run(root) is None
    found: list[Alarm] = []
    if newest is None:
        found.append(Alarm("no_release", f"no release in {root.url} yet; no night has run to its end"))
    served = newest
    if store is not None:
        current = store.current()
        served = None
        if current is None:
            text = f"{store.url_shown} serves nothing in namespace {store.namespace}; publish CURRENT:"
            found.append(Alarm("store_empty", f"{text} {_type(root, newest)}"))
        else:
            served, problems = _served_release(root, store, current, newest if idle else None)
            found += problems
        note = store.note() if idle else None
        if note is not None:
            text = (
                f"{store.url_shown}: a publish of {note.target.release} that began {note.since} was not finished, "
                f"vectors of releases may mix; publish CURRENT: {_type(root, newest)}"
            )
            found.append(Alarm("half_published", text))
    if served is not None and max_age_s is not None:
        age_s = (now - served.data_until).total_seconds()
        if age_s > max_age_s:
            text = (
                f"the data of {served.release}, which is served, ends {served.data_until:%Y-%m-%d %H:%M} UTC, "
                f"{age_s / 3600:.1f} h ago; --max-age allows {max_age_s / 3600:g} h"
            )
            found.append(Alarm("too_old", text))
    return found + list(_held(root)) + list(_refused(root, newest))


def _type(root: Root, manifest: Manifest | None) -> str:
    """The command that publishes a release."""
    if manifest is None or "run" not in manifest.settings:
        return f"pinnerformer daily --root {shlex.quote(root.url)} --kv URL ..."
    return f"pinnerformer release --root {shlex.quote(root.url)} --run {manifest.settings['run']} --kv URL"


def _served_release(
    root: Root, store: KeyValueStore, current: Current, newest: Manifest | None
) -> tuple[Manifest | None, list[Alarm]]:
    """The release of this root that a store serves, and what is wrong with that.

    Args:
        newest: What it should serve; None: nobody says.
    """
    shown = f"{store.url_shown} serves {current.release}"
    content, own = store.contents().get(current.generation), find_root_id(root)
    try:
        served = read_manifest(root, current.release)
    except StoreError as error:
        text = f"{shown}, which {root.url} does not have ({error}); publish what it has: {_type(root, newest)}"
        return None, [Alarm("store_of_another_root", text)]
    if current.model_digest != served.model_digest or (content and own and content.root != own):
        text = f"{shown} of another root; publish from this one: {_type(root, newest or served)}"
        return None, [Alarm("store_of_another_root", text)]
    found = []
    if newest is not None and newest.release != current.release:
        text = f"{shown}, CURRENT is {newest.release}; publish it: {_type(root, newest)}"
        found.append(Alarm("store_behind", text))
    elif newest is not None and content and content.snapshot != snapshot_digest(newest):
        text = f"{shown} as it was before its files were made again; publish it: {_type(root, newest)}"
        found.append(Alarm("store_behind", text))
    return served, found


def _held(root: Root) -> Iterator[Alarm]:
    held = read_hold(root)
    if held is not None:
        yield Alarm(
            "held",
            f"held at {held.release} since {held.since}, where it was rolled back to from {held.rolled_back} "
            f"({held.reason}): no night runs until pinnerformer rollback --root {shlex.quote(root.url)} --lift-hold",
        )


def _refused(root: Root, newest: Manifest | None) -> Iterator[Alarm]:
    """Runs of days after CURRENT's that ended without a release."""
    for run in root.list("staging"):
        outcome = None
        with contextlib.suppress(StoreError):  # damaged: what is missing because of it shows elsewhere
            outcome = read_outcome(root, run)
        if outcome is None or outcome["outcome"] not in (REFUSED, FAILED):
            continue
        day = datetime.date.fromisoformat(str(outcome["release"])[:10])
        if newest is not None and day <= newest.day or root.exists(rolled_back_path(outcome["release"])):
            continue
        if outcome["outcome"] == REFUSED:
            gates = ", ".join(gate["name"] for gate in outcome["refused"])
            folder = root.path(f"staging/{run}")
            yield Alarm(
                "refused", f"{outcome['release']} was refused on {outcome['finished']} by {gates}; see {folder}"
            )
        else:
            yield Alarm("failed", f"{outcome['release']} failed on {outcome['finished']}: {outcome['error']}")
