"""`pinnerformer completion`: what a shell completes commands and flags with, made of the commands' own parsers."""

import argparse
import dataclasses

from pipelines.arguments import Parser, help_with_default
from pipelines.configuration.parsers import all_parsers
from pipelines.configuration.values import is_path
from stores.errors import UsageError

SHELLS = ("bash", "zsh")

DESCRIPTION = """\
Prints a script that completes the commands of pinnerformer, their flags, and files where a flag names one. Flags that
Beam takes are not among them.
"""

EPILOG = """\
examples:
  pinnerformer completion bash > ~/.local/share/bash-completion/completions/pinnerformer
  pinnerformer completion zsh > ~/.zfunc/_pinnerformer       # and in ~/.zshrc: fpath+=~/.zfunc; compinit
"""


@dataclasses.dataclass(frozen=True)
class CompletionRequest:
    """What `pinnerformer completion` is asked for: the shell, one of `SHELLS`."""

    shell: str


def make_parser() -> Parser:
    """The flags of `pinnerformer completion`."""
    parser = Parser(prog="pinnerformer completion", description=DESCRIPTION, epilog=EPILOG, configurable=False)
    parser.add_argument("shell", choices=SHELLS, help="whose script")
    return parser


def parse(argv: list[str]) -> CompletionRequest:
    """Reads the flags of `pinnerformer completion`.

    Raises:
        UsageError: with the line to show.
    """
    return CompletionRequest(make_parser().parse_args(argv).shell)


def whole_parser() -> argparse.ArgumentParser:
    """One parser with a subcommand for every command, as a generator of completions wants it."""
    import shtab  # only here: nothing else completes

    from pipelines.cli import COMMANDS

    whole = argparse.ArgumentParser(prog="pinnerformer", formatter_class=argparse.RawDescriptionHelpFormatter)
    whole.add_argument("--version", action="store_true", help="which version this is")
    commands = whole.add_subparsers(dest="command")
    for name, parser in all_parsers().items():
        line = COMMANDS[name][1]
        # With its own arguments already in it, a parser can only be put where argparse would put the one it makes.
        commands.add_parser(name, help=line, add_help=False)
        commands.choices[name] = parser
        parser.description = line
        for action in parser._actions:
            action.help = help_with_default(action)
            if is_path(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    Raises:
        UsageError: the package that writes such scripts is not installed.
    """
    request = parse(argv)
    try:
        import shtab
    except ImportError:
        raise UsageError("the package shtab is not installed: pip install shtab") from None
    print(shtab.complete(whole_parser(), request.shell))
    return 0
