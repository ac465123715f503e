"""Check -> commit -> publish: plain functions of (root, run) that may run twice, with or without Beam."""

import contextlib
import dataclasses
import datetime
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from stores.errors import LeaseLostError, PinnerFormerError, StoreError, UsageError
from stores.files import Root
from stores.kv import open_store
from stores.kv.base import Current, KeyValueStore
from stores.kv.codec import encode_values
from stores.lease import check_lease
from stores.manifests import Manifest, read_manifest, write_manifest
from stores.names import Step
from stores.releases import CURRENT, chain, current_release, is_made_by, move_current
from stores.schemas import from_binary_column
from stores.tables import read_files
from stores.upgrades import RUN_OUTCOME, STAGED_RUN, read_json_record
from transforms.gates import COMPARED, GATES, Gate, StagedRelease, Thresholds, check_gates, read_gate
from transforms.gates.recall import index_settings
from transforms.markers import discard_staged
from transforms.step_reports import StepReport

STAGED, OUTCOME = "staged.json", "outcome.json"
FAILED_USERS = "failed_users"  # one id per line: what `pinnerformer repair --users` takes
COMMITTED, REFUSED, FAILED = "committed", "refused", "failed"


@dataclasses.dataclass(frozen=True)
class PublishTarget:
    """Where a release is published; None of it is written to disk, because a URL may hold a password."""

    url: str
    namespace: str


def write_staged(root: Root, name: str, manifest: Manifest, reports: dict[Step, StepReport]) -> None:
    """Writes what a run has made so far, for `check_commit_publish` and for whoever looks into a refused run."""
    if manifest.retry_users:
        root.write_bytes(f"staging/{name}/{FAILED_USERS}", "".join(f"{u}\n" for u in manifest.retry_users).encode())
    root.write_json(
        f"staging/{name}/{STAGED}",
        {
            "manifest": manifest.to_json(),
            "reports": {key: dataclasses.asdict(report) for key, report in sorted(reports.items())},
        },
    )


def read_staged(root: Root, name: str) -> tuple[Manifest, dict[Step, StepReport]]:
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
        return manifest, {key: StepReport.from_json(report) for key, report in found["reports"].items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{root.path(relative)}: not understood ({error}); {STAGED_RUN.way_out}") from None


def check(root: Root, name: str, thresholds: Thresholds) -> Manifest:
    """Runs every gate on a staged run; returns its manifest with the gates and the measured `ef` in it."""
    started = time.perf_counter()
    manifest, reports = read_staged(root, name)
    # Trends need a few releases; the chain may have hundreds, and each manifest is a file to read.
    before = chain(root, manifest.previous) if manifest.previous else iter(())
    staged = StagedRelease(root, manifest, reports, list(itertools.islice(before, COMPARED)), thresholds)
    gates = check_gates(GATES, staged)
    index = {**manifest.settings["index"], **index_settings(staged)}
    return dataclasses.replace(
        manifest,
        gates=[dataclasses.asdict(gate) for gate in gates],
        settings={**manifest.settings, "index": index},
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
        StoreError: another run committed meanwhile.
    """
    if lease:
        check_lease(root, lease)
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


def changed_rows(root: Root, old: Manifest | None, new: Manifest) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Compares two snapshots bucket by bucket; a bucket with the same files is not opened.

    Yields:
        (user_id int64 of the users that `new` no longer has, the rows of `new` that are new or another vector or day).
    """
    before = old.parts("user_embeddings") if old else {}
    after = new.parts("user_embeddings")
    for bucket in sorted(before.keys() | after.keys()):
        if before.get(bucket) == after.get(bucket):
            continue
        held = after.get(bucket, before.get(bucket, []))
        rows = read_files(root, held, verify=True)
        rows = rows if bucket in after else rows.slice(0, 0)
        if bucket not in before:
            yield np.empty(0, np.int64), rows
            continue
        stored = read_files(root, before[bucket], verify=True)
        ids, old_ids = rows["user_id"].to_numpy(), stored["user_id"].to_numpy()
        gone = old_ids[~np.isin(old_ids, ids)]
        common, at, old_at = np.intersect1d(ids, old_ids, assume_unique=True, return_indices=True)
        same = np.zeros(len(ids), bool)
        vectors, old_vectors = from_binary_column(rows["embedding"]), from_binary_column(stored["embedding"])
        days, old_days = rows["embedding_date"].to_numpy(), stored["embedding_date"].to_numpy()
        same[at] = (vectors[at].view(np.uint16) == old_vectors[old_at].view(np.uint16)).all(axis=1)
        same[at] &= days[at] == old_days[old_at]
        yield gone, rows.filter(pa.array(~same))


def publish(root: Root, release: str, target: PublishTarget) -> dict[str, int]:
    """Brings the key-value store to a release.

    From a release of the same model: the difference of the two snapshots, into the generation in use. From nothing or
    from another model: a new generation, complete and counted before readers see it.

    Returns:
        Counters users_sent, users_deleted, users_stored.
    """
    manifest = read_manifest(root, release)
    with open_store(target.url, target.namespace) as store:
        found = store.current()
        if found is not None and found.release == release and found.model_digest == manifest.model_digest:
            return {"users_sent": 0, "users_deleted": 0, "users_stored": found.users}
        generation, served = _choose_generation(root, store, manifest)
        fresh = served is None
        deleted: list[np.ndarray] = []

        def rows() -> Iterator[tuple[np.ndarray, Any]]:
            for gone, changed in changed_rows(root, served, manifest):
                deleted.append(gone)
                day = changed["embedding_date"].cast(pa.int32()).to_numpy()
                vectors = from_binary_column(changed["embedding"])
                yield changed["user_id"].to_numpy(), encode_values(vectors, day, manifest.model_digest)

        def gone() -> Iterator[np.ndarray]:  # read after `rows` is exhausted
            yield from deleted

        result = store.upload(
            generation,
            rows(),
            deletes=gone(),
            fresh=fresh,
            current=Current(generation, release, manifest.model_digest, users=manifest.rows("user_embeddings")),
        )
    return {"users_sent": result.sent, "users_deleted": result.deleted, "users_stored": result.stored}


def _choose_generation(root: Root, store: KeyValueStore, manifest: Manifest) -> tuple[str, Manifest | None]:
    """Where a release is written, and the release it is written over as a difference; None for a fresh generation.

    The generation that is served, if it is of this model; else one of this model that is still there (a rollback to an
    older model); else a new one, under a name that nothing has.
    """
    held = store.generations()
    served = store.current()
    for name in ([served.generation] if served else []) + sorted(held, reverse=True):
        entry = held[name]
        if entry.model_digest == manifest.model_digest and entry.release is not None:
            with contextlib.suppress(StoreError):
                before = read_manifest(root, entry.release)
                if "user_embeddings" not in before.dropped:
                    return name, before
    fresh = f"{manifest.model_digest[:12]}-{manifest.release}"
    taken = {name for name in held if held[name].release is not None}
    names = itertools.chain([fresh], (f"{fresh}.{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken), None


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
        `outcome` (committed, refused or failed), `release`, `refused` (gates), `publish` (counters or None), `error`.
    """
    staged, _ = read_staged(root, name)
    outcome: dict[str, Any] = {"outcome": COMMITTED, "release": staged.release, "refused": [], "publish": None}
    outcome |= {"error": None, "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    try:
        if not is_committed(root, staged):
            checked = force(check(root, name, thresholds), forced or {})
            refused = refusals(checked)
            write_checked(root, name, checked)
            if refused:
                outcome |= {"outcome": REFUSED, "refused": [dataclasses.asdict(gate) for gate in refused]}
            else:
                commit(root, name, checked, lease)
        if outcome["outcome"] == COMMITTED and target is not None:
            outcome["publish"] = publish(root, staged.release, target)
    except (UsageError, LeaseLostError):
        raise  # nothing was done
    except PinnerFormerError as error:
        outcome |= {"outcome": FAILED, "error": str(error)}
        if is_committed(root, staged):
            outcome["error"] += (
                f"; release {staged.release} is committed but not published: mend the store, then "
                f"`pinnerformer release --run {name} --root {root.url} --kv URL`"
            )
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
