"""The page of a range of releases: what a backfill made, a row a day, each beside a link to its own report."""

import contextlib
import datetime
import itertools
import sys
from collections.abc import Iterator, Sequence

from pipelines.report import plots
from pipelines.report.facts import LINES, Facts, facts_of
from pipelines.report.page import style, template_of
from pipelines.report.write import Seen, again
from stores.errors import PinnerFormerError
from stores.files import Root
from stores.manifests import Manifest, manifest_path
from stores.releases import chain
from stores.reports import RANGE, REPORT

COLUMNS = (
    "rows_read",
    "dropped_share",
    "users_active",
    "users_embedded",
    "users_failed",
    "users",
    "pins",
    "margin",
    "index_recall_at_10",
    "work_s",
)


def facts_between(root: Root, tip: str, start: datetime.date, end: datetime.date, seen: Seen) -> list[Facts]:
    """Facts of the releases of some days, newest first.

    Args:
        tip: The release to go back from.
        start, end: Both included.
        seen: Releases that need not be read again; those that are read are put into it.
    """
    found, release = [], tip
    while release in seen and seen[release]["date"] >= str(start):
        found.append(seen[release])
        release = seen[release]["previous"]
    if release is not None and release not in seen:
        for manifest in itertools.takewhile(lambda one: one.day >= start, chain(root, release)):
            seen[manifest.release] = facts_of(manifest)
            found.append(seen[manifest.release])
    return [facts for facts in found if facts["date"] <= str(end)]


def render_range(facts: Sequence[Facts], where: str, stopped: str = "") -> str:
    """The page of some releases.

    Args:
        facts: Of the releases, newest first, one at least.
        where: The URL of the root.
        stopped: Why the range goes no further; "" where it is whole.
    """
    columns = [(key, label, shown) for key, label, shown in LINES if key in COLUMNS]
    lines = [plots.small_line([one[key] for one in reversed(facts)], label) for key, label, _ in columns]
    days = [
        {
            "release": one["release"],
            "report": f"../{one['release']}/{REPORT}",
            "cells": ["-" if one[key] is None else shown(one[key]) for key, _, shown in columns],
            "gates": f"{one['gates_passed']} of {one['gates']}",
            "whole": one["gates_passed"] == one["gates"],
            "nearest": _nearest(one),
        }
        for one in facts
    ]
    return template_of("range.html.j2").render(
        first=facts[-1]["release"],
        last=facts[0]["release"],
        verdict=_verdict(facts, bool(stopped)),
        stopped=stopped,
        labels=[label for _, label, _ in columns],
        lines=lines,
        days=days,
        root=where,
        style=style(),
    )


def _verdict(facts: Sequence[Facts], stopped: bool) -> str:
    """The sentence at the top."""
    forced = sum(one["gates_passed"] < one["gates"] for one in facts)
    gates = f"{forced:,} of them with a forced gate" if forced else "every gate passed"
    embedded, work_s = sum(one["users_embedded"] for one in facts), sum(one["work_s"] for one in facts)
    return (
        f"{len(facts):,} release{'s'[: len(facts) > 1]}, {facts[-1]['release']} to {facts[0]['release']}"
        f"{', and then it stopped' if stopped else ''}: {gates}, {embedded:,} embeddings made, {work_s:,.1f} s of work."
    )


def _nearest(facts: Facts) -> str:
    """The gate that came nearest to its limit, and how near."""
    if facts["nearest_gate"] is None:
        return ""
    share, name = facts["nearest_gate"]
    return f"{name} {share:.0%}".replace("%", " %") if share <= 9.99 else f"{name}, past it"


def write_range_report(
    root: Root, tip: str, start: datetime.date, end: datetime.date, seen: Seen, stopped: str = ""
) -> str | None:
    """Writes the page of the releases of some days beside the last of them; its path, None where there is none.

    Whatever goes wrong here is a warning: the releases are there by now.

    Args:
        tip, start, end, seen: As `facts_between` takes them.
        stopped: As `render_range` takes it.
    """
    try:
        facts = facts_between(root, tip, start, end, seen)
        if not facts:
            return None
        path = f"releases/{facts[0]['release']}/{RANGE}"
        root.write_bytes(path, render_range(facts, root.url, stopped).encode())
        return root.path(path)
    except Exception as error:
        print(f"warning: no report of {start} to {end} was written: {error!r}; {again(root)}", file=sys.stderr)
        return None


@contextlib.contextmanager
def range_reported(
    root: Root,
    made: Sequence[str],
    start: Manifest | None,
    days: tuple[datetime.date, datetime.date],
    stopped: str | None,
    shown: bool,
) -> Iterator[Seen]:
    """Writes the page of a backfill at the end of the block, or when an error ends it: of all days that are there then.

    Args:
        made: The releases that the block makes, in order.
        start: The release that the first is built on; where none is made, the range ends with it.
        days: The first and the last.
        stopped: Why the range ends before its last day; None if it does not.
        shown: Whether to say where the page is.

    Yields:
        For `write_run_report`: what is read for the page of a day is not read again for this one.
    """
    seen: Seen = {}

    def write(why: str) -> None:
        there = [release for release in made if root.exists(manifest_path(release))]
        tip = there[-1] if there else start.release if start else None
        path = write_range_report(root, tip, *days, seen, why) if tip else None
        if path and shown:
            print(f"report of the range: {path}", file=sys.stderr)

    try:
        yield seen
    except PinnerFormerError as error:
        write(str(error))
        raise
    write(f"The chain stops: {stopped}" if stopped else "")
