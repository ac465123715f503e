"""`pinnerformer config`: what is in force for a command, and where each value comes from."""

import argparse
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

from pipelines.arguments import SHARED, Parser, add_json, help_with_default
from pipelines.cli import printable
from pipelines.configuration.flags import BEAM, PREFIX, flags_of, variable
from pipelines.configuration.layers import OTHER_VARIABLES, choose_file, combine
from pipelines.configuration.parsers import all_parsers, configured_commands, parser_of
from pipelines.configuration.sections import ENV, SECRET, file_layers
from pipelines.configuration.values import Given, flag_of, is_switch
from pipelines.configuration.yaml_file import FILE_NAME, ConfigFile, read_config_file
from pipelines.operations.figures import as_json
from pipelines.telemetry.lines import say
from pipelines.telemetry.webhook import shown
from stores.kv_urls import without_password

DESCRIPTION = """\
Prints every flag of a command, the value that it has in force, and where that comes from: a line of the file, a
variable of the environment, the command line, or the command's default. Nothing is run. Passwords are not shown.

Without a command: checks the whole file, every section against the flags of its command, and lists what it says.
"""

EPILOG = """\
examples:
  pinnerformer config                              # is all of pinnerformer.yaml understood?
  pinnerformer config daily --date yesterday       # what would this night be given?
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One flag in force: its name, its value as it may be shown, and where that comes from."""

    flag: str
    value: str
    origin: str


@dataclasses.dataclass(frozen=True)
class ConfigRequest:
    """What `pinnerformer config` is asked for.

    Attributes:
        command: Whose flags; None: what the file says to all.
        words: Typed after the command, `--config` among them wherever it was typed.
        only_set: Leave out what is at its default.
    """

    command: str | None
    words: tuple[str, ...]
    only_set: bool
    as_json: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer config` itself, which stand before the command."""
    parser = Parser(
        prog="pinnerformer config",
        usage="pinnerformer config [-h] [--config FILE] [--set] [--json] [COMMAND [flags of COMMAND]]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("--set", action="store_true", help="leave out what is at its default")
    add_json(parser)
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="whose flags")
    return parser


def parse(argv: list[str]) -> ConfigRequest:
    """Reads the flags of `pinnerformer config`.

    Raises:
        UsageError: with the line to show.
    """
    place = _place_of_command(argv)
    found = make_parser().parse_args(argv[: place + 1])
    file = [] if found.config is None else [f"--config={found.config}"]
    return ConfigRequest(found.command, (*file, *argv[place + 1 :]), found.set, found.json)


def _place_of_command(argv: Sequence[str]) -> int:
    """The place of the first word that is neither a flag nor the file after --config."""
    for place, word in enumerate(argv):
        if not word.startswith("-") and (place == 0 or argv[place - 1] != "--config"):
            return place
    return len(argv)


def rows_of(command: str, argv: Sequence[str], environ: Mapping[str, str]) -> list[Row]:
    """Every flag of a command, its own in the order of its help, then Beam's that are given.

    Raises:
        UsageError: as the command would.
    """
    path, words = choose_file(argv, environ)
    file = read_config_file(path) if path else None
    flags = flags_of(parser_of(command), command, file, words, environ)
    flags.parser.refuse_unknown(words, [f"--{name}" for name in flags.beam])
    resolved = combine(flags, file, words, configured_commands(), environ)
    said = {id(one.action): one for one in (*resolved.given, *resolved.typed)}
    rows = [_row(action, said.pop(id(action), None)) for action in flags.own.values()]
    return rows + [_row(one.action, one) for one in said.values() if flag_of(one.action) not in ("--help", "--config")]


def _row(action: argparse.Action, one: Given | None) -> Row:
    if one is not None:
        return Row(flag_of(action), " ".join(_shown(action, text) for text in one.texts), one.origin)
    if action.required:
        return Row(flag_of(action), "", "missing")
    return Row(flag_of(action), default_of(action), "default")


def _shown(action: argparse.Action, text: str) -> str:
    """A value without the secret in it, or that it is."""
    if SECRET.search(flag_of(action)) and not text.startswith(ENV):
        return "***"
    if flag_of(action) == "--notify":
        return shown(text)
    return without_password(text)


def default_of(action: argparse.Action) -> str:
    """A flag's default as its help says it; of a switch, `false`."""
    if is_switch(action):
        return "false"
    said = re.search(r"\(default (.*)\)", help_with_default(action) or "")
    return said[1] % {"default": action.default} if said else ""


def check_file(file: ConfigFile, environ: Mapping[str, str]) -> list[Row]:
    """Every value of a file, read by every command that it is for.

    Raises:
        UsageError: the first that is not understood.
    """
    found: dict[tuple[str, str], tuple[Given, list[str]]] = {}
    for command in configured_commands():
        flags = flags_of(all_parsers()[command], command, file, [], environ)
        for layer in file_layers(file, flags, configured_commands()):
            for one in layer.values():
                found.setdefault((one.origin, flag_of(one.action)), (one, []))[1].append(command)
    return [
        Row(flag_of(one.action), " ".join(one.texts) or "(taken back)", f"{origin} for {_list(commands)}")
        for (origin, _), (one, commands) in found.items()
    ]


def _list(commands: Sequence[str]) -> str:
    return ", ".join(commands) if len(commands) < 4 else f"{len(commands)} commands"


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like ours and that no command reads; others' may be among them, so they are only said."""
    known = set(OTHER_VARIABLES)
    for command, parser in all_parsers().items():
        names = [flag[2:] for flag in parser._option_string_actions if flag.startswith("--")]
        known |= {variable(command, name) for name in names} | {variable(name) for name in names if name in SHARED}
    begins = (variable(BEAM), *(variable(command, BEAM) for command in all_parsers()))
    return sorted(
        name for name in environ if name.startswith(PREFIX) and name not in known and not name.startswith(begins)
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request, environ = parse(argv), os.environ
    path, _ = choose_file(request.words, environ)
    if request.command is None:
        rows = check_file(read_config_file(path), environ) if path else []
    else:
        rows = rows_of(request.command, request.words, environ)
    if request.only_set:
        rows = [row for row in rows if row.origin != "default"]
    if request.as_json:
        print(as_json({"file": path, "flags": [dataclasses.asdict(row) for row in rows]}))
        return 0
    print(f"file {path}" if path else f"no file: there is no {FILE_NAME} here, or --config none was said")
    widths = [max((len(getattr(row, name)) for row in rows), default=0) for name in ("flag", "value")]
    for row in rows:
        print(f"{row.flag:<{widths[0]}}  {printable(row.value):<{min(widths[1], 60)}}  {row.origin}".rstrip())
    for name in unknown_variables(environ):
        say(f"{name}: in the environment, and no flag of any command")
    return 0
