"""The lines that a command says on stderr: for people, or one JSON object a line (`--log-format json`).

`say` is for what has a stage or figures. Everything else that reaches file descriptor 2 (what a library prints, the
trace of an error nobody expected, a warning of C++ code) is made such an object too, by a process of its own that reads
what this one writes there: no text can pass by it.
"""

import contextlib
import datetime
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from pipelines.telemetry.facts import facts

TEXT, JSON = "text", "json"
ALWAYS = ("time", "level", "command", "run", "stage", "message")  # the keys of every object, in this order
TRACE = "Traceback (most recent call last):"
WAIT_S = 5.0  # for what is still in the pipe at the end

_LOG = logging.getLogger("pinnerformer.lines")
_LOG.propagate = False


def json_formatter() -> logging.Formatter:
    """What makes a JSON object of a log record, with its extra fields, and with its trace as `exc_info`."""
    from pythonjsonlogger.json import JsonFormatter

    class Formatter(JsonFormatter):
        def format(self, record: logging.LogRecord) -> str:
            return "\n" + super().format(record)  # what stands there may be the beginning of somebody's line

        def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
            now = facts()
            known = {"command": now.command, "run": now.run, "stage": None, **log_data}
            others = {name: of for name, of in known.items() if name not in ALWAYS}
            return {name: known[name] for name in ALWAYS} | others

        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
            super().add_fields(log_data, record, message_dict)
            at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
            log_data |= {"time": at.isoformat(timespec="milliseconds"), "level": record.levelname.lower()}

    return Formatter("%(message)s", json_ensure_ascii=False)


class _Stderr(logging.StreamHandler):
    """Writes to what `sys.stderr` is now: while a pipeline runs, that is another file."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        pass

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # what the write raised: a reader that has gone ends a command, as it does where `print` is used


_HANDLER = _Stderr()
_LOG.handlers = [_HANDLER]  # one, however often this module is loaded
_LOG.setLevel(logging.INFO)


def is_json() -> bool:
    """Whether programs read stderr."""
    return _HANDLER.formatter is not None


def say(text: str, *, level: int = logging.INFO, stage: str | None = None, **figures: Any) -> None:
    """Says something on stderr at once.

    Args:
        text: For people; one line or several.
        stage: The step that it is of.
        figures: For programs, beside the text.
    """
    _LOG.log(level, "%s", text, extra={"stage": stage, **figures})


def say_error(error: BaseException) -> None:
    """Says an error that nobody expected, with its trace."""
    _LOG.error("%s: %s", type(error).__name__, error, exc_info=error)


def say_warning(text: str, **figures: Any) -> None:
    """Says what went wrong beside the work."""
    say(f"warning: {text}" if not is_json() else text, level=logging.WARNING, **figures)


@contextlib.contextmanager
def lines_of(form: str, *, ends: bool = False) -> Iterator[None]:
    """Has `say`, and with `json` everything that reaches stderr, take a form while the body runs.

    Args:
        form: `TEXT` or `JSON`.
        ends: Whether this process ends with the body: what the interpreter says after it is nobody's concern.
    """
    if form == TEXT or not _is_open(2):
        yield
        return
    root = logging.getLogger()
    handlers = [_HANDLER, *root.handlers]
    before = [handler.formatter for handler in handlers]
    for handler in handlers:
        handler.setFormatter(json_formatter())
    try:
        with _transcribed(facts().command, ends):
            yield
    finally:
        for handler, formatter in zip(handlers, before, strict=True):
            handler.setFormatter(formatter)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _transcribed(command: str, ends: bool) -> Iterator[None]:
    """Has a process of its own read what is written to file descriptor 2, and write it on as JSON."""
    sys.stderr.flush()
    target = os.dup(2)
    source, sink = os.pipe()
    scribe = os.fork()
    if not scribe:
        _end_as_scribe(source, target, command)
    os.close(source)
    os.dup2(sink, 2)
    os.close(sink)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        if ends:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        else:
            os.dup2(target, 2)
        os.close(target)
        _wait_for(scribe)


def _wait_for(scribe: int) -> None:
    """Waits until all is written. A process that outlives this one may keep the pipe open: not for long, then."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if os.waitpid(scribe, os.WNOHANG)[0]:
            return
        time.sleep(0.005)


def _end_as_scribe(source: int, target: int, command: str) -> None:
    """The scribe's whole life; it ends when the last writer has."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)  # they are the command's, whose last words are still to come
        os.dup2(source, 0)
        os.dup2(target, 1)
        os.closerange(2, 1 << 16)
        transcribe(0, 1, command)
    finally:
        os._exit(0)


def transcribe(source: int, target: int, command: str) -> None:
    """Reads lines and writes JSON objects: those that are some already as they are, a trace as one, others one each."""
    scribe, rest = Scribe(command), b""
    while data := os.read(source, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        _write(target, [made for line in lines for made in scribe.take(line)])
    _write(target, [*(scribe.take(rest) if rest else ()), *scribe.finish()])


def _write(target: int, objects: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the reader has gone; the command is told by no one but its own writes
        data = b"".join(line + b"\n" for line in objects)
        while data:
            data = data[os.write(target, data) :]


class Scribe:
    """Makes objects of lines, in order."""

    def __init__(self, command: str):
        self._command, self._run = command, None
        self._trace: list[str] = []

    def take(self, line: bytes) -> list[bytes]:
        """What is to be written once a line has come."""
        found = _as_object(line)
        if found is not None:
            self._run = found["run"]
            return [*self.finish(), line]
        text = line.decode(errors="backslashreplace").rstrip()
        if text == TRACE:
            return [*self.finish(), *self._begin(text)]
        if self._trace:
            self._trace.append(text)
            return [] if not text or text[0].isspace() else self.finish()
        return [self._object(text)] if text else []

    def _begin(self, text: str) -> list[bytes]:
        self._trace = [text]
        return []

    def finish(self) -> list[bytes]:
        """What is left: a trace that was cut off."""
        trace, self._trace = self._trace, []
        return [self._object(trace[-1], level="error", exc_info="\n".join(trace))] if trace else []

    def _object(self, text: str, level: str | None = None, **more: str) -> bytes:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        first = text.split(None, 1)[0].rstrip(":").lower() if text else ""
        level = level or (first if first in ("warning", "error") else "info")
        values = (at, level, self._command, self._run, None, text)
        return json.dumps({**dict(zip(ALWAYS, values, strict=True)), **more}, ensure_ascii=False).encode()


def _as_object(line: bytes) -> dict[str, Any] | None:
    """A line that is an object with our keys already; None for any other."""
    if not line.startswith(b"{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() >= set(ALWAYS) else None
