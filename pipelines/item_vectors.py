"""Vectors of pins from the logs: co-engagement counted by bucket, factorised by one worker, written as a vector set."""

import contextlib
import dataclasses
import hashlib
import os
import sys
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.launch.engine_hosts import host_check
from pipelines.launch.local_workers import LocalWorkers, local_workers
from pipelines.launch.progress import Progress
from pipelines.launch.run_pipeline import run_pipeline
from pipelines.launch.stages import Work
from pipelines.planning.item_vectors_plan import RUN_PREFIX, ItemVectorsPlan, plan_item_vectors
from pipelines.planning.item_vectors_request import ItemVectorsRequest, parse
from pipelines.planning.lacking import say_lacking
from pipelines.telemetry.lines import say
from stores.errors import InputError, StoreError
from stores.files import FileEntry, Root
from stores.ids import find_sorted
from stores.names import Counter, Step
from stores.vector_sets import (
    PinRows,
    read_any_vectors,
    read_manifest,
    read_projection,
    remove_unnamed,
    write_manifest,
    write_projection,
    write_vector_files,
)
from stores.vector_version import VERSION_FILE
from transforms.co_engagement import (
    USER_PINS,
    CountCoEngagement,
    Neighbours,
    PairCounts,
    read_columns,
    read_neighbours,
)
from transforms.item_vectors import (
    Parts,
    assemble,
    company_of,
    content_projection,
    count_matrix,
    fold_in,
    lately_of,
    one_thread,
    popularity_of,
    positive_information,
    taste_of,
    unit,
)
from transforms.named_rows import PIN_NAMES
from transforms.read_logs import ReadLogs, row_groups
from transforms.report_outputs import REPORTS, MergeReports
from transforms.step_reports import StepReport
from transforms.vector_names import KeepNames, names_in_rows, read_staged_names, strings_of

ROW_S = 5e-5  # of work that a row of the logs is: pairs of it and 30 others of its user


def define_pipeline(pipeline: beam.Pipeline, plan: ItemVectorsPlan) -> None:
    """The job as one graph."""
    run, request = plan.run, plan.request
    groups = [group for file in plan.inputs.files for group in row_groups(file)]
    # Read as every night reads them: the same checks, the same dead letters, and nobody who was erased.
    rows = (
        pipeline
        | "ListLogs" >> beam.Create(groups)
        | "ReadLogs"
        >> ReadLogs(run, request.columns, request.buckets, erased_root=request.erased_root, pin_shards=plan.name_shards)
    )
    # Pins that are strings are numbers on the way; what they are called is asked once, where the set is written.
    named = pipeline | "NoNames" >> beam.Create([])
    if plan.name_shards:
        named = rows[PIN_NAMES] | "GroupNames" >> beam.GroupByKey() | "KeepNames" >> beam.ParDo(KeepNames(run))
    keep_users = plan.settings.has_taste and not request.fold_in
    counted = rows.main | "CountCoEngagement" >> CountCoEngagement(
        run, request.rules, plan.before_ms, request.buckets, request.neighbours, keep_users
    )
    reports = (
        (rows[REPORTS], counted[REPORTS])
        | "AllReports" >> beam.Flatten()
        | "MergeReports" >> beam.CombineGlobally(MergeReports())
    )
    # A factorisation wants the whole matrix: one worker, the kept counts and the vectors in its memory.
    _ = (
        pipeline
        | "Barrier" >> beam.Create([VERSION_FILE])
        | "Finish"
        >> beam.Map(
            lambda _, **inputs: finish(plan, **inputs),
            reports=beam.pvalue.AsSingleton(reports),
            kept=beam.pvalue.AsList(counted["main"]),
            users=beam.pvalue.AsList(counted[USER_PINS]),
            names=beam.pvalue.AsList(named),
        )
    )


def finish(
    plan: ItemVectorsPlan,
    reports: dict[Step, StepReport],
    kept: list[tuple[FileEntry, FileEntry]],
    users: list[FileEntry],
    names: list[FileEntry],
) -> None:
    """Makes the vectors and writes the set, `version.json` last: with it the set is there. May run twice.

    Raises:
        InputError: there is nothing to make vectors of; says what there is.
    """
    plan.run.check_root()
    root, request = plan.run.root, plan.request
    neighbours = read_neighbours(root, kept) if kept else no_neighbours()
    counts = summarise(reports)
    content = read_any_vectors(request.content, "--content", request.columns) if request.content else None
    standing = read_any_vectors(request.fold_in, "--fold-in") if request.fold_in else None
    with one_thread():
        if standing is not None:
            rows, more = fold_into(plan, neighbours, standing, content)
        else:
            check_enough(plan, neighbours, counts)
            rows, more = make_vectors(plan, neighbours, [read_columns(root, entry) for entry in users], content)
    counts |= more
    if plan.name_shards:
        known = [*names_in_rows(standing), *names_in_rows(content), *read_staged_names(root, names)]
        rows = dataclasses.replace(rows, names=strings_of(rows.pin, known))
    version = plan.facts["fold_in"] or version_of(plan, rows)
    facts = {"pinsage_version": version, **plan.facts}
    files = write_vector_files(root, rows, {name: facts[name] for name in facts if name not in ("inputs", "content")})
    write_manifest(root, {**facts, "counts": counts, "files": files})
    remove_unnamed(root)


def no_neighbours() -> Neighbours:
    none = np.empty(0, np.int64)
    return Neighbours(none, none, none, PairCounts(none, none, none), none)


def summarise(reports: dict[Step, StepReport]) -> dict[str, int]:
    """What was read and counted, for the manifest."""
    counters: dict[str, int] = {}
    for step in (Step.READ_LOGS, Step.COUNT_PAIRS, Step.KEEP_NEIGHBOURS):
        found = reports.get(step, StepReport()).counters
        counters |= {name: number for name, number in sorted(found.items()) if name != Counter.BYTES_SHUFFLED}
    return counters


def why_invalid(counts: dict[str, int]) -> str:
    """Why rows were invalid, with counts, in brackets; empty if none was."""
    dropped = {name.removeprefix("dropped_"): n for name, n in counts.items() if name.startswith("dropped_") and n}
    return f" ({', '.join(f'{name} {n:,}' for name, n in dropped.items())})" if dropped else ""


def check_enough(plan: ItemVectorsPlan, neighbours: Neighbours, counts: dict[str, int]) -> None:
    """Raises InputError where the logs hold nothing that vectors could be made of."""
    request = plan.request
    if not len(neighbours.pin):
        raise InputError(
            f"no engagement before {request.until}: {counts.get('rows_read', 0):,} rows read, "
            f"{counts.get('rows_dropped', 0):,} invalid{why_invalid(counts)}, "
            f"{counts.get('rows_erased', 0):,} of erased users; look at --logs, --start and --until"
        )
    if plan.settings.method != "als" and not len(neighbours.kept):
        raise InputError(
            f"no co-engagement at all: {counts.get('events', 0):,} engagements of {counts.get('users', 0):,} users, no "
            f"two pins of one user within --window {request.rules.window} engagements and --within "
            f"{request.rules.window_ms / 3_600_000:g} h of one another; give wider ones"
        )


def make_vectors(
    plan: ItemVectorsPlan, neighbours: Neighbours, users: list[dict[str, np.ndarray]], content: PinRows | None
) -> tuple[PinRows, dict[str, int]]:
    """The vectors of a new space, of every pin that there is something to make one of; and what to say of them.

    Args:
        users: Of every bucket: user, pin and count, as `user_pins` gives them.
    """
    settings, root = plan.settings, plan.run.root
    layout = settings.layout()
    pins = np.union1d(neighbours.pin, content.pin) if content else neighbours.pin
    place = np.searchsorted(pins, neighbours.pin)
    engagements = np.zeros(len(pins), np.int64)
    engagements[place] = neighbours.engagements
    parts = empty_parts(len(pins), settings)
    if settings.method != "als":
        parts.company[place] = company_of(neighbours, settings, plan.request.neighbours)
    if settings.has_taste:
        width = layout["taste"].stop - layout["taste"].start
        joined = [np.concatenate([part[name] for part in users]) for name in ("user", "pin", "count")]
        # In an order that no bucket has a say in: sums of floats depend on it.
        order = np.lexsort((joined[1], joined[0]))
        user, pin, count = (column[order] for column in joined)
        parts.taste[place] = taste_of(user, pin, count, neighbours.pin, width, settings.seed)
    most = int(neighbours.engagements.max())
    parts.length[:] = popularity_of(engagements, most)
    most_lately = int(neighbours.lately.max())
    parts.lately[place] = lately_of(neighbours.lately, most_lately)
    topic = None
    if content:
        projection = content_projection(content.vectors, settings.content_width)
        write_projection(root, projection)
        parts.content[np.searchsorted(pins, content.pin)] = unit(content.vectors @ projection)
        topic = topics_of(pins, content)
    parts = without_noise(parts, engagements < settings.least_engagements)
    return with_vector(pins, assemble(parts, settings), topic), {
        "most_engagements": most,
        "most_lately": most_lately,
        "content_width": content.vectors.shape[1] if content else 0,
        **describe_parts(parts),
    }


def without_noise(parts: Parts, rare: np.ndarray) -> Parts:
    """Leaves what is known of a pin from too few engagements out, where its content says what it is.

    A handful of engagements say little, and make of every pin of one content another one that is hardly another: a
    graph index does not find its way among such. Without them they are the same, and one stands for all.

    Args:
        rare: bool [P].
    """
    left_out = rare & parts.content.any(axis=1)
    taste, lately = parts.taste.copy(), parts.lately.copy()
    taste[left_out], lately[left_out] = 0, 0
    return dataclasses.replace(parts, taste=taste, lately=lately)


def empty_parts(pins: int, settings: Any) -> Parts:
    layout = settings.layout()
    company, content, taste = (
        np.zeros((pins, layout[name].stop - layout[name].start), np.float32) for name in ("company", "content", "taste")
    )
    return Parts(company, content, taste, np.zeros(pins, np.float32), np.zeros(pins, np.float32))


def describe_parts(parts: Parts) -> dict[str, int]:
    """How many pins have which part, and how many have none and so no vector."""
    has = {name: getattr(parts, name).any(axis=1) for name in ("company", "content", "taste")}
    out = {f"pins_with_{name}": int(mask.sum()) for name, mask in has.items()}
    return {**out, "pins_without_vector": int((~np.logical_or.reduce(list(has.values()))).sum())}


def topics_of(pins: np.ndarray, content: PinRows) -> pa.Array | None:
    """The topics that content names, of these pins; None if it names none."""
    if content.topic is None:
        return None
    at, found = find_sorted(content.pin, pins)
    return content.topic.take(pa.array(np.where(found, at, 0), mask=~found))


def with_vector(pins: np.ndarray, vectors: np.ndarray, topic: pa.Array | None) -> PinRows:
    """The pins that have a vector: of the others a set says nothing."""
    some = vectors.any(axis=1)
    return PinRows(pins[some], vectors[some], topic.filter(pa.array(some)) if topic is not None else None)


def fold_into(
    plan: ItemVectorsPlan, neighbours: Neighbours, standing: PinRows, content: PinRows | None
) -> tuple[PinRows, dict[str, int]]:
    """The set that stands and, in its space, the pins of the logs and of the content that it has not."""
    settings, request = plan.settings, plan.request
    candidates = np.union1d(neighbours.pin, content.pin) if content else neighbours.pin
    pins = np.setdiff1d(candidates, standing.pin)
    parts = empty_parts(len(pins), settings)
    used, counts = count_matrix(neighbours, 1)
    names = neighbours.pin[used]
    new = np.flatnonzero(np.isin(names, pins))
    at, old = find_sorted(standing.pin, names)
    if len(new) and old.any():
        weights = positive_information(counts, neighbours.pairs[used])[new][:, np.flatnonzero(old)]
        place = np.searchsorted(pins, names[new])
        often = neighbours.engagements[used]
        found = fold_in(standing.vectors[at[old]], weights, often[old], often[new], settings)
        parts.company[place], parts.taste[place] = found
    manifest = read_manifest(request.fold_in or "") or {}
    at, seen = find_sorted(neighbours.pin, pins)
    often = np.where(seen, neighbours.engagements[np.where(seen, at, 0)] if len(neighbours.pin) else 0, 0)
    parts.length[:] = popularity_of(often, manifest["counts"]["most_engagements"])
    lately = np.where(seen, neighbours.lately[np.where(seen, at, 0)] if len(neighbours.pin) else 0, 0)
    parts.lately[:] = lately_of(lately, manifest["counts"].get("most_lately", 0))
    projection = read_projection(request.fold_in or "")
    if projection is not None:
        write_projection(plan.run.root, projection)  # pins can be folded into what comes of this, too
    if content:
        if projection is None:
            raise InputError(f"--fold-in {request.fold_in}: its content projection is missing; make the set again")
        at, has = find_sorted(content.pin, pins)
        parts.content[has] = unit(content.vectors[at[has]] @ projection)
    folded = with_vector(pins, assemble(parts, settings), None)
    order = np.argsort(np.concatenate([standing.pin, folded.pin]))
    topic = None
    if standing.topic is not None:
        named = topics_of(folded.pin, content) if content else None
        topic = pa.concat_arrays([standing.topic, named if named is not None else pa.nulls(len(folded.pin), "string")])
        topic = topic.take(pa.array(order))
    rows = PinRows(
        np.concatenate([standing.pin, folded.pin])[order],
        np.concatenate([standing.vectors, folded.vectors])[order],
        topic,
    )
    kept = {name: manifest["counts"][name] for name in ("most_engagements", "content_width")}
    return rows, {**kept, "pins_folded_in": len(folded.pin), **describe_parts(parts)}


def version_of(plan: ItemVectorsPlan, rows: PinRows) -> str:
    """The name of a new space: by the content of its vectors, so that the same inputs name the same space."""
    digest = hashlib.sha256(rows.pin.tobytes() + rows.vectors.astype(np.float16).tobytes()).hexdigest()
    return f"{plan.settings.method}-{plan.request.until}-{digest[:12]}"


def remove_leftovers(root: Root) -> None:
    """Leaves the vector set and nothing else of the job, of earlier attempts neither; without a set, nothing at all."""
    for name in root.list("staging"):
        if name.startswith(RUN_PREFIX):
            root.remove(f"staging/{name}")
    remove_unnamed(root)
    with contextlib.suppress(OSError):  # there is something of somebody else in it
        os.rmdir(root.path("staging"))


def describe_set(manifest: dict[str, Any], root: Root) -> str:
    """What is shown at the end."""
    counts = manifest["counts"]
    lines = [
        f"{counts.get('rows_read', 0):,} rows read, {counts.get('rows_dropped', 0):,} invalid{why_invalid(counts)}; "
        f"{counts.get('users', 0):,} users, {counts.get('users_capped', 0):,} with more pairs than --most-pairs",
        f"{counts['pins_with_company']:,} pins with neighbours, {counts['pins_with_taste']:,} with taste, "
        f"{counts['pins_with_content']:,} with content; {counts['pins_without_vector']:,} without any, and so without "
        "a vector",
    ]
    if "pins_folded_in" in counts:
        lines.append(f"{counts['pins_folded_in']:,} pins folded in")
    return "\n".join([*lines, f"vectors    {root.url}, version {manifest['pinsage_version']}"])


def main(argv: list[str]) -> int:
    """Runs the job; returns the exit code.

    Raises:
        PinnerFormerError: with the exit code and the line to show.
    """
    request = parse(argv)
    # Workers are forks: what makes them is there before a thread is.
    with local_workers(request.workers) as workers:
        return run_job(request, workers)


def run_job(request: ItemVectorsRequest, workers: LocalWorkers) -> int:
    """Runs the job with the workers that it may have; returns the exit code."""
    plan = plan_item_vectors(request)
    root = plan.run.root
    if not plan.done:
        plan = dataclasses.replace(plan, run=plan.run.launched(hosts=host_check(request.beam, root)))
        if not request.quiet:
            say_lacking(plan.inputs.files, request.columns)
        workers.settle(plan.inputs.rows * ROW_S, request.buckets, None, known=False)
        try:
            work = Work({Step.READ_LOGS: plan.inputs.rows}, {Step.COUNT_PAIRS: request.buckets})
            with Progress(plan.run, work, shown=not request.quiet):
                run_pipeline(
                    plan.run.name,
                    request.beam,
                    lambda pipeline: define_pipeline(pipeline, plan),
                    runner=workers.runner(request.beam),
                )
            if not root.exists(VERSION_FILE):
                raise StoreError(f"{root.path(VERSION_FILE)}: was not written; look into the engine's log")
        # Also where the job failed: without `version.json` nothing there can be used, and a second attempt starts over.
        finally:
            remove_leftovers(root)
    if not request.quiet:
        say(describe_set(read_manifest(root.url) or {}, root))
    return 0


if __name__ == "__main__":
    from pipelines import cli

    sys.exit(cli.main(["item-vectors", *sys.argv[1:]]))
