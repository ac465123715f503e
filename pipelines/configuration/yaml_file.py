"""`pinnerformer.yaml`, read as what is written: every key and value with its line.

PyYAML composes the file into nodes and constructs nothing: a value stays the text that stands there, as it would stand
on a command line, and the flag it is for reads it. So `no` and `on` are words, `0640` keeps its zero, a date is
not made an object and made text again; and a key that stands twice is seen.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any

from stores.errors import UsageError
from stores.kv_urls import without_password

if TYPE_CHECKING:
    import yaml

FILE_NAME = "pinnerformer.yaml"
MAX_BYTES = 1 << 20
_TAG = "tag:yaml.org,2002:"


@dataclasses.dataclass(frozen=True)
class Value:
    """What stands after a key.

    Attributes:
        kind: `text`, `nothing` (`~`, `null` or empty), `list` or `keys`.
        text: Of `text`, as it stands there.
        items: Of a `list`: values of kind `text`.
        entries: Of `keys`.
        line: From 1 on.
    """

    kind: str
    line: int
    text: str = ""
    items: tuple[Value, ...] = ()
    entries: tuple[Entry, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A key, its value, and the line of the key, from 1 on."""

    key: str
    value: Value
    line: int


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """A file of flags.

    Attributes:
        path: As it was named; what messages say.
        folder: Absolute; what paths in the file are relative to.
    """

    path: str
    folder: str
    entries: tuple[Entry, ...]

    def at(self, line: int) -> str:
        """A place in the file, for messages."""
        return f"{self.path}:{line}"


def read_config_file(path: str) -> ConfigFile:
    """Reads a file; nothing is known yet of which keys there may be.

    Raises:
        UsageError: it cannot be read, is no YAML of keys and values, has a key twice in one place or a password in it;
            names the line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; `pinnerformer init` writes such a file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no text in UTF-8: {error}") from None
    if len(text) > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES >> 20} MiB; a file of flags is small, name another")
    return parse_config_text(text, path)


def parse_config_text(text: str, path: str) -> ConfigFile:
    """As `read_config_file`, of a text that lies in a file, or will."""
    node = _compose(text, path)
    entries = _entries(path, node) if node is not None else ()
    return ConfigFile(path, os.path.dirname(os.path.abspath(path)), entries)


def _compose(text: str, path: str) -> yaml.Node | None:
    import yaml  # only where there is a file

    # libyaml where PyYAML was built with it: ten times as fast; the nodes are the same.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: no YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: no YAML: {str(error) or type(error).__name__}") from None


def _entries(path: str, node: Any) -> tuple[Entry, ...]:
    if _kind(path, node) == "nothing":
        return ()
    if _kind(path, node) != "keys":
        raise UsageError(f"{path}:{_line(node)}: expected keys and values, `root: /srv/root`, found a {node.id}")
    found: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if key_node.id != "scalar":
            raise UsageError(f"{path}:{line}: a key is a word, not a {key_node.id}")
        key = key_node.value
        if key in found:
            raise UsageError(f"{path}:{line}: {key}: stands in line {found[key].line} already; keep one of them")
        found[key] = Entry(key, _value(path, key, value_node, depth=0), line)
    return tuple(found.values())


def _value(path: str, key: str, node: Any, depth: int) -> Value:
    kind, line = _kind(path, node), _line(node)
    # Sections, keys, keys of a mapping, its values: nothing is deeper, and an alias may point to itself.
    if depth > 4:
        raise UsageError(f"{path}:{line}: {key}: too deep; a section has keys, and a key a value, a list or a mapping")
    deeper = functools.partial(_value, path, key, depth=depth + 1)
    if kind == "text":
        if without_password(node.value) != node.value:
            raise UsageError(
                f"{path}:{line}: {key}: a password stands in the file; write env:NAME, and put the whole value into "
                "the environment variable NAME"
            )
        return Value(kind, line, text=node.value)
    if kind == "list":
        items = tuple(deeper(item) for item in node.value)
        for item in items:
            if item.kind != "text":
                raise UsageError(f"{path}:{item.line}: {key}: a list is of values, found {_said(item.kind)} in it")
        return Value(kind, line, items=items)
    if kind == "keys":
        found: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            if key_node.id != "scalar":
                raise UsageError(f"{path}:{_line(key_node)}: {key}: a key is a word, not a {key_node.id}")
            name = key_node.value
            if name in found:
                raise UsageError(
                    f"{path}:{_line(key_node)}: {key}: {name} stands in line {found[name].line} already; keep one"
                )
            found[name] = Entry(name, _value(path, f"{key}.{name}", value_node, depth + 1), _line(key_node))
        return Value(kind, line, entries=tuple(found.values()))
    return Value(kind, line)


def _said(kind: str) -> str:
    return {"nothing": "nothing", "list": "a list", "keys": "keys and values", "text": "a value"}[kind]


def _line(node: Any) -> int:
    return node.start_mark.line + 1


def _kind(path: str, node: Any) -> str:
    if not node.tag.startswith(_TAG) or node.tag.startswith(f"{_TAG}python/"):
        raise UsageError(f"{path}:{_line(node)}: {node.tag}: no tags here; write the value itself, or env:NAME")
    if node.id == "scalar":
        return "nothing" if node.tag == f"{_TAG}null" else "text"
    return "list" if node.id == "sequence" else "keys"
