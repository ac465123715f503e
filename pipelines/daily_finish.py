"""How every job that makes releases ends: measures, the staged manifest, then check, commit and publish."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from pipelines.planning.daily_plan import DailyPlan, JobInputs
from pipelines.report.write import write_run_report
from stores.files import FileEntry
from stores.manifests import Manifest
from stores.names import Counter, Step
from stores.pin_shards import PIN_SHARDS, facts_of_shards
from stores.rewritten import MODIFIED
from stores.string_ids import STRING
from stores.tables import PIN_NAMES, TABLES, USER_NAMES
from transforms.canaries import CanaryCheck
from transforms.gates import Thresholds
from transforms.gates.counts import LOST
from transforms.gates.drift import HISTOGRAM
from transforms.gates.hindsight import HINDSIGHT
from transforms.gates.rhythm import HOURS
from transforms.gates.sample import RECALL_USERS, SAMPLE
from transforms.hindsight import HindsightCheck
from transforms.measures import MeasureReleases
from transforms.publish_step import PublishBuckets
from transforms.release import (
    COMMITTED,
    Committed,
    PublishTarget,
    check_commit,
    check_commit_publish,
    write_outcome,
    write_staged,
)
from transforms.report_outputs import DayReport, Figure
from transforms.run import Run, RunFolder
from transforms.sort_vectors import remove_other_tables
from transforms.step_reports import StepReport

PIN_STEPS = (Step.EMBED_PINS, Step.BUILD_INDEXES)  # that say what a shard was made of
NAMED = {USER_NAMES: "user_ids", PIN_NAMES: "pin_ids"}  # table -> the field of a layout that asks for it


def measure_releases(
    runs: Sequence[Run],
    given: JobInputs,
    tables: beam.PCollection[FileEntry],
    users: beam.PCollection[DayReport],
    pins: beam.PCollection[DayReport],
) -> dict[str, beam.PCollection]:
    """Measures what the gates of some days ask, in steps of their own; as `MeasureReleases` gives it.

    Args:
        tables: Tonight's pin vectors, one table per shard.
        users, pins: Reports of the two branches.
    """
    model, dtype, budget = given.model, given.vectors.dtype, given.settings.token_budget
    measure = MeasureReleases(
        runs,
        CanaryCheck(model, dtype, budget),
        HindsightCheck(model, dtype, budget),
        tables,
        int(given.settings.thresholds[RECALL_USERS]),
    )
    return {"users": users, "pins": pins} | "Measure" >> measure


def figures_of(found: Iterable[Figure], day: int) -> dict[str, Any]:
    """The figures of a day, by name; pins that are lost are counted shard by shard, and are of the first day."""
    mine = [figure for of_day, figure in found if of_day == day]
    lost = sum(number for name, number in mine if name == LOST)
    return {**dict(mine), LOST: {"pin_embeddings": lost}}


def manifest_header(plan: DailyPlan) -> dict[str, Any]:
    """What the manifest says that is known before the run."""
    given, files = plan.given, plan.inputs.files
    return {
        "model_digest": given.model.digest,
        "inputs": [{"path": f.name, "rows": f.rows, "bytes": f.bytes, "version": f.footer} for f in files],
        "settings": {
            **given.settings.to_json(),
            "run": plan.run.name,
            "bootstrap_from": plan.bootstrap_from.isoformat(),
            "pinsage_version": given.vectors.version,
            "layout": plan.run.layout.to_json(),
            **given.columns.in_force(plan.inputs.lacking),
            MODIFIED: [file.modified_ns for file in files],
        },
    }


def take_dead_letters(run: Run, entries: Iterable[FileEntry]) -> None:
    """Copies the dead letters of a pin branch that several days share into a run's folder."""
    for entry in entries:
        if not entry.path.startswith(f"{run.staging}/"):
            name = entry.path.rpartition("/")[2]
            run.root.write_bytes(f"{run.staging}/dead_letters/{name}", run.root.read_bytes(entry.path))


def finish_run(
    name: str,
    header: dict[str, Any],
    run: Run,
    target: PublishTarget | None,
    reports: dict[Step, StepReport],
    figures: Mapping[str, Any],
    spread: bool = False,
) -> dict[str, Any]:
    """Writes the staged manifest, runs check -> commit -> publish: nothing is measured here.

    Args:
        header: From `manifest_header`.
        reports: Of every step.
        figures: What steps measured, as `transforms.measures` names it.
        spread: Publishing is left to steps that follow, and the outcome of a committed release with it.

    Returns:
        The outcome.
    """
    # The last step may run on a machine that ran no other: it looks for itself.
    run.check_root()
    names = [table for table, kind in NAMED.items() if getattr(run.layout, kind) == STRING]
    files: dict[str, list] = {table: [] for table in (*TABLES, *names)}
    for report in reports.values():
        for table, entries in report.files.items():
            if table in files:
                files[table] += entries
        take_dead_letters(run, report.files.get("dead_letters", ()))
    manifest = Manifest(
        release=run.release,
        date=run.date.isoformat(),
        previous=run.previous,
        model_digest=header["model_digest"],
        # Reports come in any order; sorted, the manifest of an undisturbed run is that of a resumed one.
        tables={table: sorted(entries, key=lambda e: (e.part, e.path)) for table, entries in files.items()},
        inputs=header["inputs"],
        settings=header["settings"],
        counters={step_name: dict(sorted(r.counters.items())) for step_name, r in sorted(reports.items())},
        statistics={
            HISTOGRAM: reports[Step.MERGE_SNAPSHOT].histograms.get(HISTOGRAM, []),
            HOURS: reports[Step.READ_LOGS].histograms.get(HOURS, []) if Step.READ_LOGS in reports else [],
            HINDSIGHT: figures[HINDSIGHT],
            PIN_SHARDS: facts_of_shards(reports[step].facts for step in PIN_STEPS if step in reports),
        },
        gates=[],
        timings={step_name: r.seconds for step_name, r in sorted(reports.items())},
        retry_users=sorted(user for r in reports.values() for user, _ in r.failures),
    )
    lost = {"user_embeddings": manifest.count(Step.MERGE_SNAPSHOT, Counter.USERS_LOST), **figures[LOST]}
    kept = {LOST: lost, **({SAMPLE: figures[SAMPLE]} if SAMPLE in figures else {})}
    write_staged(run.root, name, manifest, reports, kept)
    thresholds = Thresholds.from_manifest(header["settings"]["thresholds"])
    if spread:
        outcome = check_commit(run.root, name, thresholds, lease=run.launch.lease)
        if outcome["outcome"] != COMMITTED:
            outcome = write_outcome(run.root, name, outcome)
    else:
        outcome = check_commit_publish(run.root, name, thresholds, target, lease=run.launch.lease)
    if outcome["outcome"] == COMMITTED:
        remove_other_tables(run)
    if not spread or outcome["outcome"] != COMMITTED:
        report_detached(outcome, name, run)
    run.note_progress(Step.FINISH, 1)
    return outcome


def report_detached(outcome: dict[str, Any], name: str, run: RunFolder) -> None:
    """Writes the report of a run that ended and that nobody waits for; of others the launcher writes it."""
    if run.launch.detached:
        write_run_report(run.root, name, outcome)


def publish_committed(outcomes: beam.PCollection[tuple[str, dict[str, Any]]], run: Run, target: PublishTarget) -> None:
    """Publishes what was committed in steps of its own.

    Args:
        outcomes: (name of a run, its outcome), of one that is to be published.
        run: That was launched.
    """
    ended = outcomes | "Committed" >> beam.FlatMap(committed_of) | "PublishBuckets" >> PublishBuckets(run, target)
    if run.launch.detached:
        _ = ended | "WriteReport" >> beam.Map(report_detached, name=run.name, run=run)


def committed_of(ended: tuple[str, dict[str, Any]]) -> list[Committed]:
    """What is to be published of a run that ended."""
    name, outcome = ended
    return [Committed(name, outcome["release"], outcome)] if outcome["outcome"] == COMMITTED else []
