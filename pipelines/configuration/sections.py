"""What a file of flags says to a command: what stands at its top, in Beam's section, in the command's own."""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Collection, Mapping, Sequence

from pipelines.arguments import SHARED
from pipelines.configuration.flags import BEAM, Flags, Layer
from pipelines.configuration.values import from_file, is_repeatable
from pipelines.configuration.yaml_file import ConfigFile, Entry, Value
from stores.errors import UsageError

ENV = "env:"
SECRET = re.compile("secret|password|token|access_key|connection_string")  # in the name of an option of Beam's
PLURAL = frozenset(
    {"kv", "column", "absent", "value", "notify"}
)  # of what is shared, what some command takes several of
SPELLED = {"actions": "action", "surfaces": "surface"}  # keys for `values:` of one column, as people say it


def file_layers(file: ConfigFile, flags: Flags, commands: Collection[str]) -> list[Layer]:
    """What a file says to a command: at its top, in Beam's section, in the command's own.

    Raises:
        UsageError: an unknown key, a value of the wrong kind.
    """
    top: Layer = {}
    layers = [top]
    sections = {entry.key: entry for entry in file.entries if entry.key in commands or entry.key == BEAM}
    for entry in map(_spelled_out, file.entries):
        if entry.key in sections:
            continue
        name = find_key(entry.key, flags.own, flags.shared)
        if name is not None:
            _put(top, file, "", name, entry, flags.own[name])
        elif find_key(entry.key, None, SHARED - set(flags.shared)) is None:
            raise UsageError(f"{file.at(entry.line)}: {_unknown_at_top(entry.key, flags, commands)}")
    for section in (BEAM, *flags.sections):
        if section in sections:
            layers.append(_section_layer(file, flags, sections[section]))
    return layers


def _section_layer(file: ConfigFile, flags: Flags, section: Entry) -> Layer:
    layer: Layer = {}
    _check_section(file, section.key, section)
    for entry in map(_spelled_out, section.value.entries):
        if section.key == BEAM:
            _put_beam(layer, file, BEAM, entry, flags)
        elif entry.key == BEAM and flags.parser.takes_beam:
            _check_section(file, f"{section.key}.{BEAM}", entry)
            for one in entry.value.entries:
                _put_beam(layer, file, f"{section.key}.{BEAM}", one, flags)
        else:
            name = find_key(entry.key, flags.own, list(flags.own))
            if name is None:
                # `plan` is asked with the flags of `daily`, of which it has all.
                known = [*flags.own, *([BEAM] if flags.parser.takes_beam else [])]
                what = f"no flag --{entry.key} of pinnerformer {section.key}"
                raise UsageError(
                    f"{file.at(entry.line)}: {section.key}.{entry.key}: {what}; {_nearest(entry.key, known)}"
                )
            _put(layer, file, section.key, name, entry, flags.own[name])
    return layer


def _check_section(file: ConfigFile, name: str, section: Entry) -> None:
    if section.value.kind not in ("keys", "nothing"):
        raise UsageError(f"{file.at(section.line)}: {name}: a section of flags; write keys and values below it")


def _spelled_out(entry: Entry) -> Entry:
    """`actions: {purchase: buy}` as `values: {action: {purchase: buy}}`; anything else as it is."""
    if entry.key not in SPELLED:
        return entry
    column = Entry(SPELLED[entry.key], entry.value, entry.line)
    return Entry("values", Value("keys", entry.line, entries=(column,)), entry.line)


def _put(layer: Layer, file: ConfigFile, section: str, name: str, entry: Entry, action: argparse.Action) -> None:
    one, before = from_file(file, section, entry, action), layer.get(action.dest)
    if before is not None and name != "value":  # `actions:` and `surfaces:` say each their part of it
        raise UsageError(
            f"{file.at(entry.line)}: {entry.key}: is --{name}, which {before.origin} gives already; keep one of them"
        )
    if before is not None:
        one = dataclasses.replace(one, words=(*before.words, *one.words), texts=(*before.texts, *one.texts))
    layer[action.dest] = one


def _put_beam(layer: Layer, file: ConfigFile, section: str, entry: Entry, flags: Flags) -> None:
    if not flags.parser.takes_beam:
        return  # of commands that run no pipeline, Beam is not loaded: whoever runs one checks the section
    action = flags.beam.get(entry.key)
    if action is None:
        near = _nearest(entry.key, list(flags.beam))
        raise UsageError(f"{file.at(entry.line)}: {section}.{entry.key}: Beam has no option --{entry.key}; {near}")
    one = from_file(file, section, entry, action)
    if SECRET.search(entry.key) and not all(text.startswith(ENV) for text in one.texts):
        where = f"{file.at(entry.line)}: {section}.{entry.key}"
        raise UsageError(f"{where}: a secret stands in the file; write {ENV}NAME, and put it into the variable NAME")
    layer[f"{BEAM}.{action.dest}"] = one


def find_key(key: str, own: Mapping[str, argparse.Action] | None, names: Collection[str]) -> str | None:
    """The flag that a key of a file means: its name, `_` for `-`, a repeatable one in the plural too.

    Args:
        own: The command's flags; None where it does not have this one, and others do.
        names: Of the flags that may be meant.
    """
    name = key.replace("_", "-")
    if name in names:
        return name
    one = name.removesuffix("s")
    return one if one in names and (one in PLURAL if own is None else is_repeatable(own[one])) else None


def _nearest(key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, names, n=1) or difflib.get_close_matches(key.replace("_", "-"), names, n=1)
    return f"did you mean {near[0]}?" if near else "see the command's --help"


def _unknown_at_top(key: str, flags: Flags, commands: Collection[str]) -> str:
    """What to say of a key at the top that no command shares."""
    from pipelines.configuration.parsers import commands_with  # loads the parsers of all commands

    having = commands_with(key.replace("_", "-"))
    if having:
        where = f"`{having[0]}:`" if len(having) == 1 else f"the section of a command ({', '.join(having)})"
        return f"{key}: not shared by all commands that have it; put it below {where}"
    names = [*sorted(SHARED), *commands, BEAM]
    near = difflib.get_close_matches(key, names, n=1) or difflib.get_close_matches(key.replace("_", "-"), names, n=1)
    return f"{key}: unknown key; " + (
        f"did you mean {near[0]}?" if near else "at the top stand flags that commands share, sections and beam"
    )
