"""What a person reads when a run is over."""

from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.figures import summarise
from stores.files import Root
from stores.manifests import read_manifest
from stores.names import Counter
from transforms.release import FAILED_USERS, STAGED


def print_summary(root: Root, outcome: dict[str, Any], *, seconds: float, file: TextIO) -> None:
    """Prints the end of a run: what was read, dropped and why, embedded, carried over, indexed, published."""
    manifest = read_manifest(root, outcome["release"])
    facts = summarise(manifest)
    table = Table(box=box.SIMPLE, show_header=False, title=f"release {facts['release']}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in facts[Counter.ROWS_DROPPED].items())
    recall = facts["index_recall_at_10"]
    rows = [
        ("log rows read", f"{facts['rows_read']:,}", f"{facts['log_files']} files"),
        ("dropped", f"{sum(facts['rows_dropped'].values()):,}", dropped or "none"),
        ("seen before", f"{facts['rows_repeated']:,}", "equal to a row in the histories"),
        ("active users", f"{facts['users_active']:,}", "whose history changed"),
        ("embedded", f"{facts['users_embedded']:,}", f"{facts['users_without_token']:,} more had no usable token"),
        ("carried over", f"{facts['users_carried_over']:,}", f"of {facts['users']:,} users"),
        (
            "tokens left out",
            f"{facts['tokens_without_vector'] + facts['tokens_out_of_vocabulary']:,}",
            f"{facts['tokens_without_vector']:,} without a vector, "
            f"{facts['tokens_out_of_vocabulary']:,} out of vocabulary",
        ),
        (
            "pins",
            f"{facts['pins']:,}",
            f"index recall@10 {recall:.4f} at ef {facts['index_ef_search']}" if recall else "",
        ),
    ]
    if facts[Counter.ROWS_EXPIRED] or facts[Counter.USERS_EXPIRED] or facts[Counter.USERS_DUE]:
        why = f"{facts['rows_expired']:,} rows too old left; {facts['users_due']:,} users due to be embedded again"
        rows.insert(6, ("idle, let go", f"{facts['users_expired']:,}", why))
    if facts[Counter.USERS_FAILED]:
        rows.insert(
            5,
            (
                "could not be embedded",
                f"{facts['users_failed']:,}",
                f"tried again tomorrow; {facts['users_stale']:,} keep an older vector, marked stale",
            ),
        )
    published = outcome["publish"]
    rows.append(
        ("published", f"{published['users_sent']:,}", f"{published['users_stored']:,} users in the store")
        if published
        else ("published", "-", "--publish none")
    )
    for row in rows:
        table.add_row(*row)
    work = "  ".join(f"{stage} {value:.1f}" for stage, value in facts["seconds"].items())
    console = Console(file=file, width=None if file.isatty() else 110)
    console.print(table)
    console.print(f"{seconds:.1f} s in all; seconds of work a stage: {work}", highlight=False)
    if facts[Counter.USERS_FAILED]:
        staging = f"staging/{manifest.settings['run']}"
        console.print(f"why users failed: {root.path(f'{staging}/{STAGED}')}", highlight=False, soft_wrap=True)
        console.print(
            f"once that is mended: pinnerformer repair --root {root.url} "
            f"--users {root.path(f'{staging}/{FAILED_USERS}')} --logs DIR --pins DIR --model DIR --kv URL",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"manifest: {root.path(f'releases/{manifest.release}/manifest.json')}", highlight=False, soft_wrap=True
    )
