"""A release as one HTML page, complete in itself: a pure function of manifests and of what was said beside them."""

import dataclasses
import datetime
import functools
import importlib.resources
import json
import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pipelines.report import drawn, plots
from pipelines.report.facts import (
    NIGHTS,
    SAME_WEEKDAY,
    Facts,
    dropped_by_reason,
    facts_of,
    figures,
    funnel,
    gate_bars,
    ranks,
)
from pipelines.report.told import SHOWN, Told, dead_folder
from stores.manifests import Manifest
from stores.names import Step
from transforms.gates.drift import EDGES, HISTOGRAM
from transforms.release import COMMITTED, FAILED, REFUSED

PAGE = "page.html.j2"
FINISHING = "check, commit, publish"
BEFORE = NIGHTS + SAME_WEEKDAY  # releases to read before this one: a date may have been released again


def render(
    manifest: Manifest,
    before: Sequence[Facts],
    told: Told,
    template: str = PAGE,
    folder: str | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """The page of a release, or of a refused run.

    Args:
        manifest: With its gates: of a refused run the one that was checked.
        before: `facts_of` the releases before, newest first.
        told: What no manifest says.
        template, folder: As `template_of` takes them: one that extends the page.
        more: What that one is filled with beside what the page is.
    """
    return template_of(template, folder).render({**context_of(manifest, before, told), **more})


def context_of(manifest: Manifest, before: Sequence[Facts], told: Told) -> dict[str, Any]:
    """What the page's template is filled with; arguments are those of `render`."""
    facts = facts_of(manifest)
    nights = one_a_date(before, facts["date"])
    rows = figures(facts, nights)
    refused = told.ended == REFUSED
    state = {COMMITTED: "released", FAILED: "failed"}.get(told.ended, "refused")
    return dict(
        told=told,
        outcome=json.dumps(told.outcome),
        facts=facts,
        state=state,
        verdict=verdict(manifest, facts, told),
        closed=refused,
        force=force_command(manifest, told.root),
        figures=rows,
        yesterday=nights[0]["release"] if nights else "",
        weekday=next((f["release"] for f in nights if _days(f["date"], facts["date"]) == SAME_WEEKDAY), ""),
        nights=min(NIGHTS, len(nights) + 1),
        funnel=funnel(manifest, facts),
        gates=gate_bars(manifest),
        ranks=ranks(manifest),
        cosines=cosines_of(manifest.statistics.get(HISTOGRAM) or []),
        lengths=plots.histogram(*drawn.length_bins(told.bucket.lengths), "Users by rows in their history"),
        longest=manifest.settings.get("layout", {}).get("history_length", "any number"),
        stages=stages_of(manifest, told),
        began=clock_time(told),
        dropped=dropped_by_reason(facts),
        dead_folder=f"{told.root}/{dead_folder(manifest, told.ended)}",
        columns=SHOWN,
        made=made_of(manifest, told),
        commands=commands(manifest, told.root, refused),
        style=style(),
    )


def one_a_date(before: Sequence[Facts], date: str) -> list[Facts]:
    """Of releases, newest first, the newest of every date before one."""
    found: dict[str, Facts] = {}
    for facts in before:
        if facts["date"] < date:
            found.setdefault(facts["date"], facts)
    return list(found.values())


def _days(earlier: str, later: str) -> int:
    return (datetime.date.fromisoformat(later) - datetime.date.fromisoformat(earlier)).days


def verdict(manifest: Manifest, facts: Facts, told: Told) -> str:
    """The sentence at the top: what came of it and when, gates, users embedded, seconds."""
    gates = manifest.gates
    passed = sum(bool(gate["passed"]) for gate in gates)
    forced = sum(not gate["passed"] and gate["forced"] is not None for gate in gates)
    if told.ended == REFUSED:
        closed = ", ".join(g["name"] for g in gates if not g["passed"] and g["forced"] is None)
        what = f"{manifest.release} was refused at {told.when} UTC by {closed}"
    elif told.ended == FAILED:
        what = f"{manifest.release} is a release, but was not published: failed at {told.when} UTC"
    elif told.published:
        what = f"{manifest.release} is served since {told.when} UTC"
    else:
        what = f"{manifest.release} is a release since {told.when} UTC"
    opened = f", {forced} forced" if forced else ""
    return (
        f"{what}: {passed} of {len(gates)} gates passed{opened}, {facts['users_embedded']:,} users embedded, "
        f"{seconds_of(facts['work_s'], moments(told))}."
    )


def moments(told: Told) -> tuple[float, float] | None:
    """When the first step of a run began and the run ended, seconds since 1970; None where nobody knows."""
    if not told.ran:
        return None
    ended = datetime.datetime.fromisoformat(told.finished).timestamp()
    return min(began for began, _ in told.ran.values()), max(ended, *(end for _, end in told.ran.values()))


def clock_time(told: Told) -> str:
    """When the first step began, to the second; empty where nobody knows."""
    clock = moments(told)
    return f"{datetime.datetime.fromtimestamp(clock[0], datetime.UTC):%Y-%m-%d %H:%M:%S}" if clock else ""


def seconds_of(work_s: float, clock: tuple[float, float] | None) -> str:
    """How long it took, in words."""
    work = f"{work_s:,.1f} s of work"
    return f"{clock[1] - clock[0]:,.1f} s from the first step to the end ({work})" if clock else work


def force_command(manifest: Manifest, root: str) -> str:
    """What releases a refused run as it is."""
    force = " ".join(f"--force-gate {gate['name']}" for gate in manifest.gates if not gate["passed"])
    run = manifest.settings["run"]
    return f"pinnerformer release --root {shlex.quote(root)} --run {run} {force} --reason 'WHY' --kv URL"


def commands(manifest: Manifest, root: str, refused: bool) -> list[str]:
    """What to type to see more."""
    at = f"--root {shlex.quote(root)}"
    if refused:
        return [f"pinnerformer status {at}", "pinnerformer check-inputs --help"]
    release = manifest.release
    return [
        f"pinnerformer status {at}",
        f"pinnerformer verify {at} --release {release}",
        f"pinnerformer rollback {at} --kv URL --to {release} --reason TEXT",
    ]


def made_of(manifest: Manifest, told: Told) -> list[tuple[str, str]]:
    """(what, text) of the model, the versions and the settings that a release was made with."""
    settings: Mapping[str, Any] = manifest.settings
    layout, index = settings.get("layout", {}), settings.get("index", {})
    rows = [
        ("root", told.root),
        ("run", str(settings.get("run", ""))),
        ("built on", manifest.previous or "nothing: the first release"),
        ("model", manifest.model_digest),
        ("PinSage version", str(settings.get("pinsage_version", ""))),
        ("layout", ", ".join(f"{name} {value}" for name, value in layout.items())),
        ("index", ", ".join(f"{name} {value}" for name, value in index.items())),
        ("manifest", f"format {manifest.format}, revision {manifest.revision}"),
        ("page written by", f"pinnerformer {told.program}"),
    ]
    return [(name, text) for name, text in rows if text]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step as it ran.

    Attributes:
        left, wide: Where its bar stands and how long it is, of 100; None where nobody knows when it ran.
        when: From when on and how long, in words.
        work: Seconds of work, in words; empty where it is not known.
    """

    name: str
    left: float | None
    wide: float
    when: str
    work: str


def stages_of(manifest: Manifest, told: Told) -> list[Stage]:
    """The steps in the order in which they began; those of which that is not known last, in the order of the work."""
    clock, order = moments(told), {str(step): number for number, step in enumerate(Step)}
    ran = dict(told.ran)
    if clock:
        # What comes after the last step is not a step of its own: gates, manifest, CURRENT, the store.
        ran[FINISHING] = [max(end for _, end in told.ran.values()), clock[1]]
    names = {*ran, *manifest.timings}
    span = (clock[1] - clock[0] or 1.0) if clock else 1.0
    found = []
    for name in sorted(names, key=lambda name: (ran.get(name, [float("inf")])[0], order.get(name, len(order)), name)):
        work = f"{manifest.timings[name]:,.2f} s" if name in manifest.timings else ""
        if name in ran and clock:
            began, ended = ran[name]
            left, wide = (began - clock[0]) / span * 100, max(0.3, (ended - began) / span * 100)
            when = f"from {began - clock[0]:,.1f} s, for {ended - began:,.1f} s"
            found.append(Stage(_words(name), round(min(left, 99.7), 2), round(wide, 2), when, work))
        else:
            found.append(Stage(_words(name), None, 0.0, "", work))
    return found


def _words(name: str) -> str:
    return name.replace("_", " ")


def cosines_of(histogram: Sequence[int]) -> str:
    """The histogram `cosine_to_yesterday`, as SVG; empty where nobody is in it."""
    if len(histogram) != len(EDGES) - 1:
        return ""
    words = [f"up to {edge:.2g}" for edge in EDGES[1:-1]] + [f"above {EDGES[-2]:.2g}"]
    return plots.histogram(histogram, words, "Users by 1 - cosine to the vector before")


@functools.cache
def style() -> Any:
    """The style sheet of every page."""
    import markupsafe

    # Ours, and not anybody's data: the one text that is not escaped.
    return markupsafe.Markup(importlib.resources.files(__package__).joinpath("page.css").read_text("utf-8"))


@functools.cache
def template_of(name: str, folder: str | None = None) -> Any:
    """A template, by its name.

    Args:
        folder: Where it is looked for first; those of this package are found after it, to be extended.
    """
    import jinja2  # no job but the end of one needs it

    own = jinja2.PackageLoader("pipelines.report", ".")
    loader = jinja2.ChoiceLoader([jinja2.FileSystemLoader(folder), own]) if folder else own
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    return environment.get_template(name)
