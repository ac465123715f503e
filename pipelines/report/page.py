"""A release as one HTML page, complete in itself: a pure function of manifests and of what was said beside them."""

import datetime
import functools
import importlib.resources
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report import drawn
from pipelines.report.facts import NIGHTS, SAME_WEEKDAY, Facts, facts_of, figures, funnel, gate_bars, ranks
from pipelines.report.told import SHOWN, Told
from stores.manifests import Manifest
from stores.names import Step
from transforms.gates.drift import EDGES, HISTOGRAM
from transforms.release import COMMITTED, FAILED, REFUSED

BEFORE = NIGHTS + SAME_WEEKDAY  # releases to read before this one: a date may have been released again


def render(manifest: Manifest, before: Sequence[Facts], told: Told) -> str:
    """The page of a release, or of a refused run.

    Args:
        manifest: With its gates: of a refused run the one that was checked.
        before: `facts_of` the releases before, newest first.
        told: What no manifest says.
    """
    facts = facts_of(manifest)
    nights = one_a_date(before, facts["date"])
    rows = figures(facts, nights)
    refused = told.ended == REFUSED
    folder = f"staging/{manifest.settings['run']}" if refused else f"releases/{manifest.release}"
    state = {COMMITTED: "released", FAILED: "failed"}.get(told.ended, "refused")
    return _template().render(
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
        cosines=cosine_columns(manifest.statistics.get(HISTOGRAM) or []),
        lengths=drawn.length_columns(told.lengths),
        longest=manifest.settings.get("layout", {}).get("history_length", "any number"),
        steps=step_bars(manifest.timings),
        dropped=sorted(facts["rows_dropped"].items(), key=lambda item: (-item[1], item[0])),
        dead_folder=f"{told.root}/{folder}/dead_letters",
        columns=SHOWN,
        made=made_of(manifest, told),
        commands=commands(manifest, told.root, refused),
        style=_style(),
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
        f"{facts['work_s']:,.1f} s of work."
    )


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


def step_bars(timings: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(step, seconds, of 100 of the longest), in the order of the work; steps that nobody here knows come last."""
    order = {str(step): number for number, step in enumerate(Step)}
    most = max(timings.values(), default=0.0) or 1.0
    names = sorted(timings, key=lambda name: (order.get(name, len(order)), name))
    return [(name.replace("_", " "), timings[name], round(timings[name] / most * 100, 1)) for name in names]


def cosine_columns(histogram: Sequence[int]) -> list[tuple[float, int, str]]:
    """Columns of `cosine_to_yesterday`; none where nobody is in it."""
    if not any(histogram) or len(histogram) != len(EDGES) - 1:
        return []
    labels = [f"up to {edge:.2g}" for edge in EDGES[1:-1]] + [f"above {EDGES[-2]:.2g}"]
    return drawn.columns(histogram, labels)


@functools.cache
def _style() -> Any:
    import markupsafe

    # Ours, and not anybody's data: the one text that is not escaped.
    return markupsafe.Markup(_resource("page.css"))


@functools.cache
def _template() -> Any:
    import jinja2  # no job but the end of one needs it

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_resource("page.html.j2"))


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")
