"""The layers that a command's flags come from, far to near: a file, the environment, the command line.

Of the file: what stands at its top, for every command that has the flag in the same sense (`arguments.SHARED`); then
the command's section. Of the environment: PINNERFORMER_ROOT, then PINNERFORMER_DAILY_ROOT. The nearest that says
anything of a flag is taken, whole: lists are not added up. Nothing after the colon (`kv:`) takes back what a farther
layer says.
"""

import argparse
import dataclasses
import difflib
import itertools
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from pipelines.arguments import SHARED, Parser
from pipelines.configuration.values import (
    SWITCHES,
    Given,
    flag_of,
    from_environment,
    from_file,
    is_repeatable,
    is_switch,
)
from pipelines.configuration.yaml_file import FILE_NAME, ConfigFile, Entry, Value, read_config_file
from stores.errors import UsageError

PREFIX = "PINNERFORMER_"
BEAM = "beam"
NONE = "none"
ENV = "env:"
SECRET = re.compile("secret|password|token|access_key|connection_string")  # in the name of an option of Beam's
TYPED = "flag"  # where a value comes from that was typed
# What a night would do is asked with what the night is given.
SECTIONS_OF = {"plan": ("daily", "plan"), "check-inputs": ("daily", "check-inputs")}
SPELLED = {"actions": "action", "surfaces": "surface"}  # keys for `values:` of one column, as people say it
Layer = dict[str, Given]  # by the flag's dest


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags that a command has: its own, by name, and Beam's where it takes them.

    Attributes:
        sections: Of a file, that are read for it, far to near.
    """

    parser: Parser
    sections: tuple[str, ...]
    own: Mapping[str, argparse.Action]
    beam: Mapping[str, argparse.Action]

    @property
    def shared(self) -> list[str]:
        return [name for name in self.own if name in SHARED and name not in self.parser.own]


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A command's words, and where those come from that were not typed.

    Attributes:
        words: For the command's own parser: what the layers say, then what was typed.
        given: What is in force of what the layers say.
        typed: What was typed of flags that are known.
    """

    words: tuple[str, ...]
    given: tuple[Given, ...] = ()
    typed: tuple[Given, ...] = ()

    def notes(self, message: str) -> str:
        """Where flags stand that an error names, if they were not typed; empty if there is none."""
        found = [f"{flag_of(g.action)}: {g.origin}" for g in self.given if _names(message, flag_of(g.action))]
        return f" ({'; '.join(found)})" if found else ""


def _names(message: str, flag: str) -> bool:
    return re.search(rf"(?<![\w-]){flag}(?![\w-])", message) is not None


def flags_of(
    parser: Parser, command: str, file: ConfigFile | None, words: Sequence[str], environ: Mapping[str, str]
) -> Flags:
    """The flags that may stand in a file for a command; Beam's are looked at only where something asks for them."""
    own = {
        flag_of(action)[2:]: action
        for action in parser._actions
        if flag_of(action) not in ("", "--help", "--config") and action.help != argparse.SUPPRESS
    }
    sections = SECTIONS_OF.get(command, (command,))
    beam: dict[str, argparse.Action] = {}
    if parser.takes_beam and _asks_for_beam(parser, sections, file, words, environ):
        from pipelines.launch.beam_options import beam_actions  # imports Beam, which the command does anyway

        beam = {flag[2:]: action for flag, action in beam_actions().items() if flag.startswith("--")}
    return Flags(parser, sections, own, beam)


def _asks_for_beam(
    parser: Parser,
    sections: Sequence[str],
    file: ConfigFile | None,
    words: Sequence[str],
    environ: Mapping[str, str],
) -> bool:
    in_file = file is not None and any(
        entry.key == BEAM or (entry.key in sections and any(one.key == BEAM for one in entry.value.entries))
        for entry in file.entries
    )
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    prefixes = tuple(variable(*section, BEAM) for section in ((), *((one,) for one in sections)))
    named = any(name.startswith(prefixes) for name in environ)
    return in_file or named or not flags <= set(parser._option_string_actions)


def choose_file(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """The file to read, None for none; and the words without `--config`.

    Raises:
        UsageError: --config without a file after it.
    """
    path, words, rest = None, [], list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += [word, *rest]
            break
        if word == "--config":
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"--config: say which file, or {NONE} for none")
            path = rest.pop(0)
        elif word.startswith("--config="):
            path = word.partition("=")[2]
        else:
            words.append(word)
    path = path or environ.get(f"{PREFIX}CONFIG") or None
    if path is None and os.path.isfile(FILE_NAME):
        path = FILE_NAME
    return (None if path == NONE else path), words


def resolve(
    command: str,
    make_parser: Callable[[], Parser],
    argv: Sequence[str],
    commands: Collection[str],
    environ: Mapping[str, str],
) -> Resolved:
    """A command's words as they are in force.

    Args:
        make_parser: Makes the command's parser; asked only where a file or the environment may say something.
        argv: What was typed after the command's name.
        commands: Names of all commands, which a file may have sections for.

    Raises:
        UsageError: a file that cannot be read, an unknown key, a value of the wrong kind; names file, line and key.
    """
    path, words = choose_file(argv, environ)
    file = read_config_file(path) if path else None
    if file is None and not any(name.startswith(PREFIX) for name in environ) and not any(map(_sets_switch, words)):
        return Resolved(tuple(words))
    return combine(flags_of(make_parser(), command, file, words, environ), file, words, commands, environ)


def combine(
    flags: Flags, file: ConfigFile | None, words: Sequence[str], commands: Collection[str], environ: Mapping[str, str]
) -> Resolved:
    """As `resolve`, of a file that is read, and words without `--config`."""
    layers = [*(file_layers(file, flags, commands) if file else ()), *environment_layers(environ, flags)]
    typed, kept = read_typed(words, flags)
    given = [one for one in _merge(flags.parser, layers, typed).values() if one.texts]
    given = [_with_secrets(one, environ) if one.action not in flags.parser._actions else one for one in given]
    given.sort(key=lambda one: one.action.nargs not in ("+", "*"))  # the next flag ends a list of words
    said = [word for one in given for word in one.words]
    return Resolved((*said, *kept), tuple(given), tuple(typed.values()))


def _with_secrets(one: Given, environ: Mapping[str, str]) -> Given:
    """What is given of an option of Beam's, with `env:NAME` replaced in its words: Beam itself knows no such thing."""
    found = []
    for word in one.words:
        flag, _, value = word.partition("=")
        if value.startswith(ENV):
            name = value.removeprefix(ENV)
            if name not in environ:
                raise UsageError(f"{one.origin}: {flag}: there is no variable {name} in the environment")
            word = f"{flag}={environ[name]}"
        found.append(word)
    return dataclasses.replace(one, words=tuple(found))


def _sets_switch(word: str) -> bool:
    name, _, value = word.partition("=")
    return name.startswith("--") and value in SWITCHES


def read_typed(words: Sequence[str], flags: Flags) -> tuple[Layer, list[str]]:
    """What was typed of known flags; and the words, with `--quiet=true` as `--quiet` and without `--quiet=false`."""
    known = {f"--{name}": (f"{BEAM}.{action.dest}", action) for name, action in flags.beam.items()}
    known |= {name: (action.dest, action) for action in flags.parser._actions for name in action.option_strings}
    found: Layer = {}
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--" or name not in known:
            kept += [word, *rest] if word == "--" else [word]
            rest = [] if word == "--" else rest
            continue
        dest, action = known[name]
        if is_switch(action):
            off = value in SWITCHES and not SWITCHES[value]
            kept += [] if off else [name if value in SWITCHES else word]
            values = ["false" if off else "true"]
        else:
            values = [value] if equals else _values_after(action, rest)
            kept += [word] if equals else [word, *values]
            del rest[: 0 if equals else len(values)]
        before = found[dest].texts if dest in found and is_repeatable(action) else ()
        found[dest] = Given(action, (), (*before, *values), TYPED)
    return found, kept


def _values_after(action: argparse.Action, rest: Sequence[str]) -> list[str]:
    """The words after a flag that are its values."""
    most = len(rest) if action.nargs in ("+", "*") else 1
    return list(itertools.takewhile(lambda word: not word.startswith("--") or " " in word, rest[:most]))


def _merge(parser: Parser, layers: Sequence[Layer], typed: Layer) -> Layer:
    """The nearest of every flag that was not typed. Of flags that exclude each other, a nearer one puts the farther
    ones out; two in one layer are left for the parser to refuse."""
    merged: Layer = {}
    for layer in [*layers, typed]:
        for one in layer.values():
            # A flag that is taken back, or a switch that is off, puts nothing out.
            for other in _excluded_by(parser, one.action) if one.words or one.origin == TYPED else ():
                if other not in layer:
                    merged.pop(other, None)
        merged |= layer
    return {dest: one for dest, one in merged.items() if dest not in typed}


def _excluded_by(parser: Parser, action: argparse.Action) -> list[str]:
    return [
        other.dest
        for group in parser._mutually_exclusive_groups
        if action in group._group_actions
        for other in group._group_actions
        if other is not action
    ]


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
    if section.value.kind not in ("keys", "nothing"):
        raise UsageError(f"{file.at(section.line)}: {section.key}: a section of flags; write keys and values below it")
    for entry in map(_spelled_out, section.value.entries):
        if section.key == BEAM:
            _put_beam(layer, file, BEAM, entry, flags)
        elif entry.key == BEAM and flags.parser.takes_beam:
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
    """The flag that a key of a file means: its name, `_` for `-`, a repeatable one in the plural too."""
    name = key.replace("_", "-")
    if name in names:
        return name
    one = name.removesuffix("s")
    return one if one in names and (own is None or is_repeatable(own[one])) else None


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


def variable(*parts: str) -> str:
    """The name of a variable: `PINNERFORMER_DAILY_MIN_AGE` of daily and min-age."""
    return PREFIX + "_".join(part.replace("-", "_").upper() for part in parts)


def environment_layers(environ: Mapping[str, str], flags: Flags) -> list[Layer]:
    """What the environment says to a command; a variable that is empty says nothing.

    Raises:
        UsageError: a value of the wrong kind.
    """
    layers: list[Layer] = []
    for section in ((), *((one,) for one in flags.sections)):
        names = {variable(*section, name): flags.own[name] for name in (flags.own if section else flags.shared)}
        found = {
            action.dest: from_environment(name, environ[name], action)
            for name, action in names.items()
            if environ.get(name)
        }
        beam = {variable(*section, BEAM, name): action for name, action in flags.beam.items()}
        found |= {
            f"{BEAM}.{action.dest}": from_environment(name, environ[name], action)
            for name, action in beam.items()
            if environ.get(name)
        }
        layers.append(found)
    return layers
