"""What `pinnerformer evaluate` prints: a table for a person, JSON for programs. New items come first."""

import math
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from transforms.baselines import ORACLES, Row

KINDS = ("recall_new", "recall")


def reference_of(rows: Sequence[Row]) -> dict[str, Row]:
    """What the others are compared with: the first model, or the best baseline by new items; by frequency.

    Rows of a frequency that it has not are compared with its first.
    """
    models = [row for row in rows if row.setting is None and row.name == row.title]
    able = [row for row in rows if row.chosen_by and row.name not in ORACLES]
    first = models[0] if models else max(able or rows, key=lambda row: known(row.figures.recall_new[0]))
    same = {row.made: row for row in rows if (row.name, row.title) == (first.name, first.title)}
    return {row.made: same.get(row.made, first) for row in rows}


def known(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def differences(row: Row, reference: Row) -> dict[str, tuple[float, float]]:
    """How far the reference is ahead of a row; empty of itself, and where the two are not of the same users."""
    if row is reference:
        return {}
    return reference.figures.less(row.figures)


def print_rows(rows: list[Row], k: int, facts: list[str]) -> None:
    """Prints a table for a person."""
    reference = reference_of(rows)
    table = Table(box=box.SIMPLE)
    table.add_column("", overflow="fold", min_width=24)
    recalls = (f"recall@{k}\nnew", "\nbehind", f"recall@{k}\nall", "\nbehind", "\nagain")
    for name in ("made", *recalls, "entropy\n@50", "P90\n@10", "over-\nlap", "mean\nlength"):
        table.add_column(name, justify="left" if name == "made" else "right")
    for row in rows:
        figures, behind = row.figures, differences(row, reference[row.made])
        cells = []
        for kind in KINDS:
            cells += [shown(getattr(figures, kind)[0], figures.errors[kind]), shown(*behind.get(kind, (None, None)))]
        entropy = "-" if figures.entropy is None else f"{figures.entropy:.2f}"
        last = [figures.coverage, figures.overlap, figures.mean_length]
        table.add_row(row.title, row.made, *cells, shown(figures.recall_repeat[0]), entropy, *map(shown, last))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    (ahead,) = {row.title for row in reference.values()}
    lines = [f"behind: how far a row is behind {ahead}, paired by user"] if len(rows) > 1 else []
    ceiling = next((row.figures for row in rows if row.figures.coverage_ceiling), None)
    if ceiling and ceiling.coverage_ceiling:
        lines.append(
            f"P90@10: {ceiling.users:,} users allow {ceiling.coverage_ceiling:.4f} at most; overlap: of the ten best "
            "of two users, the share that both are answered; mean length: 1 if all users have one vector"
        )
    for line in [*lines, *facts]:
        console.print(line, highlight=False, soft_wrap=True)


def shown(value: float | None, error: float | None = None) -> str:
    """A figure, with its error where there is one."""
    if value is None or math.isnan(value):
        return "-"
    told = "" if error is None or math.isnan(error) else f"±{error:.4f}".replace("0.", ".")
    return f"{value:.4f}{told}"


def as_json(rows: list[Row], facts: dict[str, str]) -> dict[str, Any]:
    """Everything, for programs; what cannot be said is null.

    A row's `behind` is how far it is behind the row called `reference`: figure -> (difference, standard error).
    """
    reference = reference_of(rows)

    def plain(value: Any) -> Any:
        if isinstance(value, float) and math.isnan(value):
            return None
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    found = [
        {
            "name": row.title,
            "kind": row.name,
            "made": row.made,
            "chosen_by": row.chosen_by,
            **plain(row.figures.as_json()),
            "behind": plain(differences(row, reference[row.made])),
        }
        for row in rows
    ]
    return {**facts, "reference": next(iter({row.title for row in reference.values()})), "rows": found}
