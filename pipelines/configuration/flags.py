"""The flags of a command that may stand in a file or in the environment: its own, and Beam's where it takes them."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence

from pipelines.arguments import SHARED, Parser
from pipelines.configuration.values import Given, flag_of
from pipelines.configuration.yaml_file import ConfigFile

PREFIX = "PINNERFORMER_"
BEAM = "beam"
# What a night would do is asked with what the night is given.
SECTIONS_OF = {"plan": ("daily", "plan"), "check-inputs": ("daily", "check-inputs")}
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
        from pipelines.launch.loading import say_loading

        say_loading(command)
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


def variable(*parts: str) -> str:
    """The name of a variable: `PINNERFORMER_DAILY_MIN_AGE` of daily and min-age."""
    return PREFIX + "_".join(part.replace("-", "_").upper() for part in parts)
