"""The text of a new `pinnerformer.yaml`: what was answered, what the data look like, and the rest as comments.

What a flag is for is said in the words of its own help, so that there is one place where they stand.
"""

import dataclasses
import json
import os
import re
import textwrap

from pipelines.arguments import Parser, help_with_default
from pipelines.configuration.flags import Flags
from pipelines.configuration.look import LogsFound, VectorsFound, look_at_logs, look_at_vectors
from pipelines.configuration.parsers import configured_commands, parser_of
from pipelines.configuration.sections import file_layers
from pipelines.configuration.values import flag_of
from pipelines.configuration.yaml_file import FILE_NAME, parse_config_text

COLUMNS = 110  # of a line
_SETTING = 32  # of a setting before its comment
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:@+?=-]*")  # needs no quotes; what is read of it is text anyway

# Shown as comments, with what is in force without them.
SHOWN = ("min-age", "lookback", "day-offset", "max-clock-skew", "max-history-days", "max-idle-days", "refresh-days")
SHOWN_OF_ROOT = ("user-buckets", "pin-shards", "history-length")
SHOWN_OF_DAILY = ("token-budget", "rewritten-partitions")

HEAD = """\
# Flags of pinnerformer. A flag that is typed comes before what stands here, and a variable of the environment between
# the two: PINNERFORMER_ROOT, PINNERFORMER_DAILY_LOOKBACK. Paths are relative to this file. No password stands here:
# write env:NAME. `pinnerformer config` checks the file, `pinnerformer config daily` shows what a night is given.

# For every command that has these flags:
"""

TAIL = """
# Flags of one command stand below its name, Beam's own (worker processes, an engine) below `beam`:
{daily}
# status:
#   max-age: 30h
# beam:
#   direct_running_mode: multi_processing
#   direct_num_workers: 2
"""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the file is to say; None or empty: as it is by default, or not yet."""

    logs: str | None = None
    pins: str | None = None
    model: str | None = None
    root: str | None = None
    kv: str | None = None


def write_template(answers: Answers, path: str) -> tuple[str, list[str]]:
    """The text of a file of flags, and lines that say what comes next.

    Args:
        path: Where the text will lie.

    Raises:
        InputError: logs or vectors that are named cannot be looked at.
    """
    parser = parser_of("daily")
    logs = look_at_logs(answers.logs) if answers.logs else None
    pins = look_at_vectors(answers.pins) if answers.pins else None
    folder = os.path.dirname(os.path.abspath(path))
    values = {
        "logs": (_located(answers.logs or "", folder), describe_logs(logs)),
        "pins": (_located(answers.pins or "", folder), describe_vectors(pins)),
        "model": (_located(answers.model, folder) if answers.model else "model", ""),
        "root": (_located(answers.root, folder) if answers.root else "root", ""),
        "kv": (answers.kv or "lmdb://kv", "" if answers.kv else "a folder beside this file; or redis://HOST:PORT/DB"),
        "bootstrap-from": (str(logs.first) if logs else "", "the first partition there is" if logs else ""),
    }
    lines = [HEAD]
    for name, (value, note) in values.items():
        lines += _commented(note or help_of(parser, name), f"{name}: {quoted(value)}" if value else f"# {name}:")
    lines += _names(logs, pins)
    lines += ["", "# More of them, with what is in force without:", *(_comment(parser, name) for name in SHOWN)]
    lines += ["# Fixed when the root is made:", *(_comment(parser, name) for name in SHOWN_OF_ROOT)]
    daily = "\n".join(["# daily:", *(_comment(parser, name, "#   ") for name in SHOWN_OF_DAILY)])
    text = "\n".join(lines) + "\n" + TAIL.format(daily=daily)
    _check(text, path, parser)
    return text, next_steps(answers, logs, path)


def _check(text: str, path: str, parser: Parser) -> None:
    """Reads the text as `daily` would, before it is written."""
    own = {flag_of(action)[2:]: action for action in parser._actions}
    file_layers(parse_config_text(text, path), Flags(parser, ("daily",), own, {}), configured_commands())


def describe_logs(logs: LogsFound | None) -> str:
    """What was seen of the logs, for a comment."""
    if logs is None:
        return ""
    days = f"{logs.partitions:,} partitions, {logs.first} to {logs.last}"
    if (logs.last - logs.first).days + 1 > logs.partitions:
        days += ", not every day between"
    unmarked = f"; {logs.unmarked:,} without _SUCCESS, read once left alone for min-age" if logs.unmarked else ""
    return f"{days}{unmarked}"


def describe_vectors(pins: VectorsFound | None) -> str:
    """What was seen of the vectors, for a comment."""
    if pins is None:
        return ""
    return f"version {pins.version}" if pins.version else 'no version.json yet: {"pinsage_version": "..."}'


def _names(logs: LogsFound | None, pins: VectorsFound | None) -> list[str]:
    """Lines that say how logs and vectors call their columns, as far as their names tell."""
    named = dict(logs.named) if logs else {}
    if pins is not None:
        named |= {} if pins.vector == "vector" else {"vector": pins.vector}
        if pins.pin not in ("pin_id", named.get("pin_id")):
            named["pins.pin_id"] = pins.pin
    lines = []
    if named:
        lines += ["", "# How your files call our columns; guessed from the names, so look at them:", "columns:"]
        lines += [f"  {ours}: {quoted(theirs)}" for ours, theirs in named.items()]
    if logs is not None and logs.missing:
        seen = ", ".join(logs.columns) or "no column"
        lines += ["", *_wrapped(f"No column was recognised for {', '.join(logs.missing)}; there are {seen}.")]
        lines += _wrapped("Name it below `columns`, or, where files need not have it:")
        lines += [f"absent: [{', '.join(logs.may_be_absent)}]"] if logs.may_be_absent else []
    if logs is not None:
        lines += ["# Words of yours for ours: actions: {purchase: buy}"]
    return lines


def next_steps(answers: Answers, found: LogsFound | None, path: str) -> list[str]:
    """The commands that lead from a new file to the first release."""
    more, beside = ("", "") if path == FILE_NAME else (f" --config {path}", os.path.join(os.path.dirname(path), ""))
    lines = []
    if not answers.logs:
        lines.append(f"put the folder of your logs into {path}: logs: ...")
    if not answers.pins:
        until = f"{found.last}" if found else "DATE"
        lines.append(
            f"no vectors? pinnerformer item-vectors{more} --until {until} --out {beside}pins makes some from the logs, "
            f"beside text or image vectors with --content; then put pins: pins into {path}"
        )
    model = answers.model or f"{beside}model"
    if "://" not in model and not os.path.isdir(model):
        lines.append(f"a model: pinnerformer init-model{more} --out {model}, or pinnerformer train")
    lines.append(f"the first night: pinnerformer daily{more} --date {found.last if found else 'yesterday'}")
    return lines


def _located(location: str, folder: str) -> str:
    """A location as the file names it: relative where it lies below the file's folder, else absolute; not of URLs."""
    if not location or "://" in location:
        return location
    path = os.path.abspath(os.path.expanduser(location))
    below = os.path.relpath(path, folder)
    return path if below.startswith("..") else below


def quoted(text: str) -> str:
    """A value as YAML has it: bare where it needs no quotes."""
    bare = _PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false")
    return text if bare else json.dumps(text, ensure_ascii=False)


def help_of(parser: Parser, name: str) -> str:
    """What a flag's help says, in one line; a `%` as it is shown."""
    action = parser._option_string_actions[f"--{name}"]
    said = help_with_default(action) or ""
    return (said % {"default": action.default}).removesuffix(" (default none)")


def _commented(note: str, line: str) -> list[str]:
    return [*_wrapped(note), line]


def _wrapped(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, COLUMNS - 2)]


def _comment(parser: Parser, name: str, indent: str = "# ") -> str:
    """A flag with its default, taken out, and what it is for beside it."""
    text, _, default = help_of(parser, name).rpartition(" (default ")
    value = default.removesuffix(")").replace("never", "")
    if " " in value:  # found out later, in words: no value to take in
        text, value = f"{text} (default {default}", ""
    begin = f"{indent}{name}: {value}"
    said = textwrap.wrap(text, COLUMNS - _SETTING) or [""]
    rest = [f"#{'':<{_SETTING - 1}} # {line}" for line in said[1:]]
    return "\n".join([f"{begin:<{_SETTING}} # {said[0]}", *rest])
