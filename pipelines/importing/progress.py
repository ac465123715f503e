"""What an import says while it runs, of what it dropped, and of which inputs it was made."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Collection
from typing import Any

from pipelines.telemetry.lines import say
from stores.errors import InputError
from stores.sources import SourceRequest, source_files
from transforms.import_rows import Counts

PROGRESS_S = 10.0
MOST_SILENT_S = 300.0
MOST_WORDS = 30  # of actions and surfaces that a report lists


class Progress:
    """Says how far the reading is: after ten seconds, and then ever less often, up to every five minutes."""

    def __init__(self, quiet: bool):
        self._quiet, self._began, self._next = quiet, time.monotonic(), time.monotonic() + PROGRESS_S

    def say(self, counts: Counts) -> None:
        if not self._quiet and time.monotonic() >= self._next:
            now = time.monotonic()
            text = f"[{now - self._began:6.0f} s] {counts.rows_in:,} rows read, {counts.rows_dropped:,} dropped"
            say(text, stage="import", rows_read=counts.rows_in, rows_dropped=counts.rows_dropped)
            self._next = now + min(MOST_SILENT_S, now - self._began)


def counts_of(counts: Counts) -> dict[str, Any]:
    """The part of a report that says what became of rows."""
    words = {
        column: dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MOST_WORDS])
        for column, found in counts.words.items()
        if found
    }
    return {
        "rows_in": counts.rows_in,
        "rows_out": counts.rows_out,
        "rows_dropped": counts.rows_dropped,
        "dropped": dict(sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))),
        "samples": counts.samples,
        "durations_unknown": counts.durations_unknown,
        **({} if counts.longest_s is None else {"longest_duration_s": counts.longest_s}),
        **({"words": words} if words else {}),
    }


WAY_OUT = {"negative_pin_id": "; ids of the logs are whole numbers from 0 on: --pin-ids string takes these as words"}


def dropped_lines(report: dict[str, Any]) -> list[str]:
    """A line a reason, the most frequent first, each followed by its first rows."""
    lines = []
    for reason, count in report["dropped"].items():
        lines.append(f"  {count:,} {reason}{WAY_OUT.get(reason, '')}")
        lines += [f"    {shown}" for shown in report["samples"].get(reason, [])]
    return lines


def check_dropped(counts: Counts, most: float, asked_for: Collection[str] = ()) -> None:
    """Refuses an import that would lose much.

    Args:
        asked_for: Reasons to drop rows that flags name, as `--end`: those rows are as if they had not been there.

    Raises:
        InputError: more than a share of the rows were dropped; says why, with rows.
    """
    left_out = sum(counts.dropped.get(reason, 0) for reason in asked_for)
    dropped, read = counts.rows_dropped - left_out, counts.rows_in - left_out
    if dropped > most * read:
        lines = "\n".join(dropped_lines(counts_of(counts)))
        beside = f" (beside {left_out:,} that --start or --end leaves out)" if left_out else ""
        raise InputError(
            f"{dropped:,} of {read:,} rows would be dropped{beside}, more than --max-dropped {most:g}; "
            f"nothing was imported:\n{lines}"
        )


def digest_of(source: SourceRequest, request: Any) -> str | None:
    """What tells two imports apart: the request, and names, sizes and times of the files; None without files."""
    files = source_files(source)
    if not files:
        return None
    found = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in files]
    content = json.dumps([found, repr(dataclasses.astuple(request))])
    return hashlib.sha256(content.encode()).hexdigest()
