"""Training data: the logs of a range of days in, whole timelines out, one row per user."""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import sys

import apache_beam as beam

from pinnerformer_model.checkpoint import load_config
from pinnerformer_model.config import PAPER_LABEL_RULE, ModelError
from pinnerformer_model.labels import check_label_rule
from pipelines.launch.engine_hosts import host_check
from pipelines.launch.local_workers import LocalWorkers, local_workers
from pipelines.launch.progress import Progress
from pipelines.launch.run_pipeline import run_pipeline
from pipelines.launch.stages import Work
from pipelines.planning.id_kinds import check_erased_root, kinds_of, refuse_other_vectors
from pipelines.planning.lacking import refuse_unknown_words, say_lacking
from pipelines.planning.training_data_request import TrainingDataRequest, parse
from pipelines.telemetry.lines import say
from pipelines.training.init_model import read_vocabularies
from pipelines.training.label_rule import read_label_rule
from stores.column_names import ColumnNames
from stores.errors import InputError, StoreError, UsageError
from stores.files import Root
from stores.logs import InputSelection, select_inputs
from stores.names import Counter, Step
from stores.partitions import PartitionDays
from stores.pin_vectors import VectorSet, describe_vectors, map_vector_table
from stores.timelines import DESCRIPTION as TIMELINES_JSON
from stores.timelines import PIN_IDS, SPLITS, read_description, unnamed_files, write_vector_matrix
from stores.vector_version import read_until, read_version
from transforms.model import local_model
from transforms.read_logs import ReadLogs, row_groups
from transforms.report_outputs import REPORTS, MergeReports
from transforms.run import RunFolder
from transforms.sort_vectors import ShardVectors, vector_groups
from transforms.step_reports import StepReport
from transforms.timelines import MakeTimelines, TimelineRules

RUN_PREFIX = "training-data-"  # of the names of its runs
ROW_S = 7e-6  # of work that a row of the logs is, the whole job over its rows: 1.5 M of receipts were 10 CPU seconds


@dataclasses.dataclass(frozen=True)
class TrainingDataPlan:
    """Everything the job needs to know, decided before it starts.

    Attributes:
        buckets, shards: How many tasks users and vectors are cut into.
        erased_root: The root whose erased users are left out; None: nobody is.
        days: Which moments the days of the partitions have.
        vectors_until: What the vectors know of lies before this day; None where they do not say.
    """

    run: RunFolder
    buckets: int
    shards: int
    inputs: InputSelection
    columns: ColumnNames
    vectors: VectorSet
    rules: TimelineRules
    erased_root: Root | None
    days: PartitionDays = PartitionDays()
    vectors_until: datetime.date | None = None


def define_pipeline(pipeline: beam.Pipeline, plan: TrainingDataPlan, record: str) -> None:
    """The job as one graph; `record` is where the merged reports go."""
    run = plan.run
    groups = [group for file in plan.inputs.files for group in row_groups(file)]

    # Sorted tables of the pin vectors first: an event keeps the row of its pin in them, four bytes, and not the vector.
    groups_of_vectors = vector_groups(plan.vectors)
    tables = pipeline | "ShardVectors" >> ShardVectors(run, plan.shards, plan.vectors, groups_of_vectors)
    # The one shuffle of log rows, as in the nightly job; users erased since the logs were written are dropped before
    # it.
    rows = (
        pipeline
        | "ListLogs" >> beam.Create(groups)
        | "ReadLogs" >> ReadLogs(run, plan.columns, plan.buckets, erased_root=plan.erased_root)
    )
    # A bucket has everything of its users, so that a timeline is finished where it is built; it keeps no state between
    # runs.
    built = rows.main | "MakeTimelines" >> MakeTimelines(
        run, plan.rules, tables["main"], plan.vectors.dtype, plan.erased_root
    )
    reports = (
        (tables[REPORTS], rows[REPORTS], built)
        | "AllReports" >> beam.Flatten()
        | "MergeReports" >> beam.CombineGlobally(MergeReports())
    )
    # Training wants one matrix: it is written after everything else, by one worker, one shard in memory at a time.
    shards = tables["main"] | "ToList" >> beam.combiners.ToList()
    _ = (
        pipeline
        | "Barrier" >> beam.Create([record])
        | "Finish"
        >> beam.Map(finish, plan=plan, reports=beam.pvalue.AsSingleton(reports), shards=beam.pvalue.AsSingleton(shards))
    )


def finish(record: str, plan: TrainingDataPlan, reports: dict[Step, StepReport], shards: list) -> None:
    """Writes the vector matrix, then `timelines.json`: with it the timelines are there. May run twice.

    Raises:
        InputError: there is no event, or no positive one; says what there is.
    """
    plan.run.check_root()
    root, rules = plan.run.root, plan.rules
    built = reports.get(Step.BUILD_TIMELINES, StepReport())
    kinds = {k.removeprefix("events "): n for k, n in sorted(built.counters.items()) if k.startswith("events ")}
    counts = {k: n for k, n in sorted(built.counters.items()) if not k.startswith("events ")}
    read = reports.get(Step.READ_LOGS, StepReport()).counters
    for name in ("rows", Counter.ROWS_ERASED):
        counts[name] = counts.get(name, 0) + read.get(Counter.ROWS_ERASED, 0)
    if not counts.get("events"):
        raise InputError(
            f"no engagement to train on: {read.get('rows_read', 0):,} rows read, {read.get('rows_dropped', 0):,} "
            f"invalid{_reasons(read)}, {counts.get('rows_erased', 0):,} of erased users, "
            f"{counts.get('rows_out_of_vocabulary', 0):,} out of the vocabularies, "
            f"{counts.get('rows_without_vector', 0):,} without a pin vector; look at --start, --end, --pins and --model"
        )
    if not counts["positives"]:
        found = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items(), key=lambda x: -x[1])[:8])
        raise InputError(
            f"no positive engagement by the label rule {json.dumps(rules.label_rule)}: there are {found}; "
            "give a rule of your own with --label-rule FILE; by this one every row counts: "
            '{"surfaces": ["*"], "actions": {"*": 0}}'
        )
    # By shard, and not as they came: rows of the matrix are what `pin_row` counts.
    tables = [
        map_vector_table(root, entry, plan.vectors.dtype) for entry in sorted(shards, key=lambda entry: entry.part)
    ]
    write_vector_matrix(root, tables, plan.vectors.dtype)
    files = {
        split: [dataclasses.asdict(e) for e in sorted(built.files.get(split, []), key=lambda e: (e.part, e.path))]
        for split in SPLITS
    }
    root.write_json(
        record,
        {
            "start": min(plan.inputs.partitions).isoformat(),
            "end": max(plan.inputs.partitions).isoformat(),
            "pinsage_version": plan.vectors.version,
            # Whoever evaluates at an earlier moment would ask what the vectors have seen.
            "action_vocabulary": list(rules.action_vocabulary),
            "surface_vocabulary": list(rules.surface_vocabulary),
            "label_rule": rules.label_rule,
            "evaluation_share": rules.evaluation_share,
            "split_salt": rules.split_salt,
            "pins": sum(len(ids) for ids, _ in tables),
            "counts": counts,
            "events": kinds,
            "files": files,
            **plan.columns.in_force(plan.inputs.lacking),
            **({"partition_days": days} if (days := plan.days.to_json()) else {}),
            **({"vectors_until": plan.vectors_until.isoformat()} if plan.vectors_until else {}),
        },
    )


def _reasons(read: dict[str, int]) -> str:
    """Why rows were invalid, with counts, in brackets; empty if none was."""
    dropped = {name.removeprefix("dropped_"): n for name, n in sorted(read.items()) if name.startswith("dropped_")}
    why = [f"{name} {n:,}" for name, n in dropped.items() if n]
    return f" ({', '.join(why)})" if why else ""


def remove_leftovers(root: Root) -> None:
    """Leaves the timelines and nothing else of the job, of earlier attempts neither; without timelines, nothing at all.

    No attempt goes on from another, so that what a failed one leaves helps nobody. Files of other names stay.
    """
    for name in root.list("staging"):
        if name.startswith(RUN_PREFIX):
            root.remove(f"staging/{name}")
    for path in unnamed_files(root):
        root.remove(path)
    for folder in ("staging", *SPLITS, os.path.dirname(PIN_IDS)):
        with contextlib.suppress(OSError):  # there is something of somebody else in it
            os.rmdir(root.path(folder))


def plan_training_data(request: TrainingDataRequest) -> TrainingDataPlan:
    """Looks at everything the job was given and refuses what cannot work, before any work starts.

    Raises:
        PinnerFormerError: names the file or flag, and what to do.
    """
    root = request.out
    if root.exists(TIMELINES_JSON):
        raise UsageError(f"--out {root.url}: holds timelines already; name a new folder, or remove this one")
    rule = read_label_rule(request.label_rule) if request.label_rule else None
    width: int | None
    try:
        if request.model:
            config = load_config(local_model(request.model))
            actions, surfaces, version = config.action_vocabulary, config.surface_vocabulary, config.pinsage_version
            width = config.pin_vector_dim
            rule = rule or check_label_rule(config.label_rule)
        else:
            actions, surfaces = read_vocabularies(request.logs, request.columns)
            version, width = read_version(request.pins), None
    except ModelError as error:
        raise InputError(str(error)) from None
    if not actions or not surfaces:
        raise InputError(f"--logs {request.logs}: no row with an action and a surface in it; nothing to train on")
    inputs = select_inputs(
        request.logs,
        first=request.start,
        last=request.end,
        lookback=0,
        chain_start=request.start,
        already_read={},
        min_age_s=request.min_age_s,
        columns=request.columns,
        days=request.days,
    )
    refuse_unknown_words(inputs.files, request.columns, actions, surfaces)
    vectors = describe_vectors(request.pins, version, width, request.columns)
    check_erased_root(request.erased_root, inputs.files, request.columns)
    refuse_other_vectors(vectors, kinds_of(inputs.files, request.columns).get("pin_ids", vectors.pin_ids))
    rules = TimelineRules(
        tuple(actions), tuple(surfaces), rule or PAPER_LABEL_RULE, request.evaluation_share, request.split_salt
    )
    facts = [rules, [f.name for f in inputs.files], vectors.version]
    facts += [request.days] if request.days.to_json() else []
    name = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    run = RunFolder(root, f"{RUN_PREFIX}{request.end}-{name}")
    return TrainingDataPlan(
        run,
        request.buckets,
        request.shards,
        inputs,
        request.columns,
        vectors,
        rules,
        request.erased_root,
        request.days,
        vectors_until=read_until(request.pins),
    )


def work_left(plan: TrainingDataPlan) -> Work:
    """What is to be done, and how much of it by step."""
    units = {Step.READ_LOGS: plan.inputs.rows, Step.SHARD_PINS: plan.vectors.rows}
    return Work(units, {Step.BUILD_TIMELINES: plan.buckets}, {Step.READ_LOGS: 1.0, Step.BUILD_TIMELINES: 2.0})


def main(argv: list[str]) -> int:
    """Runs the job; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    request = parse(argv)
    # Workers are forks: what makes them is there before a thread is.
    with local_workers(request.workers) as workers:
        return run_job(request, workers)


def run_job(request: TrainingDataRequest, workers: LocalWorkers) -> int:
    """Runs the job with the workers that it may have; returns the exit code."""
    plan = plan_training_data(request)
    plan = dataclasses.replace(plan, run=plan.run.launched(hosts=host_check(request.beam, plan.run.root)))
    root = plan.run.root
    if not request.quiet:
        say_lacking(plan.inputs.files, plan.columns)
    workers.settle(plan.inputs.rows * ROW_S, plan.buckets, None, known=False)
    try:
        with Progress(plan.run, work_left(plan), shown=not request.quiet):
            run_pipeline(
                plan.run.name,
                request.beam,
                lambda pipeline: define_pipeline(pipeline, plan, TIMELINES_JSON),
                runner=workers.runner(request.beam),
            )
        if not root.exists(TIMELINES_JSON):
            raise StoreError(f"{root.path(TIMELINES_JSON)}: was not written; look into the engine's log")
    # Also where the job failed: without `timelines.json` nothing there can be used, and a second attempt starts over.
    finally:
        remove_leftovers(root)
    if not request.quiet:
        counts = read_description(root.url)[0]["counts"]
        say(
            f"{counts['users']:,} users, {counts['evaluation_users']:,} of them for evaluation; "
            f"{counts['events']:,} events, {counts['positives']:,} positive\n"
            f"timelines  {root.url}"
        )
    return 0


if __name__ == "__main__":
    from pipelines import cli

    sys.exit(cli.main(["training-data", *sys.argv[1:]]))
