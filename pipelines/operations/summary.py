"""What a person reads when a run is over."""

from collections.abc import Iterator
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.operations.figures import summarise
from pipelines.telemetry.lines import is_json, say
from stores.dead_letters import describe_collisions
from stores.files import Root
from stores.manifests import Manifest, read_manifest
from stores.names import Counter, Step
from stores.reports import report_path
from transforms.release import FAILED_USERS, STAGED


def summary_rows(facts: dict[str, Any], published: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """(what, figure, remark) of everything that is always said of a release, and of what grew old or failed, if any.

    Args:
        facts: As `summarise` gives them.
        published: Counters of the publishing; None if nothing was.
    """
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in facts["rows_dropped"].items())
    recall = facts["index_recall_at_10"]
    left_out = facts["tokens_without_vector"] + facts["tokens_out_of_vocabulary"]
    tokens = f"{facts['tokens_without_vector']:,} without a vector, {facts['tokens_out_of_vocabulary']:,}"
    index = f"index recall@10 {recall:.4f} at ef {facts['index_ef_search']}" if recall else ""
    rows = [
        ("log rows read", f"{facts['rows_read']:,}", f"{facts['log_files']} files"),
        ("dropped", f"{sum(facts['rows_dropped'].values()):,}", dropped or "none"),
        ("seen before", f"{facts['rows_repeated']:,}", "equal to a row in the histories"),
        ("active users", f"{facts['users_active']:,}", "whose history changed"),
        ("embedded", f"{facts['users_embedded']:,}", f"{facts['users_without_token']:,} more had no usable token"),
        ("carried over", f"{facts['users_carried_over']:,}", f"of {facts['users']:,} users"),
        ("tokens left out", f"{left_out:,}", f"{tokens} out of vocabulary"),
        ("pins", f"{facts['pins']:,}", index),
    ]
    if facts["pins_reused"]:
        shards = f"{facts['shards_reused']:,} of {facts['shards']:,} shards keep their files"
        whole = f"as they were in {facts['previous']}; {shards}"
        rows.append(("pins reused", f"{facts['pins_reused']:,}", whole))
    if facts["engaged_pins"]:
        without = f"{facts['engaged_pins_without_vector']:,} without a vector"
        rows.append(("engaged with", f"{facts['engaged_pins']:,}", f"pins, {without}"))
    if facts["margin"] is not None:
        who = f"of the previous vectors on the acts of {facts['margin_users']:,} users, ± {facts['margin_error']:.4f}"
        rows.append(("margin", f"{facts['margin']:.4f}", who))
    rows += [("cannot see", gate, why) for gate, why in facts["cannot_see"].items()]
    if facts["rows_expired"] or facts["users_expired"] or facts["users_due"]:
        why = f"{facts['rows_expired']:,} rows too old left; {facts['users_due']:,} users due to be embedded again"
        rows.insert(6, ("idle, let go", f"{facts['users_expired']:,}", why))
    if facts["users_failed"]:
        why = f"tried again tomorrow; {facts['users_stale']:,} keep an older vector, marked stale"
        rows.insert(5, ("could not be embedded", f"{facts['users_failed']:,}", why))
    if published:
        return [
            *rows,
            ("published", f"{published['users_sent']:,}", f"{published['users_stored']:,} users in the store"),
        ]
    return [*rows, ("published", "-", "--publish none")]


def print_summary(root: Root, outcome: dict[str, Any], *, seconds: float, file: TextIO) -> None:
    """Prints the end of a run: what was read, dropped and why, embedded, carried over, indexed, published."""
    manifest = read_manifest(root, outcome["release"])
    facts = summarise(manifest)
    if is_json():
        figures = {"published": outcome["publish"], "figures": facts, "took_s": round(seconds, 1)}
        say(f"release {facts['release']} is there", stage=Step.FINISH, **figures)
    else:
        print_table(facts, outcome["publish"], seconds, file)
    for line in remarks(root, manifest, facts):
        if is_json():
            say(line, stage=Step.FINISH)
        else:
            print(line, file=file)


def print_table(facts: dict[str, Any], published: dict[str, Any] | None, seconds: float, file: TextIO) -> None:
    """Prints the figures of a release, and where its time went."""
    table = Table(box=box.SIMPLE, show_header=False, title=f"release {facts['release']}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in summary_rows(facts, published):
        table.add_row(*row)
    work = "  ".join(f"{step} {value:.1f}" for step, value in facts["seconds"].items())
    console = Console(file=file, width=None if file.isatty() else 110)
    console.print(table)
    took = f"{seconds:.1f} s in all; " if seconds else ""
    console.print(f"{took}seconds of work per step: {work}", highlight=False)


def remarks(root: Root, manifest: Manifest, facts: dict[str, Any]) -> Iterator[str]:
    """Lines beside the figures: what was mended, what to do about what failed, where to look."""
    if facts["shards_damaged"]:
        yield (
            f"WARNING: {facts['shards_damaged']:,} of {facts['shards']:,} shards of {facts['previous']} were damaged "
            "or gone, and were made again; look with: "
            f"pinnerformer verify --root {root.url} --release {facts['previous']}"
        )
    vectors = manifest.count(Step.SHARD_PINS, Counter.VECTORS_COLLIDED)
    if vectors or any(reason.endswith("collision") for reason in facts["rows_dropped"]):
        yield from describe_collisions(root, f"releases/{manifest.release}/dead_letters")
    if facts[Counter.USERS_FAILED]:
        staging = f"staging/{manifest.settings['run']}"
        yield f"why users failed: {root.path(f'{staging}/{STAGED}')}"
        yield (
            f"once that is mended: pinnerformer repair --root {root.url} "
            f"--users {root.path(f'{staging}/{FAILED_USERS}')} --logs DIR --pins DIR --model DIR --kv URL"
        )
    yield f"manifest: {root.path(f'releases/{manifest.release}/manifest.json')}"
    if root.exists(report_path(manifest.release)):
        yield f"report: {root.path(report_path(manifest.release))}"
