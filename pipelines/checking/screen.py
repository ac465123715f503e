"""What was found, on a screen: a headline per part, findings the worst first, at the end the lines that mend."""

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.checking.findings import Finding, Level, Part, mending_flags, shown_flags, yaml_lines

STYLES = {Level.STOPS: "bold red", Level.CLOSES: "bold red", Level.LOSES: "yellow", Level.NOTE: "dim"}
MOST_FINDINGS = 8  # of a part, on the screen; programs get them all
MOST_SAMPLES = {Level.STOPS: 3, Level.CLOSES: 3, Level.LOSES: 1, Level.NOTE: 1}


def print_report(parts: Sequence[Part], verdict: str, sound: bool, file: TextIO) -> None:
    """Prints the parts, then what `daily` would do and the lines that mend what was found.

    Args:
        sound: Whether `daily` would start.
    """
    console = Console(file=file, width=None if file.isatty() else 110, highlight=False)
    for part in parts:
        print_part(console, part)
    console.print(Text(verdict, "bold green" if sound else "bold red"))
    flags = mending_flags(finding for part in parts for finding in part.worst_first)
    if flags:
        console.print("\nin pinnerformer.yaml:", style="bold")
        for line in yaml_lines(flags):
            console.print(Text(f"  {line}"), soft_wrap=True)
        console.print("or on the command line:", style="bold")
        console.print(Text(f"  {shown_flags(flags)}"), soft_wrap=True)


def print_part(console: Console, part: Part) -> None:
    """Prints one part."""
    console.print(Text.assemble((f"{part.name:<9}", "bold"), part.headline))
    findings = part.worst_first
    for finding in findings[:MOST_FINDINGS]:
        print_finding(console, finding)
    if len(findings) > MOST_FINDINGS:
        console.print(f"  {len(findings) - MOST_FINDINGS} more findings: --json has them all", style="dim")
    if part.lines:
        table = Table.grid(padding=(0, 2, 0, 0))
        for style in ("dim", "", "dim"):
            table.add_column(style=style, overflow="fold")
        for what, figure, remark in part.lines:
            table.add_row(Text(f"  {what}"), Text(figure), Text(remark))
        console.print(table)
    console.print()


def print_finding(console: Console, finding: Finding) -> None:
    """Prints one finding: what becomes of the night, what it is, where, and the lines that mend it."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(min_width=8)
    table.add_column(overflow="fold")
    table.add_row(Text(f"  {finding.level.word}", STYLES[finding.level]), Text(finding.text))
    for line in finding.sample[: MOST_SAMPLES[finding.level]]:
        table.add_row("", Text(line, "dim"))
    console.print(table)
    for command in finding.commands:
        console.print(Text(f"         $ {command}", "cyan"), soft_wrap=True)
    if finding.flags:
        console.print(Text(f"         {shown_flags(finding.flags)}", "cyan"), soft_wrap=True)
