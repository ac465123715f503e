"""What `pinnerformer import` prints at its end."""

import json
from typing import Any

from pipelines.importing.progress import dropped_lines
from pipelines.importing.request import ImportRequest

LONG_S = 4 * 3600  # of one engagement: rather milliseconds


def print_report(report: dict[str, Any], request: ImportRequest) -> None:
    """Prints the report of an import, for a person or a program."""
    if request.as_json:
        print(json.dumps(report, indent=1))
    elif not request.quiet:
        print("\n".join(summary(report)))


def summary(report: dict[str, Any]) -> list[str]:
    """The lines for a person."""
    lines = []
    if events := report.get("events"):
        lines += _events_lines(events)
    if vectors := report.get("vectors"):
        lines += _vectors_lines(vectors)
    return lines


def _events_lines(events: dict[str, Any]) -> list[str]:
    already = "imported already: " if events.get("already") else ""
    empty = f", {events['empty_days']:,} of them empty" if events["empty_days"] else ""
    lines = [
        f"{events['logs']}: {already}{_rows(events)} in {events['days']:,} days, {events['first']} to "
        f"{events['last']}{empty}",
        *dropped_lines(events),
    ]
    if events["durations_unknown"]:
        lines.append(f"  {events['durations_unknown']:,} durations are no numbers and count as not measured")
    for column, value in events["constant"].items():
        lines.append(f"  no {column}: {'not measured' if value is None else value + ' in every row'}")
    for column, words in events.get("words", {}).items():
        lines.append(f"  {column}: {', '.join(f'{word} {count:,}' for word, count in words.items())}")
    longest = events.get("longest_duration_s")
    if longest is not None:
        hint = f" ({longest / 3600:,.1f} h): if that cannot be, --duration-unit" if longest > LONG_S else ""
        lines.append(f"  duration_s: the longest {longest:,.1f} s{hint}")
    lines.append(f"  user_id is {events['user_ids']}, pin_id is {events['pin_ids']}")
    return lines


def _vectors_lines(vectors: dict[str, Any]) -> list[str]:
    already = "imported already: " if vectors.get("already") else ""
    return [
        f"{vectors['pins']}: {already}{_rows(vectors)}, {vectors['width']} wide, pin_id is {vectors['pin_ids']}, "
        f"version {vectors['pinsage_version']}",
        *dropped_lines(vectors),
    ]


def _rows(found: dict[str, Any]) -> str:
    return f"{found['rows_in']:,} rows in, {found['rows_out']:,} out, {found['rows_dropped']:,} dropped"
