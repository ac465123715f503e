"""What was found in the inputs of a night, for a screen and for programs: parts, findings, and the lines that mend."""

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.arguments import SHARED
from pipelines.configuration.template import quoted
from stores.errors import PinnerFormerError, UsageError


class Level(enum.IntEnum):
    """What becomes of a night by a finding, the worst first."""

    STOPS = 0  # `daily` would not start, or fail on it
    CLOSES = 1  # a gate would refuse the release
    LOSES = 2  # rows, pins or users are left out
    NOTE = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, or that is worth knowing.

    Attributes:
        text: What it is, with counts, and the way out where no line below is one.
        flags: (flag without dashes, value) that mend it, for `pinnerformer.yaml` and for the command line alike.
        commands: Lines for a shell that mend it.
        sample: Where it is seen: a few files, rows or ids.
        exit_code: Of a `STOPS`, the one that `daily` would end with.
    """

    level: Level
    text: str
    flags: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    sample: tuple[str, ...] = ()
    exit_code: int = 1

    @classmethod
    def of(cls, error: PinnerFormerError, **more: Any) -> "Finding":
        """What `daily` would be refused with, in its own words."""
        return cls(Level.STOPS, str(error), exit_code=error.exit_code, **more)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"level": self.level.word, "text": self.text}
        if self.flags:
            found["flags"] = [f"--{name}={value}" for name, value in self.flags]
        for name in ("commands", "sample"):
            if getattr(self, name):
                found[name] = list(getattr(self, name))
        return found


Line = tuple[str, str, str]  # what, figure, remark


@dataclasses.dataclass
class Part:
    """One of the things that were looked at.

    Attributes:
        headline: It in one line; empty where it was not given.
        lines: For the screen.
        figures: The same for programs, under names that stay.
    """

    name: str
    headline: str = ""
    lines: list[Line] = dataclasses.field(default_factory=list)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def add(self, what: str, figure: str, remark: str = "") -> None:
        self.lines.append((what, figure, remark))

    def find(self, level: Level, text: str, **more: Any) -> None:
        self.findings.append(Finding(level, text, **more))

    def refuse(self, error: PinnerFormerError, **more: Any) -> None:
        """Keeps what `daily` would be refused with, once: two checks may say the same."""
        found = Finding.of(error, **more)
        if found.text not in {one.text for one in self.findings}:
            self.findings.append(found)

    @property
    def worst_first(self) -> list[Finding]:
        return sorted(self.findings, key=lambda finding: finding.level)

    def to_json(self) -> dict[str, Any]:
        return {
            "headline": self.headline,
            **self.figures,
            "findings": [finding.to_json() for finding in self.worst_first],
        }


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where `daily` would start and pass what can be foreseen; else 3 for a gate, and daily's own for a refusal."""
    found = list(findings)
    stops = [finding.exit_code for finding in found if finding.level == Level.STOPS]
    if stops:
        return 1 if 1 in stops else UsageError.exit_code
    return 3 if any(finding.level == Level.CLOSES for finding in found) else 0


def mending_flags(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """The flags that findings name, each once, in their order."""
    return list(dict.fromkeys(flag for finding in findings for flag in finding.flags))


def shown_flags(flags: Sequence[tuple[str, str]]) -> str:
    """Flags as they are typed."""
    return " ".join(f"--{name} {value}" if not value.startswith("-") else f"--{name}={value}" for name, value in flags)


# Repeated flags, as a file writes them: a mapping under another key, or a list.
MAPPED, LISTED = {"column": "columns"}, ("absent",)


def yaml_lines(flags: Sequence[tuple[str, str]]) -> list[str]:
    """The same flags as lines of `pinnerformer.yaml`: at its top what commands share, the others below `daily`.

    A key that stands in the file already is added to, not written twice.
    """
    top, own = list[str](), list[str]()
    for name in dict.fromkeys(name for name, _ in flags):
        values = [value for other, value in flags if other == name]
        lines = top if name in SHARED else own
        if name in MAPPED:
            pairs = [value.partition("=") for value in values]
            lines += [f"{MAPPED[name]}:", *(f"  {ours}: {quoted(theirs)}" for ours, _, theirs in pairs)]
        elif name in LISTED:
            lines.append(f"{name}: [{', '.join(map(quoted, values))}]")
        else:
            lines.append(f"{name}: {quoted(values[-1])}")
    return [*top, *(["daily:", *(f"  {line}" for line in own)] if own else [])]


def share(part: float, whole: float) -> str:
    """A share in words: `12 %`, `0.04 %`."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    digits = 0 if percent >= 10 or percent == 0 else 1 if percent >= 1 else 2
    if part < whole and percent > 99:  # never "100 %" of what is not all
        if round(percent, 2) >= 100:
            return "over 99.99 %"
        digits = next(n for n in (0, 1, 2) if round(percent, n) < 100)
    return f"{percent:.{digits}f} %"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `1,234 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
