"""The figures of releases as a report shows them: beside yesterday's, beside the same weekday's, and as a line."""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.operations.figures import summarise
from pipelines.report import drawn, plots
from stores.manifests import Manifest
from stores.names import Counter, Step
from transforms.gates import GATES, read_gate
from transforms.gates.hindsight import hindsight_of

Facts = dict[str, Any]
NIGHTS = 30  # releases of the small lines, this one among them
SAME_WEEKDAY = 7  # days


def facts_of(manifest: Manifest) -> Facts:
    """Everything that a later report compares with: a few hundred bytes, whatever the release weighs."""
    facts = summarise(manifest)
    gates = [read_gate(found) for found in manifest.gates]
    used = [(drawn.share_of_limit(gate.measured, gate.threshold, gate.at_least), gate.name) for gate in gates]
    index, rows = manifest.settings.get("index", {}), facts["rows_read"]
    dropped = sum(facts["rows_dropped"].values())
    engaged = facts["engaged_pins"]
    return {
        **facts,
        "dropped": dropped,
        "dropped_share": dropped / rows if rows else None,
        "rows_added": manifest.count(Step.UPDATE_HISTORIES, Counter.ROWS_ADDED),
        "coverage_pins": index.get("coverage_pins"),
        "engaged_vectorless": facts["engaged_pins_without_vector"] / engaged if engaged else None,
        "work_s": sum(manifest.timings.values()),
        "gates": len(gates),
        "gates_passed": sum(gate.passed for gate in gates),
        "nearest_gate": max(used, default=None),  # (share of its limit, name)
        # Of what `gc` took the files of the counters still tell.
        "users": facts["users"] or manifest.count(Step.MERGE_SNAPSHOT, Counter.USERS),
        "pins": facts["pins"] or manifest.count(Step.SHARD_PINS, Counter.PINS),
    }


@dataclasses.dataclass(frozen=True)
class Figure:
    """A line of the table of figures.

    Attributes:
        now, yesterday, weekday: As text; empty where there is none.
        change: Against yesterday, as text.
        line: Of the last releases, as SVG.
    """

    label: str
    now: str
    yesterday: str
    weekday: str
    change: str
    line: str


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.2%}".replace("%", " %")


def _four(value: float) -> str:
    return f"{value:.4f}"


def _seconds(value: float) -> str:
    return f"{value:,.1f} s"


LINES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("rows_read", "log rows read", _count),
    ("dropped_share", "of them dropped", _share),
    ("rows_repeated", "rows seen before", _count),
    ("users_active", "active users", _count),
    ("users_embedded", "users embedded", _count),
    ("users_failed", "users failed", _count),
    ("users", "users with a vector", _count),
    ("pins", "pins with a vector", _count),
    ("engaged_vectorless", "pins engaged with that have no vector", _share),
    ("margin", "hindsight: margin", _four),
    ("popularity_rank", "hindsight: popularity's rank", _four),
    ("index_recall_at_10", "recall@10 of the index, against exact search", _four),
    ("coverage_pins", "pins that are 90 % of the answers", _count),
    ("work_s", "seconds of work", _seconds),
)


def _value(facts: Facts | None, key: str) -> float | None:
    return None if facts is None else facts[key]


def figures(tonight: Facts, before: Sequence[Facts]) -> list[Figure]:
    """Tonight's figures beside others'.

    Args:
        before: Of the releases before, newest first, one a date.
    """
    day = datetime.date.fromisoformat(tonight["date"])
    same = str(day - datetime.timedelta(SAME_WEEKDAY))
    yesterday = before[0] if before else None
    weekday = next((facts for facts in before if facts["date"] == same), None)
    rows = []
    for key, label, shown in LINES:
        now, then, other = (_value(facts, key) for facts in (tonight, yesterday, weekday))
        text, text_then, text_other = ("" if value is None else shown(value) for value in (now, then, other))
        history = [_value(facts, key) for facts in reversed(before[: NIGHTS - 1])]
        line = plots.small_line([*history, now], f"{label}, last releases")
        rows.append(Figure(label, text, text_then, text_other, _change(now, then, shown), line))
    return rows


def _change(now: float | None, then: float | None, shown: Callable[[float], str]) -> str:
    """Tonight against yesterday: of counts and seconds in per cent, of shares and ranks the difference."""
    if now is None or then is None:
        return ""
    if shown(now) == shown(then):
        return "="
    sign = "+" if now > then else "-"
    if shown is _share:
        return f"{sign}{abs(now - then) * 100:.2f} points"
    if shown is _four:
        return sign + shown(abs(now - then))
    if not then:
        return ""
    return f"{(now - then) / abs(then):+.1%}".replace("%", " %")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A bar of the funnel.

    Attributes:
        count: Rows, users or pins.
        share: Of the widest bar of its group, of 100.
        lost: Whether these are the ones that did not get further.
        why: In words.
    """

    label: str
    count: int
    share: float
    lost: bool
    why: str


def funnel(manifest: Manifest, facts: Facts) -> dict[str, list[Stage]]:
    """From rows to vectors: what went in, what was left out and why, what came out."""
    count = manifest.count
    rows = [
        ("read", facts["rows_read"], False, f"from {facts['log_files']:,} log files"),
        *(
            (reason.replace("_", " "), n, True, "dropped, see the dead letters")
            for reason, n in dropped_by_reason(facts)
        ),
        ("of erased users", facts["rows_erased"], True, "they are kept out"),
        ("seen before", facts["rows_repeated"], True, "equal to a row in the histories"),
        ("added to histories", facts["rows_added"], False, "older rows than a history holds are left out"),
    ]
    users = [
        ("active", facts["users_active"], False, "whose history changed"),
        ("without a usable token", facts["users_without_token"], True, "no known act on a pin with a vector"),
        ("failed", facts["users_failed"], True, "tried again the next night"),
        ("embedded", facts["users_embedded"], False, "tonight"),
        ("carried over", facts["users_carried_over"], False, "with the vector that they had"),
        ("let go", facts["users_expired"], True, "idle for longer than --max-idle-days"),
        ("in the release", facts["users"], False, "each with one vector"),
    ]
    pins = [
        ("vectors read", count(Step.SHARD_PINS, Counter.VECTORS_READ), False, "of --pins"),
        ("vectors of zeros", count(Step.SHARD_PINS, Counter.VECTORS_ZERO), True, "a vector of zeros is none"),
        ("collided", count(Step.SHARD_PINS, Counter.VECTORS_COLLIDED), True, "a string with the hash of another's"),
        ("as they were", facts["pins_reused"], False, "the vector and the model are those of the release before"),
        ("in the release", facts["pins"], False, "each with one vector, in one index"),
    ]
    return {"Rows": _stages(rows), "Users": _stages(users), "Pins": _stages(pins)}


def dropped_by_reason(facts: Facts) -> list[tuple[str, int]]:
    """(reason, rows), the most frequent first."""
    return sorted(facts["rows_dropped"].items(), key=lambda item: (-item[1], item[0]))


def _stages(lines: Sequence[tuple[str, int, bool, str]]) -> list[Stage]:
    """Bars against the widest; nothing that was left out by nobody is shown."""
    most = max((count for _, count, _, _ in lines), default=0) or 1
    return [
        Stage(label, count, round(count / most * 100, 1), lost, why)
        for label, count, lost, why in lines
        if count or not lost
    ]


@dataclasses.dataclass(frozen=True)
class GateBar:
    """A gate as a bar to its limit.

    Attributes:
        state: passed, closed or forced.
        reads: What was measured, in words.
        closes_when: What it is for; where to look: `advice`.
        bar: How long, of 100.
    """

    name: str
    state: str
    measured: str
    allowed: str
    reads: str
    closes_when: str
    advice: str
    forced: str | None
    bar: float


def gate_bars(manifest: Manifest) -> list[GateBar]:
    """Every gate that had something to say, those that are closed first."""
    specs = {gate.name: gate for gate in GATES}
    bars = []
    for gate in map(read_gate, manifest.gates):
        spec = specs.get(gate.name)  # an older or newer version's may be unknown here
        state = "passed" if gate.passed else "forced" if gate.forced is not None else "closed"
        allowed = f"{'at least' if gate.at_least else 'at most'} {gate.threshold:.6g}"
        length = drawn.bar(gate.measured, gate.threshold, gate.at_least)
        words = (spec.closes_when.replace("`", ""), spec.advice) if spec else ("", "")
        bars.append(GateBar(gate.name, state, f"{gate.measured:.6g}", allowed, gate.reads, *words, gate.forced, length))
    return sorted(bars, key=lambda bar: ("closed", "forced", "passed").index(bar.state))


def ranks(manifest: Manifest) -> list[tuple[str, float, str]]:
    """(who, mean rank of tonight's acts, as text) of last night's vectors, of popularity, of other users' vectors."""
    found = hindsight_of(manifest).get("foresight") or {}
    names = (("own", "their own vectors"), ("popularity", "popularity"), ("other", "other users' vectors"))
    return [(label, found[key], f"{found[key]:.4f}") for key, label in names if found.get(key) is not None]
