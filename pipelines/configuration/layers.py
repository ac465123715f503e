"""The layers that a command's flags come from, far to near: a file, the environment, the command line.

Of the file: what stands at its top, for every command that has the flag in the same sense (`arguments.SHARED`); then
the command's section. Of the environment: PINNERFORMER_ROOT, then PINNERFORMER_DAILY_ROOT. The nearest that says
anything of a flag is taken, whole: lists are not added up. Nothing after the colon (`kv:`) takes back what a farther
layer says.
"""

import argparse
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from pipelines.arguments import SHARED, Parser
from pipelines.configuration.flags import BEAM, PREFIX, SECTIONS_OF, Flags, Layer, flags_of, variable
from pipelines.configuration.sections import ENV, file_layers
from pipelines.configuration.values import SWITCHES, Given, flag_of, from_environment, is_repeatable, is_switch
from pipelines.configuration.yaml_file import FILE_NAME, ConfigFile, read_config_file
from stores.errors import UsageError

NONE = "none"
TYPED = "flag"  # where a value comes from that was typed
# Of the environment, what is no flag: which file, caches, traces, and what the template for Airflow reads.
OTHER_VARIABLES = frozenset(variable(name) for name in ("config", "cache", "debug", "command", "flags"))


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
    path = path or environ.get(variable("config")) or None
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
    named = any(name.startswith(PREFIX) and name not in OTHER_VARIABLES for name in environ)
    if file is None and not named and not any(map(_sets_switch, words)):
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


def without_flags(environ: Mapping[str, str], command: str) -> dict[str, str]:
    """An environment for a process that is given all flags of a command as words: nothing adds to them."""
    shared = {variable(name) for name in SHARED}
    own = (f"{variable(BEAM)}_", *(f"{variable(section)}_" for section in SECTIONS_OF.get(command, (command,))))
    rest = {name: value for name, value in environ.items() if name not in shared and not name.startswith(own)}
    return {**rest, variable("config"): NONE}


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
