"""Training data: the logs of a range of days in, whole timelines out, one row a user."""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from typing import Any

import apache_beam as beam

from pinnerformer_model.checkpoint import load_config
from pinnerformer_model.config import PAPER_LABEL_RULE, ModelError
from pinnerformer_model.labels import check_label_rule
from pipelines.arguments import Parser, date, positive, seconds
from pipelines.beam_options import parse_beam_options
from pipelines.init_model import read_version, read_vocabularies
from pipelines.launch import run_pipeline
from pipelines.progress import Progress
from stores.errors import InputError, StoreError, UsageError
from stores.files import Root
from stores.logs import ColumnNames, InputSelection, select_inputs
from stores.names import Counter, Step
from stores.pin_vectors import VectorSet, describe_vectors, map_vector_table
from stores.timelines import DESCRIPTION as TIMELINES_JSON
from stores.timelines import PIN_IDS, SPLITS, read_description, unnamed_files, write_vector_matrix
from transforms.model import local_model
from transforms.pins import ShardVectors, vector_groups
from transforms.read_logs import ReadLogs, row_groups
from transforms.report_outputs import REPORTS, MergeReports
from transforms.run import RunFolder
from transforms.step_reports import StageReport
from transforms.timelines import MakeTimelines, TimelineRules

DESCRIPTION = """\
Turns engagement logs into training data: one row a user with everything the user did, oldest first, marked where an
engagement is positive by the label rule; and the matrix of pin vectors beside it. Users are split by a hash of their
id: those of `evaluation/` are never trained on.

Vocabularies and label rule come from --model if it is given; else the vocabularies are what the logs hold, and the
label rule is the paper's: on the surface `homefeed` a `repin`, or a `closeup` or `click` of more than 10 s.
"""

EPILOG = """\
a label rule is a JSON file, least seconds by action; 0 asks for no duration:
  {"surfaces": ["homefeed"], "actions": {"repin": 0, "closeup": 10, "click": 10}}

example:
  pinnerformer training-data --logs WORLD/logs --pins WORLD/pins --out TIMELINES \\
    --start 2026-06-01 --end 2026-11-23 --root ROOT
"""


RUN_PREFIX = "training-data-"  # of the names of its runs


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything the job needs to know, decided before it starts."""

    run: RunFolder
    buckets: int
    shards: int
    inputs: InputSelection
    columns: ColumnNames
    vectors: VectorSet
    rules: TimelineRules
    erased_root: Root | None


def define_pipeline(pipeline: beam.Pipeline, plan: Plan, record: str) -> None:
    """The job as one graph; `record` is where the merged reports go."""
    run = plan.run
    groups = [group for file in plan.inputs.files for group in row_groups(file)]

    vectors = pipeline | "ListVectors" >> beam.Create(vector_groups(plan.vectors))
    tables = vectors | "ShardVectors" >> ShardVectors(run, plan.shards, plan.vectors)
    rows = (
        pipeline
        | "ListLogs" >> beam.Create(groups)
        | "ReadLogs" >> ReadLogs(run, plan.columns, plan.buckets, erased_root=plan.erased_root)
    )
    built = rows.main | "MakeTimelines" >> MakeTimelines(
        run, plan.rules, tables["main"], plan.vectors.dtype, plan.erased_root
    )
    reports = (
        (tables[REPORTS], rows[REPORTS], built)
        | "AllReports" >> beam.Flatten()
        | "MergeReports" >> beam.CombineGlobally(MergeReports())
    )
    shards = tables["main"] | "ToList" >> beam.combiners.ToList()
    _ = (
        pipeline
        | "Barrier" >> beam.Create([record])
        | "Finish"
        >> beam.Map(finish, plan=plan, reports=beam.pvalue.AsSingleton(reports), shards=beam.pvalue.AsSingleton(shards))
    )


def finish(record: str, plan: Plan, reports: dict[Step, StageReport], shards: list) -> None:
    """Writes the vector matrix, then `timelines.json`: with it the timelines are there. May run twice.

    Raises:
        InputError: there is no event, or no positive one; says what there is.
    """
    plan.run.check_root()
    root, rules = plan.run.root, plan.rules
    built = reports.get(Step.BUILD_TIMELINES, StageReport())
    kinds = {k.removeprefix("events "): n for k, n in sorted(built.counters.items()) if k.startswith("events ")}
    counts = {k: n for k, n in sorted(built.counters.items()) if not k.startswith("events ")}
    read = reports.get(Step.READ_LOGS, StageReport()).counters
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
            "give a rule of your own with --label-rule FILE"
        )
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
            "action_vocabulary": list(rules.action_vocabulary),
            "surface_vocabulary": list(rules.surface_vocabulary),
            "label_rule": rules.label_rule,
            "evaluation_share": rules.evaluation_share,
            "split_salt": rules.split_salt,
            "pins": sum(len(ids) for ids, _ in tables),
            "counts": counts,
            "events": kinds,
            "files": files,
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


def read_label_rule(path: str) -> dict[str, Any]:
    """Reads a label rule from a JSON file.

    Raises:
        InputError: missing, or no rule; names the file.
    """
    try:
        with open(path) as file:
            return check_label_rule(json.load(file))
    except OSError as error:
        raise InputError(f"--label-rule {path}: {error.strerror}") from None
    except (ValueError, ModelError) as error:
        raise InputError(f"--label-rule {path}: {error}") from None


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Looks at everything the job was given and refuses what cannot work, before any work starts.

    Raises:
        PinnerFormerError: names the file or flag, and what to do.
    """
    if arguments.end < arguments.start:
        raise UsageError(f"--end {arguments.end} is before --start {arguments.start}")
    root = Root(arguments.out)
    if not root.is_local:
        raise UsageError(f"--out {arguments.out}: training maps timelines into memory; name a local folder")
    if root.exists(TIMELINES_JSON):
        raise UsageError(f"--out {arguments.out}: holds timelines already; name a new folder, or remove this one")
    columns = ColumnNames.parse(arguments.column)
    rule = read_label_rule(arguments.label_rule) if arguments.label_rule else None
    try:
        if arguments.model:
            config = load_config(local_model(arguments.model))
            actions, surfaces, version = config.action_vocabulary, config.surface_vocabulary, config.pinsage_version
            rule = rule or check_label_rule(config.label_rule)
        else:
            actions, surfaces = read_vocabularies(arguments.logs, columns)
            version = read_version(arguments.pins)
    except ModelError as error:
        raise InputError(str(error)) from None
    if not actions or not surfaces:
        raise InputError(f"--logs {arguments.logs}: no row with an action and a surface in it; nothing to train on")
    inputs = select_inputs(
        arguments.logs,
        first=arguments.start,
        last=arguments.end,
        lookback=0,
        chain_start=arguments.start,
        already_read={},
        min_age_s=arguments.min_age,
        columns=columns,
    )
    vectors = describe_vectors(arguments.pins, version)
    rules = TimelineRules(
        tuple(actions), tuple(surfaces), rule or PAPER_LABEL_RULE, arguments.evaluation_share, arguments.split_salt
    )
    name = hashlib.sha256(repr([rules, [f.name for f in inputs.files], vectors.version]).encode()).hexdigest()[:12]
    run = RunFolder(root, f"{RUN_PREFIX}{arguments.end}-{name}")
    erased_root = Root(arguments.root) if arguments.root else None
    return Plan(run, arguments.buckets, arguments.pin_shards, inputs, columns, vectors, rules, erased_root)


def share(text: str) -> float:
    """A flag's number in [0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share in [0, 1)")
    return value


def make_parser() -> Parser:
    """The flags of `pinnerformer training-data`."""
    parser = Parser(prog="pinnerformer training-data", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--logs", required=True, metavar="DIR", help="engagement logs, ds=YYYY-MM-DD/*.parquet")
    parser.add_argument("--pins", required=True, metavar="DIR", help="PinSage vectors, *.parquet and version.json")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the timelines")
    parser.add_argument("--start", required=True, type=date, metavar="DATE", help="the first partition to read")
    parser.add_argument("--end", required=True, type=date, metavar="DATE", help="the last one")
    parser.add_argument("--model", metavar="DIR", help="take vocabularies and label rule from its config.json")
    parser.add_argument("--label-rule", metavar="FILE", help="JSON; see below")
    parser.add_argument("--root", metavar="DIR", help="leave out the users that ROOT/erased names")
    parser.add_argument("--evaluation-share", type=share, default=0.1, help="of the users (default %(default)s)")
    parser.add_argument("--split-salt", type=int, default=1, help="another salt splits another way (%(default)s)")
    parser.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="e.g. pin_id=item_id")
    parser.add_argument("--min-age", type=seconds, default="6h", metavar="6h", help="of a partition without _SUCCESS")
    parser.add_argument("--buckets", type=positive, default=64, help="parts of the users (default %(default)s)")
    parser.add_argument("--pin-shards", type=positive, default=4, help="parts of the vectors (default %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress display, no summary")
    return parser


def run(argv: list[str]) -> int:
    """Runs the job; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    options = parse_beam_options(parser, rest)
    plan = make_plan(arguments)
    plan = dataclasses.replace(plan, run=plan.run.launched())
    rows, pins = sum(file.rows for file in plan.inputs.files), plan.vectors.rows
    root = plan.run.root
    try:
        with Progress(plan.run, plan.buckets, rows=rows, pins=pins, shown=not arguments.quiet):
            run_pipeline(plan.run.name, options, lambda pipeline: define_pipeline(pipeline, plan, TIMELINES_JSON))
        if not root.exists(TIMELINES_JSON):
            raise StoreError(f"{root.path(TIMELINES_JSON)}: was not written; look into the engine's log")
    finally:
        remove_leftovers(root)
    if not arguments.quiet:
        counts = read_description(root.url)[0]["counts"]
        print(
            f"{counts['users']:,} users, {counts['evaluation_users']:,} of them for evaluation; "
            f"{counts['events']:,} events, {counts['positives']:,} positive\n"
            f"timelines  {os.path.abspath(arguments.out)}",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    from pipelines.cli import main

    sys.exit(main(["training-data", *sys.argv[1:]]))
