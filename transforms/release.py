"""Check -> commit -> publish: plain functions of (root, run) that may run twice, with or without Beam."""

import dataclasses
import datetime
import itertools
import time
from collections.abc import Mapping
from typing import Any

from stores.errors import LeaseLostError, OvertakenError, PinnerFormerError, StoreError, UsageError
from stores.files import Root
from stores.id_names import USERS, Id, names_of
from stores.lease import check_lease
from stores.manifests import Manifest, write_manifest
from stores.names import Step
from stores.releases import (
    CURRENT,
    chain,
    current_release,
    is_made_by,
    move_current,
    read_hold,
    refuse_held,
    refuse_moved,
)
from stores.string_ids import STRING
from stores.upgrades import RUN_OUTCOME, STAGED_RUN, read_json_record
from stores.user_lists import to_user_list
from transforms.gates import (
    CANNOT_SEE,
    COMPARED,
    GATES,
    Gate,
    StagedRelease,
    Thresholds,
    blind_gates,
    check_gates,
    read_gate,
)
from transforms.gates.recall import index_settings
from transforms.markers import discard_staged
from transforms.publish import PublishTarget, publish
from transforms.step_reports import StepReport

STAGED, OUTCOME = "staged.json", "outcome.json"
FAILED_USERS = "failed_users"  # ids as the logs have them: what `pinnerformer repair --users` takes
COMMITTED, REFUSED, FAILED = "committed", "refused", "failed"


def write_staged(
    root: Root,
    name: str,
    manifest: Manifest,
    reports: dict[Step, StepReport],
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Writes what a run has made so far, for `check_commit_publish` and for whoever looks into a refused run.

    Users who failed are named in it as the logs have them, where those are strings: `failures_by_name`.

    Args:
        figures: What the run's steps measured, as `StagedRelease.figures`.
    """
    failed: dict[int, Id] = {user: user for user in manifest.retry_users}
    content = {
        "manifest": manifest.to_json(),
        "reports": {key: dataclasses.asdict(report) for key, report in sorted(reports.items())},
        "figures": dict(figures or {}),
    }
    if failed and USERS.kind(manifest) == STRING:
        failed = {**names_of(root, manifest, USERS, failed)}
        why = [one for report in reports.values() for one in report.failures]
        content["failures_by_name"] = {str(failed[user]): words for user, words in why if user in failed}
    if failed:
        root.write_bytes(f"staging/{name}/{FAILED_USERS}", to_user_list(failed.values()))
    root.write_json(f"staging/{name}/{STAGED}", content)


@dataclasses.dataclass(frozen=True)
class StagedRun:
    """What `write_staged` wrote of a run.

    Attributes:
        figures: What its steps measured; nothing of a run of an older version, whose gates measure themselves.
    """

    manifest: Manifest
    reports: dict[Step, StepReport]
    figures: dict[str, Any]


def read_staged_run(root: Root, name: str) -> StagedRun:
    """What `write_staged` wrote.

    Raises:
        StoreError: the run did not get that far, there is no such run, or what it wrote is damaged.
    """
    relative = f"staging/{name}/{STAGED}"
    try:
        found = read_json_record(root, relative, STAGED_RUN)
    except FileNotFoundError:
        raise StoreError(f"{root.path(relative)}: no such file; run {name} was not finished, start it again") from None
    manifest = Manifest.from_json(found["manifest"], root.path(relative))
    try:
        reports = {key: StepReport.from_json(report) for key, report in found["reports"].items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{root.path(relative)}: not understood ({error}); {STAGED_RUN.way_out}") from None
    return StagedRun(manifest, reports, found.get("figures", {}))


def read_staged(root: Root, name: str) -> tuple[Manifest, dict[Step, StepReport]]:
    """The manifest and the reports of `read_staged_run`."""
    run = read_staged_run(root, name)
    return run.manifest, run.reports


def check(root: Root, name: str, thresholds: Thresholds) -> Manifest:
    """Runs every gate on a staged run; returns its manifest with the gates and the measured `ef` in it."""
    started = time.perf_counter()
    run = read_staged_run(root, name)
    manifest = run.manifest
    # Trends need a few releases; the chain may have hundreds, and each manifest is a file to read.
    before = chain(root, manifest.previous) if manifest.previous else iter(())
    # Of the releases before the last one gates ask for figures, not for files: thirty lists of them would be gigabytes.
    compared = list(itertools.islice(before, 1))
    compared += (dataclasses.replace(one, tables={}) for one in itertools.islice(before, COMPARED - 1))
    staged = StagedRelease(root, manifest, run.reports, compared, thresholds, run.figures)
    gates = check_gates(GATES, staged)
    index = {**manifest.settings["index"], **index_settings(staged)}
    return dataclasses.replace(
        manifest,
        gates=[dataclasses.asdict(gate) for gate in gates],
        settings={**manifest.settings, "index": index},
        statistics={**manifest.statistics, CANNOT_SEE: blind_gates(GATES, staged)},
        timings={**manifest.timings, "check": time.perf_counter() - started},
    )


def refusals(manifest: Manifest) -> list[Gate]:
    """The gates that a checked manifest did not pass and that nobody forced."""
    return [gate for gate in map(read_gate, manifest.gates) if not gate.passed and gate.forced is None]


def force(manifest: Manifest, forced: Mapping[str, str]) -> Manifest:
    """Opens gates that an operator answers for; the manifest keeps the reason beside the measured value.

    Args:
        forced: Gate -> reason.

    Raises:
        UsageError: a gate that does not exist or is not closed.
    """
    closed = [gate["name"] for gate in manifest.gates if not gate["passed"]]
    for name in forced:
        if name not in closed:
            there = f"closed are: {', '.join(closed)}" if closed else "no gate is closed"
            raise UsageError(f"--force-gate {name}: not a closed gate of {manifest.release}; {there}")
    gates = [{**gate, "forced": forced.get(gate["name"])} for gate in manifest.gates]
    return dataclasses.replace(manifest, gates=gates)


def commit(root: Root, name: str, manifest: Manifest, lease: str = "") -> None:
    """Makes a release visible: dead letters, manifest, then CURRENT by compare-and-swap.

    A release of a chain that takes the place of another (`over` in its settings) is kept beside that one: CURRENT moves
    once, when the whole of the new chain is there.

    Args:
        lease: Who must still hold the root.

    Raises:
        LeaseLostError: another run took the root over; nothing was written.
        StoreError: another run committed meanwhile, or the root is held at another release.
    """
    if lease:
        check_lease(root, lease)
    refuse_moved(root)
    hold = read_hold(root)
    if hold is not None and hold.release != manifest.release:  # a detached run holds no lease: typed meanwhile
        refuse_held(root)
    found, beside = current_release(root), manifest.settings.get("over")
    if (
        beside is None and found != manifest.previous
    ):  # before the manifest is written: another run's may have the same name
        if is_committed(root, manifest):
            return  # by another attempt of this step
        raise StoreError(
            f"{root.path(CURRENT)}: names {found}, this run was built on {manifest.previous}; "
            "another run committed meanwhile, start this one again"
        )
    # Dead letters before the manifest and CURRENT last: whoever sees a release finds all of it.
    for file in root.list(f"staging/{name}/dead_letters"):
        data = root.read_bytes(f"staging/{name}/dead_letters/{file}")
        root.write_bytes(f"releases/{manifest.release}/dead_letters/{file}", data)
    # A manifest that CURRENT never names is no release: a kill between the two lines costs nothing.
    write_manifest(root, manifest)
    if lease:
        check_lease(root, lease)
    if beside is None:
        move_current(root, manifest.previous, manifest.release)


def is_committed(root: Root, staged: Manifest) -> bool:
    """Whether a staged release is a release already: of this run, since two runs may have been given one id."""
    if staged.settings.get("over") is not None:
        return is_made_by(root, staged.release, staged.settings["run"])
    for manifest in chain(root):
        if manifest.release == staged.release:
            return manifest.settings.get("run") == staged.settings.get("run")
        if manifest.day < staged.day:  # days only go back from here
            return False
    return False


@dataclasses.dataclass(frozen=True)
class Committed:
    """A committed release whose outcome is not written yet: it is still to be published.

    Attributes:
        run: The run's name.
        release: Its id.
        outcome: As `check_commit` gave it.
    """

    run: str
    release: str
    outcome: dict[str, Any]


def check_commit(
    root: Root, name: str, thresholds: Thresholds, forced: Mapping[str, str] | None = None, lease: str = ""
) -> dict[str, Any]:
    """Check -> commit; arguments and errors are those of `check_commit_publish`.

    Returns:
        The outcome, of which nothing is written yet.
    """
    staged, reports = read_staged(root, name)
    outcome: dict[str, Any] = {"outcome": COMMITTED, "release": staged.release, "refused": [], "publish": None}
    outcome |= {"error": None, "finished": None, "ran": moments_of(reports)}
    try:
        if not is_committed(root, staged):
            checked = force(check(root, name, thresholds), forced or {})
            refused = refusals(checked)
            write_checked(root, name, checked)
            if refused:
                outcome |= {"outcome": REFUSED, "refused": [dataclasses.asdict(gate) for gate in refused]}
            else:
                commit(root, name, checked, lease)
    except (UsageError, LeaseLostError):
        raise  # nothing was done
    except PinnerFormerError as error:
        outcome |= {"outcome": FAILED, "error": explain_failure(root, name, staged.release, error)}
    return outcome


def moments_of(reports: Mapping[Step, StepReport]) -> dict[str, list[float]]:
    """Step -> when its first task began and its last one ended, seconds since 1970; of steps that say so."""
    return {step: [of.began, of.ended] for step, of in reports.items() if of.began is not None and of.ended is not None}


def check_commit_publish(
    root: Root,
    name: str,
    thresholds: Thresholds,
    target: PublishTarget | None,
    forced: Mapping[str, str] | None = None,
    lease: str = "",
) -> dict[str, Any]:
    """Check -> commit -> publish; what came of it is written to the run's folder and returned.

    A refusal is an outcome, not an exception: engines retry exceptions and lose their type. Running it twice is
    harmless: a run that is committed already goes on with publishing.

    Args:
        forced: Gate -> reason: closed gates that an operator opens.
        lease: Who must still hold the root when the release is committed.

    Raises:
        LeaseLostError: another run took the root over; nothing is written, not even an outcome.

    Returns:
        `outcome` (committed, refused or failed), `release`, `refused` (gates), `publish` (counters or None), `error`,
        `finished` (when), `ran` (step -> when it began and ended).
    """
    outcome = check_commit(root, name, thresholds, forced, lease)
    published, error = None, None
    if outcome["outcome"] == COMMITTED and target is not None:
        try:
            published = publish(root, outcome["release"], target, unless_overtaken=True)
        except (UsageError, LeaseLostError):
            raise
        except PinnerFormerError as raised:
            error = explain_failure(root, name, outcome["release"], raised)
    return write_outcome(root, name, outcome, published=published, error=error)


def explain_failure(root: Root, name: str, release: str, error: Exception) -> str:
    """What an outcome says of an error; of one that came after the commit also how to go on."""
    overtaken = isinstance(error, OvertakenError) and current_release(root) != release
    if overtaken or not is_committed(root, read_staged(root, name)[0]):
        return str(error)
    return (
        f"{error}; release {release} is committed but not published: mend the store, then "
        f"`pinnerformer release --run {name} --root {root.url} --kv URL`"
    )


def write_outcome(
    root: Root,
    name: str,
    outcome: dict[str, Any],
    *,
    published: dict[str, Any] | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """Writes how a run ended to its folder; of a release that is committed, the staged files go.

    Args:
        outcome: As `check_commit` gave it.
        published: Counters of the publishing.
        error: Why it failed.

    Returns:
        The outcome as it was written.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    outcome = {**outcome, "publish": published, "finished": now}
    if error is not None:
        outcome |= {"outcome": FAILED, "error": error}
    root.write_json(f"staging/{name}/{OUTCOME}", outcome)
    if outcome["outcome"] == COMMITTED:
        discard_staged(root, f"staging/{name}")
    return outcome


def write_checked(root: Root, name: str, checked: Manifest) -> None:
    """Keeps the checked manifest with the run, so that a refused run can be read."""
    root.write_json(f"staging/{name}/checked.json", checked.to_json())


def read_outcome(root: Root, name: str) -> dict[str, Any] | None:
    """How a run ended; None if it did not.

    Raises:
        StoreError: what it wrote is damaged.
    """
    try:
        return read_json_record(root, f"staging/{name}/{OUTCOME}", RUN_OUTCOME)
    except FileNotFoundError:
        return None
