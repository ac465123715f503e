"""Writes reports: of a run that ended, of a release that is there, and again of all that an erasure went through."""

import contextlib
import itertools
from typing import Any

from pipelines.report.facts import Facts, facts_of
from pipelines.report.page import BEFORE, render
from pipelines.report.told import tell
from pipelines.telemetry.lines import say_warning
from stores.errors import PinnerFormerError, StoreError
from stores.files import Root
from stores.manifests import Manifest, manifest_path, read_manifest
from stores.releases import chain
from stores.reports import REPORT, outcome_in, read_page, report_path, reports_of_releases
from transforms.release import FAILED, REFUSED, read_outcome

Seen = dict[str, Facts]  # release -> its facts: a backfill's days are compared with one another


def make_page(
    root: Root,
    manifest: Manifest,
    outcome: dict[str, Any] | None,
    seen: Seen | None = None,
    names: str | None = None,
    **page: Any,
) -> str:
    """The page of a release or of a refused run; reads the manifests before it that `seen` does not know.

    Args:
        names: As `tell` takes it.
        page: As `report_release` takes it.
    """
    import pinnerformer

    told = tell(root, manifest, outcome, pinnerformer.__version__, names)
    return render(manifest, facts_before(root, manifest, {} if seen is None else seen), told, **page)


def facts_before(root: Root, manifest: Manifest, seen: Seen) -> list[Facts]:
    """Facts of the releases before one, newest first, `BEFORE` of them at most."""
    found: list[Facts] = []
    release = manifest.previous
    while release is not None and len(found) < BEFORE and release in seen:
        found.append(seen[release])
        release = seen[release]["previous"]
    if release is not None and len(found) < BEFORE:
        for one in itertools.islice(chain(root, release), BEFORE - len(found)):
            seen[one.release] = facts_of(one)
            found.append(seen[one.release])
    return found


def outcome_of(root: Root, manifest: Manifest) -> dict[str, Any] | None:
    """How the run of a release ended: as its folder says, or an earlier report; None where neither is there or whole.

    A refusal is of an earlier try of the same run.
    """
    with contextlib.suppress(PinnerFormerError):
        found = read_outcome(root, str(manifest.settings.get("run", "")))
        if found is not None and found["release"] == manifest.release and found["outcome"] != REFUSED:
            return found
    with contextlib.suppress(FileNotFoundError, PinnerFormerError):
        return outcome_in(read_page(root, report_path(manifest.release)))
    return None


def report_release(root: Root, release: str, seen: Seen | None = None, names: str | None = None, **page: Any) -> str:
    """The page of a release that is there.

    Args:
        names: As `tell` takes it.
        page: `template`, `folder` and `more` of `render`.

    Raises:
        StoreError: there is no such release, or it is damaged.
    """
    manifest = read_manifest(root, release)
    return make_page(root, manifest, outcome_of(root, manifest), seen, names, **page)


def report_run(root: Root, run: str, seen: Seen | None = None, names: str | None = None) -> tuple[str, str]:
    """(path, page) of a run that ended: beside its release, or in its own folder where it was refused.

    Raises:
        StoreError: it did not get so far, or what it left is damaged.
    """
    outcome = read_outcome(root, run)
    if outcome is None:
        raise StoreError(f"{root.path(f'staging/{run}')}: has not ended; there is nothing to report")
    if outcome["outcome"] == REFUSED:
        path = f"staging/{run}/checked.json"
        try:
            checked = Manifest.from_json(root.read_json(path), root.path(path))
        except FileNotFoundError:
            raise StoreError(f"{root.path(path)}: no such file; nothing was checked, nothing to report") from None
        return f"staging/{run}/{REPORT}", make_page(root, checked, outcome, seen, names)
    manifest = read_manifest(root, outcome["release"])
    if manifest.settings.get("run") != run:
        raise StoreError(f"{root.path(manifest_path(manifest.release))}: is not of run {run}; nothing to report")
    return report_path(manifest.release), make_page(root, manifest, outcome, seen, names)


def write_run_report(root: Root, run: str, outcome: dict[str, Any], seen: Seen | None = None) -> str | None:
    """Writes the report of a run that ended, committed or refused; its path, None where there is none.

    The release is there, or refused, by now: whatever goes wrong here is a warning, and no night fails of it.
    """
    try:
        if outcome["outcome"] == FAILED and not _is_of(root, outcome["release"], run):
            return None
        path, page = report_run(root, run, seen)
        root.write_bytes(path, page.encode())
        return root.path(path)
    except Exception as error:
        say_warning(f"no report of {outcome['release']} was written: {error!r}; {again(root)}")
        return None


def _is_of(root: Root, release: str, run: str) -> bool:
    """Whether a release is there and of that run: of one that fails, another run may have made it meanwhile."""
    if not root.exists(manifest_path(release)):
        return False
    return read_manifest(root, release).settings.get("run") == run


def again(root: Root) -> str:
    """What writes a report that is missing."""
    return f"later: pinnerformer report --root {root.url}"


def write_again(root: Root) -> int:
    """Writes every report that there is again, from what is left of its release; how many.

    One that cannot be made again is removed: it may name somebody who was erased.
    """
    seen: Seen = {}
    reports = list(reports_of_releases(root))
    for release, path in reports:
        try:
            page = report_release(root, release, seen).encode()
        except Exception as error:
            root.remove(path)
            say_warning(f"{root.path(path)} was removed: {error!r}; {again(root)}")
            continue
        root.write_bytes(path, page)
    return len(reports)
