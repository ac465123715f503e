"""What a file or the environment says of a flag, as words of a command line; the flag's own parser reads them.

Paths in a file are relative to it. Which flags name a path is what their metavar says, `PATHS`; whatever has `://` in
it is the URL of a store, and left alone.
"""

import argparse
import dataclasses
import os
import shlex
from collections.abc import Callable, Sequence

from pipelines.configuration.yaml_file import ConfigFile, Entry, Value
from stores.errors import UsageError
from stores.kv_urls import without_password

# Metavars of flags that name a file or a folder; whoever adds a metavar says in a test what it is.
PATHS = frozenset({"DIR", "FILE", "PINS", "SET", "STUDY", "VECTORS", "WORLD"})
SWITCHES = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Given:
    """What one layer says of one flag.

    Attributes:
        words: Of a command line; none where the flag is turned off, or taken back.
        texts: The values, one each; of a switch `true` or `false`.
        origin: Where it stands: `pinnerformer.yaml:7`, the name of a variable, `flag`, `default`.
    """

    action: argparse.Action
    words: tuple[str, ...]
    texts: tuple[str, ...]
    origin: str


def flag_of(action: argparse.Action) -> str:
    """The name of a flag, with its dashes: the first that has two."""
    return next((name for name in action.option_strings if name.startswith("--")), "")


def is_switch(action: argparse.Action) -> bool:
    """Whether a flag stands alone, without a value."""
    return action.nargs == 0


def is_repeatable(action: argparse.Action) -> bool:
    """Whether a flag takes several values: repeated, or one after the other."""
    # Beam's --experiments is of a class of its own, which adds up what it is given.
    several = isinstance(action, argparse._AppendAction) or type(action).__name__ == "_CommaSeparatedListAction"
    return several or action.nargs in ("+", "*")


def is_mapping(action: argparse.Action) -> bool:
    """Whether the values of a repeatable flag are KEY=VALUE, which a file may write as a mapping."""
    return is_repeatable(action) and isinstance(action.metavar, str) and "=" in action.metavar


def is_path(action: argparse.Action) -> bool:
    """Whether a flag names a file or a folder."""
    return action.metavar in PATHS


def from_file(file: ConfigFile, section: str, entry: Entry, action: argparse.Action) -> Given:
    """What an entry of a file says of a flag.

    Raises:
        UsageError: a value of the wrong kind; names file, line and key.
    """
    key = f"{section}.{entry.key}" if section else entry.key
    origin, value = file.at(entry.line), entry.value

    def wrong(line: int, what: str) -> UsageError:
        return UsageError(f"{file.at(line)}: {key}: {what}")

    if value.kind == "nothing":
        return Given(action, (), (), origin)
    items = _items(value, action, wrong)
    texts = tuple(text if is_switch(action) else _located(action, text, file.folder) for text, _ in items)
    for text, (_, line) in zip(texts, items, strict=True):
        check(action, text, lambda what, line=line: wrong(line, what))  # type: ignore[misc]
    return Given(action, words_of(action, texts), texts, origin)


def _items(value: Value, action: argparse.Action, wrong: Callable[[int, str], UsageError]) -> list[tuple[str, int]]:
    """(text, line) of every value that an entry has."""
    flag = flag_of(action)
    if value.kind == "text":
        return [(value.text, value.line)]
    if not is_repeatable(action):
        found = "a list" if value.kind == "list" else "keys and values"
        raise wrong(value.line, f"{flag} takes one value, found {found}")
    if value.kind == "list":
        return [(item.text, item.line) for item in value.items]
    if not is_mapping(action):
        raise wrong(value.line, f"{flag} takes a value or a list of them, found keys and values")
    return [item for one in value.entries for item in _pairs(one, action, wrong)]


def _pairs(one: Entry, action: argparse.Action, wrong: Callable[[int, str], UsageError]) -> list[tuple[str, int]]:
    """(KEY=VALUE, line) of an entry of a mapping; of a mapping below it KEY:KEY=VALUE, where the flag has it."""
    metavar = str(action.metavar)
    if one.value.kind == "text":
        return [(f"{one.key}={one.value.text}", one.line)]
    if one.value.kind == "nothing" and "[=" in metavar:
        return [(one.key, one.line)]
    if one.value.kind == "keys" and ":" in metavar and all(two.value.kind == "text" for two in one.value.entries):
        return [(f"{one.key}:{two.key}={two.value.text}", two.line) for two in one.value.entries]
    raise wrong(one.line, f"{one.key}: expected {metavar}, as a key and its value")


def from_environment(name: str, text: str, action: argparse.Action) -> Given:
    """What a variable says of a flag; several values stand apart by blanks, quoted as in a shell.

    Raises:
        UsageError: a value of the wrong kind; names the variable.
    """

    def wrong(what: str) -> UsageError:
        return UsageError(f"{name}: {what}")

    try:
        texts = tuple(shlex.split(text)) if is_repeatable(action) else (text,)
    except ValueError as error:
        raise wrong(f"{error}; values stand apart by blanks, and one with a blank in quotes") from None
    for one in texts:
        check(action, one, wrong)
    return Given(action, words_of(action, texts), texts, name)


def check(action: argparse.Action, text: str, wrong: Callable[[str], UsageError]) -> None:
    """Has a flag's own type and choices read a value.

    Raises:
        UsageError: made by `wrong` of what is the matter.
    """
    if is_switch(action):
        if text not in SWITCHES:
            raise wrong(f"{flag_of(action)} is a switch; write true or false, not {text!r}")
        return
    value: object = text
    kind = action.type
    if kind is not None:
        try:
            value = kind(text)  # type: ignore[operator]
        except argparse.ArgumentTypeError as error:
            raise wrong(str(error)) from None
        except (TypeError, ValueError):
            name = {"int": "a whole number", "float": "a number"}.get(getattr(kind, "__name__", ""), "understood")
            raise wrong(f"{without_password(text)!r} is not {name}") from None
    if action.choices is not None and value not in action.choices:
        raise wrong(f"{text!r} is none of {', '.join(map(str, action.choices))}")


def words_of(action: argparse.Action, texts: Sequence[str]) -> tuple[str, ...]:
    """A flag and its values as they would be typed."""
    flag = flag_of(action)
    if is_switch(action):
        return (flag,) if SWITCHES[texts[0]] else ()
    if action.nargs in ("+", "*"):
        return (flag, *texts) if texts else ()
    return tuple(f"{flag}={text}" for text in texts)


def _located(action: argparse.Action, text: str, folder: str) -> str:
    """A path of a file as an absolute one; anything else as it is."""
    if action.metavar == "URL" and text.startswith("lmdb://") and not text.startswith("lmdb:///"):
        return f"lmdb://{os.path.join(folder, text.removeprefix('lmdb://'))}"
    if not is_path(action) or "://" in text or text.startswith("env:"):
        return text
    return os.path.normpath(os.path.join(folder, os.path.expanduser(text)))
