"""`pinnerformer plan`: what a night would read, write and cost, and whether it would be refused; writes nothing."""

import dataclasses
import datetime
import os
import sys

from rich import box
from rich.console import Console
from rich.table import Table

from pinnerformer_model.checkpoint import WEIGHTS
from pipelines.launch.crew import WorkersWish, choose_crew
from pipelines.planning.daily_plan import JobInputs, choose_inputs, read_job_inputs, same_model
from pipelines.planning.daily_request import NightRequest
from pipelines.planning.lacking import describe_lacking
from pipelines.planning.plan_request import parse
from pipelines.planning.rates import ROWS_A_USER, Rates, users_to_embed
from pipelines.planning.sizes import FORMS, NightSize
from stores.errors import UsageError
from stores.layout import Layout, advise_buckets, choose_counts
from stores.logs import InputSelection
from stores.manifests import Manifest
from stores.names import Counter, Step
from stores.releases import chain, read_current, refuse_held
from transforms.gates import COMPARED, Gate, StagedRelease, check_gates
from transforms.gates.trends import WEEK, rows_against_week, rows_against_weekday
from transforms.model import local_model


def judge_buckets(buckets: int, rows: int, current: Manifest | None) -> str:
    """Whether the user buckets are enough for the rows that a run shuffles and the histories that it ends with."""
    kept = rows + (current.rows("histories") if current else 0)
    advised = advise_buckets(kept, rows)
    if advised <= buckets:
        return f"enough for {rows:,} rows tonight and at most {kept:,} in the histories"
    if current:
        return (
            f"more would be better, {advised:,}; they are fixed: `rebucket --user-buckets` makes a root that has them"
        )
    chosen = choose_counts(rows, 0)["user_buckets"]
    return f"too few: give --user-buckets {max(chosen, advised)}; they are fixed once the root is made"


def judge_counts(given: JobInputs, layout: Layout, rows: int, current: Manifest | None) -> list[tuple[str, str, str]]:
    """The lines on buckets and shards: how many, and why so many.

    Args:
        rows: That the night reads.
    """
    buckets, shards, pins = layout.user_buckets, layout.pin_shards, given.vectors.rows
    of_buckets = judge_buckets(buckets, rows, current)
    of_shards = f"of about {-(-pins // shards):,} pins" if current else f"for {pins:,} pins"
    # Only where this night decides; what was asked for needs no reason.
    counts = choose_counts(rows, pins)
    if current is None and "user_buckets" not in given.requested_layout and counts["user_buckets"] == buckets:
        of_buckets = f"for {rows:,} rows; --user-buckets asks for another number"
    if current is None and "pin_shards" not in given.requested_layout:
        of_shards = f"{of_shards}; --pin-shards asks for another number"
    return [("user buckets", f"{buckets:,}", of_buckets), ("pin shards", f"{shards:,}", of_shards)]


def describe(
    given: JobInputs,
    date: datetime.date,
    current: Manifest | None,
    inputs: InputSelection,
    layout: Layout,
    releases: list[Manifest],
    wish: WorkersWish,
) -> list[tuple[str, str, str]]:
    """(what, figure, remark) of everything there is to say."""
    rates, rows = Rates.of(releases), inputs.rows
    size = sum(file.bytes for file in inputs.files)
    everybody = not same_model(current, given)
    lines = [
        (
            "log files",
            f"{len(inputs.files):,}",
            f"{len(inputs.partitions)} new partitions, {len(inputs.late)} late files",
        ),
        ("log rows", f"{rows:,}", f"{size / 1e6:,.1f} MB"),
        (
            "pins",
            f"{given.vectors.rows:,}",
            f"vectors of {given.vectors.version}, {given.vectors.dtype}, {given.vectors.width} wide",
        ),
    ]
    lacking = describe_lacking(inputs.files, given.columns)
    lines += [("absent", column, f"{where}; {instead}") for column, where, instead in lacking]
    ageing = given.settings.ageing
    users = users_to_embed(rates, date, rows, current, everybody=everybody, refresh_days=ageing.refresh_days)
    if inputs.rewritten:
        days = ", ".join(sorted({str(one.date) for one in inputs.rewritten}))
        lines.append(
            ("repaired first", f"{len(inputs.rewritten):,} log files", f"changed since they were read: {days}")
        )
    why = "everybody: first release, or another model" if everybody else "whose history changes, at the usual rate"
    lines.append(("users to embed", "not known yet" if users is None else f"about {users:,.0f}", why))
    if ageing.describe(date):
        lines.append(("growing old", "", ageing.describe(date)))
    if users is not None and rates.tokens_per_user is not None:
        lines.append(
            ("tokens", f"about {users * rates.tokens_per_user:,.0f}", f"{rates.tokens_per_user:,.0f} per user")
        )
    work = rates.work_s(users, rows, given.vectors.rows)
    if users is not None and rates.tell:
        lines.append(("minutes of work", f"{work / 60:,.1f}", "summed over workers, at the rates of the last releases"))
    if current:
        written = sum(e.bytes for entries in current.tables.values() for e in entries)
        lines.append(("to write", f"at most {written / 1e6:,.1f} MB", f"the size of {current.release}"))
    lines += judge_counts(given, layout, rows, current)
    vectors = given.vectors.nbytes
    lines.append(
        (
            "memory",
            f"{vectors / 2**30:,.2f} GiB",
            f"of pin vectors, shared by a machine's workers; join {given.settings.join}",
        )
    )
    crew = choose_crew(wish, work, layout.user_buckets, given.model.device, known=rates.tell)
    lines.append(("workers", f"{crew.count:,}" if crew.count else "", crew.why))
    return lines


@dataclasses.dataclass(frozen=True)
class Foretold:
    """What is known of a night before it.

    Attributes:
        current: The release it would be built on; None for a first one.
        layout: Of the root, or the one that it would be made with.
        releases: The last ones, newest first.
    """

    request: NightRequest
    given: JobInputs
    current: Manifest | None
    inputs: InputSelection
    layout: Layout
    releases: list[Manifest]

    def describe(self) -> list[tuple[str, str, str]]:
        """(what, figure, remark) of everything there is to say."""
        recent, wish = self.releases[:WEEK], self.request.job.workers
        return describe(self.given, self.request.date, self.current, self.inputs, self.layout, recent, wish)

    def size(self) -> NightSize:
        """What sizes of machines follow from; where no release tells, sequences of the greatest length."""
        given, current, layout = self.given, self.current, self.layout
        rates, rows = Rates.of(self.releases[:WEEK]), self.inputs.rows
        everybody, refresh = not same_model(current, given), given.settings.ageing.refresh_days
        users = users_to_embed(rates, self.request.date, rows, current, everybody=everybody, refresh_days=refresh)
        length = rates.tokens_per_user or given.config.max_sequence_length
        return NightSize(
            rows=rows,
            kept_rows=rows + (current.rows("histories") if current else 0),
            tokens=(rows / ROWS_A_USER if users is None else users) * length,
            pins=given.vectors.rows,
            vector_bytes=given.vectors.nbytes,
            width=given.config.embedding_dim,
            user_buckets=layout.user_buckets,
            pin_shards=layout.pin_shards,
            model_bytes=os.path.getsize(os.path.join(local_model(given.model.directory, given.model.digest), WEIGHTS)),
            work_s=rates.work_s(users, rows, given.vectors.rows),
            join=given.settings.join,
            cuda=given.model.device == "cuda",
        )

    def closed_gates(self) -> list[Gate]:
        """The gates that would close, of those that need no more than the number of rows."""
        if self.current is None:
            return []
        counters: dict[str, dict[str, int]] = {Step.READ_LOGS: {Counter.ROWS_READ: self.inputs.rows}}
        tonight = dataclasses.replace(
            self.current, date=self.request.date.isoformat(), previous=self.current.release, counters=counters
        )
        staged = StagedRelease(self.given.root, tonight, {}, self.releases, self.given.settings.thresholds)
        return [gate for gate in check_gates((rows_against_week, rows_against_weekday), staged) if not gate.passed]


def foretell(request: NightRequest) -> Foretold:
    """Looks at everything that a night is given and refuses what `daily` would refuse; writes nothing.

    Raises:
        PinnerFormerError: names the file, row or flag, and what to do.
    """
    given = read_job_inputs(request.job, request.join, request.broadcast_limit_gib)
    root = given.root
    refuse_held(root)
    current = read_current(root)
    if current is not None and request.date < current.day:
        raise UsageError(f"--date {request.date}: the root is at {current.release} already; give a later one")
    inputs, _ = choose_inputs(request, current, tolerate_rewritten=request.repair_rewritten)
    given.refuse_unknown_words(inputs)
    files, released = inputs.files, current is not None
    layout = given.settle_layout(files, request.job.file_mode, first=files, released=released, write=False)
    releases = [m for m, _ in zip(chain(root), range(COMPARED), strict=False)] if current else []
    return Foretold(request, given, current, inputs, layout, releases)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    foretold = foretell(request.night)
    if request.sizes:
        sys.stdout.write(FORMS[request.sizes](foretold.size()))
        return 0
    date = foretold.request.date
    table = Table(box=box.SIMPLE, show_header=False, title=f"daily --date {date}", title_justify="left")
    for style in ("bold", "", "dim"):
        table.add_column(style=style)
    for line in foretold.describe():
        table.add_row(*line)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for gate in foretold.closed_gates():
        console.print(f"would be refused by {gate.name}: {gate.reads} {gate.measured:.2f}, <= {gate.threshold:g}")
    return 0
