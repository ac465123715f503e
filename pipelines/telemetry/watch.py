"""A command from start to end, told to whoever its flags name; nothing that goes wrong here ends the command."""

import argparse
import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.arguments import TOLD, add_told
from pipelines.telemetry.facts import facts
from pipelines.telemetry.lines import say_warning
from stores.errors import PinnerFormerError, UsageError

OK, REFUSED_CODE = 0, 3


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Whom a command tells.

    Attributes:
        flags: What the command was given of flags that stand before a value.
    """

    metrics_file: str | None
    notify: tuple[str, ...]
    openlineage: str | None
    flags: Mapping[str, tuple[str, ...]]

    @property
    def root(self) -> str:
        return self.flags.get("root", ("",))[-1]

    @property
    def stores(self) -> list[tuple[str, str]]:
        """URL and namespace of each."""
        namespace = self.flags.get("namespace", ("pinnerformer",))[-1]
        return [(url, namespace) for url in self.flags.get("kv", ()) if url]


def wanted_of(words: Sequence[str]) -> Wanted:
    """Reads what is asked for off the words of a command; of words that its own parser refuses too.

    Raises:
        UsageError: a flag without its value.
    """
    parser = _Words(add_help=False, allow_abbrev=False)
    add_told(parser, everything=True)
    found, _ = parser.parse_known_args(list(words))
    return Wanted(found.metrics_file, tuple(found.notify), found.openlineage, flags_in(words))


def flags_in(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Flag, without dashes -> the words that follow it, up to the next flag."""
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = (*found.get(name, ()), *([value] if equals else []))
        elif name:
            found[name] = (*found[name], word)
    return found


def end_of(code: int) -> dict[str, Any]:
    """What a log line says of the end of a command, beside its words."""
    outcome = facts().outcome or {}
    return {"exit_code": code, "release": outcome.get("release"), "gates": list(outcome.get("refused") or ())}


class _Words(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(message)


class Watch:
    """Tells of one command."""

    def __init__(self, command: str, wanted: Wanted):
        self._command, self._wanted = command, wanted
        self._lineage: Any = None

    def start(self) -> None:
        """Tells of the start."""
        if self._wanted.openlineage:
            with _said("--openlineage"):
                from pipelines.telemetry.lineage import Lineage

                began = facts().began
                self._lineage = Lineage(self._wanted.openlineage, self._command, self._wanted.flags, began)
                self._lineage.start()
        if self._wanted.metrics_file:
            with _said("--metrics-file"):
                self._write_metrics(None, None)

    def end(self, code: int, error: str | None) -> None:
        """Tells of the end.

        Args:
            error: What it said, where it failed.
        """
        ended = datetime.datetime.now(datetime.UTC)
        error = error.strip().partition("\n")[0] if error else None
        if code != OK and error is None:
            error = "; ".join(alarm["text"] for alarm in facts().alarms or ()) or f"exit code {code}"
        if self._wanted.metrics_file:
            with _said("--metrics-file"):
                self._write_metrics(ended, code)
        if self._lineage is not None:
            with _said("--openlineage"):
                self._lineage.end(error if code else None, self._tags(code), self._manifest() if not code else None)
        if code != OK:
            self._notify(code, error or "", ended)

    def _write_metrics(self, ended: datetime.datetime | None, code: int | None) -> None:
        from pinnerformer import __version__
        from pipelines.telemetry.metrics_file import root_samples, run_samples, write_metrics
        from stores.files import Root
        from stores.layout import read_layout

        now, root = facts(), Root(self._wanted.root).url if self._wanted.root else ""
        of_end = {"exit_code": code, "run": now.run, "outcome": now.outcome, "version": __version__}
        said = run_samples(self._command, root, now.began, ended, **of_end)
        if ended is not None and root and read_layout(Root(root)) is not None:
            with _said("--metrics-file"):
                said += root_samples(Root(root), self._wanted.stores)
        write_metrics(self._wanted.metrics_file or "", said, command=self._command, root=root)

    def _tags(self, code: int) -> dict[str, str]:
        now = facts()
        outcome = now.outcome or {}
        found = {"run": now.run, "release": outcome.get("release"), "outcome": outcome.get("outcome")}
        return {"exit_code": str(code), **{name: str(of) for name, of in found.items() if of}}

    def _manifest(self) -> Any:
        """Of the release that the command made; None if it made none."""
        from stores.files import Root
        from stores.manifests import read_manifest

        release = (facts().outcome or {}).get("release")
        if not release or not self._wanted.root:
            return None
        with contextlib.suppress(PinnerFormerError):
            return read_manifest(Root(self._wanted.root), release)
        return None

    def _notify(self, code: int, error: str, ended: datetime.datetime) -> None:
        from pipelines.telemetry.webhook import body_of, post, resolve, shown

        now = facts()
        event = "refused" if code == REFUSED_CODE else "alarm" if now.alarms else "failed"
        outcome = now.outcome or {}
        known = {
            "run": now.run,
            "release": outcome.get("release"),
            "gates": list(outcome.get("refused") or ()),
            "alarms": list(now.alarms or ()),
            "started": now.began.isoformat(timespec="seconds"),
            "finished": ended.isoformat(timespec="seconds"),
            "seconds": round((ended - now.began).total_seconds(), 1),
        }
        body = body_of(event, command=self._command, root=self._wanted.root, exit_code=code, error=error, known=known)
        for url in self._wanted.notify:
            with _said("--notify"):
                problem = post(resolve(url, os.environ), body)
                if problem is not None:
                    say_warning(f"--notify {shown(url)}: {problem}; nobody was told there")


@contextlib.contextmanager
def _said(flag: str) -> Iterator[None]:
    """Says what goes wrong in the body, and goes on after it."""
    try:
        yield
    except PinnerFormerError as error:
        say_warning(str(error) if str(error).startswith(flag) else f"{flag}: {error}")
    except Exception as error:  # of libraries, and of what servers answer: the work goes on
        say_warning(f"{flag}: {type(error).__name__}: {' '.join(str(error).split())}")


def watch_of(command: str, words: Sequence[str]) -> Watch | None:
    """What tells of a command; None where nobody is to be told.

    Raises:
        UsageError: --notify names no URL.
    """
    if command not in TOLD or not any("--" in word for word in words):
        return None
    wanted = wanted_of(words)
    if not (wanted.metrics_file or wanted.notify or wanted.openlineage):
        return None
    from pipelines.telemetry.webhook import resolve

    for url in wanted.notify:
        resolve(url, os.environ)  # a typo is said now, and not in the night in which it is needed
    return Watch(command, wanted)
