"""The parser that all commands share: what it says of flags that nobody knows, and the flags that several have."""

import argparse
import datetime
import re

import pytest

from pipelines import arguments
from pipelines.arguments import (
    Parser,
    clock_skew,
    date,
    help_with_default,
    night,
    positive,
    seconds,
    share,
    utc_offset,
)
from pipelines.cli import COMMANDS, main
from pipelines.configuration.parsers import parser_of
from pipelines.launch.beam_options import parse_flags
from stores.errors import UsageError


def make_parser() -> Parser:
    parser = Parser(prog="pinnerformer test")
    arguments.add_root(parser)
    arguments.add_store(parser)
    parser.add_argument("--reason")
    parser.add_argument("--old-name", help=argparse.SUPPRESS)
    return parser


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rot=x"], "unknown flag --rot; did you mean --root? See pinnerformer test --help"),
        (["--root", "x", "--namespaces", "y"], "unknown flag --namespaces; did you mean --namespace? See"),
        (["--entirely-else"], "unknown flag --entirely-else; see pinnerformer test --help"),
        (["--old-nam=1"], "unknown flag --old-nam; see pinnerformer test --help"),  # what is hidden is not offered
        ([], "the following arguments are required: --root; see pinnerformer test --help"),
        (["--root=x", "word"], "unrecognized arguments: word; see pinnerformer test --help"),
    ],
)
def test_an_unknown_flag_is_named_before_a_missing_one(words, said):
    with pytest.raises(UsageError) as caught:
        make_parser().parse_args(words)
    assert str(caught.value).startswith(said)


def test_a_value_may_look_like_a_flag_where_argparse_takes_it():
    assert make_parser().parse_args(["--root=x", "--reason", "--so be it"]).reason == "--so be it"
    assert make_parser().parse_args(["--root=x", "--reason=--odd"]).reason == "--odd"


def test_flags_of_beam_are_known_and_others_are_not():
    found, beam = parse_flags(make_parser(), ["--root=x", "--direct_num_workers", "3"])
    assert (found.root, beam.get_all_options()["direct_num_workers"]) == ("x", 3)
    for words in (["--direct_num_worker=3"], ["--root=x", "--direct_num_worker", "3"]):
        with pytest.raises(UsageError, match="unknown flag --direct_num_worker; did you mean --direct_num_workers?"):
            parse_flags(make_parser(), words)
    with pytest.raises(UsageError, match="unknown flag --rot; did you mean --root?"):
        parse_flags(make_parser(), ["--rot=x"])
    with pytest.raises(UsageError, match="unexpected argument 'word'"):
        parse_flags(make_parser(), ["--root=x", "word"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_every_command_has_a_help_line(command, monkeypatch, capsys):
    made: list[Parser] = []
    initialise = Parser.__init__

    def remember(self, *args, **kwargs):
        made.append(self)
        initialise(self, *args, **kwargs)

    monkeypatch.setattr(Parser, "__init__", remember)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and f"pinnerformer {command}" in capsys.readouterr().out
    (parser,) = made
    assert parser.description
    assert [action.option_strings for action in parser._actions if not action.help] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_shown_in_one_form(command, monkeypatch):
    """Of every flag that takes a value and may be left out, once; and of no other."""
    monkeypatch.setenv("COLUMNS", "300")
    parser = parser_of(command)
    shown = " ".join(parser.format_help().split())
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or not action.option_strings:
            continue
        said = (help_with_default(action) or "") % vars(action)
        may_be_left_out = not action.required and action.nargs != 0
        assert bool(re.search(r" \(default [^()]+\)", said)) == may_be_left_out, (action.option_strings, said)
        assert said.count("(default") == may_be_left_out and " ".join(said.split()) in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_flag_that_it_does_not_have(command, capsys):
    assert main([command, "--no-such-flag-anywhere=1"]) == 2
    assert capsys.readouterr().err.startswith(f"pinnerformer {command}: unknown flag --no-such-flag-anywhere; ")


def test_values():
    assert date("2026-11-24") == datetime.date(2026, 11, 24)
    assert [seconds(text) for text in ("90s", "1.5m", "30h", "2d")] == [90.0, 90.0, 108_000.0, 172_800.0]
    assert (positive("3"), share("0"), share("0.25")) == (3, 0.0, 0.25)
    for read, text in ((date, "2026-11-31"), (seconds, "90"), (positive, "0"), (share, "1"), (share, "x")):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            read(text)


def refused(read, text: str) -> bool:
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)
    return True


def test_a_night_may_be_called_yesterday():
    before = datetime.datetime.now(datetime.UTC).date()
    found = night("yesterday")
    after = datetime.datetime.now(datetime.UTC).date()
    assert found + datetime.timedelta(1) in (before, after) and night("2026-11-24") == datetime.date(2026, 11, 24)
    assert refused(night, "Yesterday") and refused(night, "2026-11-31") and refused(date, "yesterday")


def test_clock_skew():
    assert [clock_skew(text) for text in ("0", "300", "90s", "5m", "1h")] == [0, 300, 90, 300, 3600]
    assert all(refused(clock_skew, text) for text in ("", "-5", "1.5", "0.5s", "1d", "86400", "5 m", "1e3"))


def test_utc_offset():
    hours = {"0": 0, "-8": -8, "+9": 9, "-8h": -8, "5.5": 5.5, "-03:30": -3.5, "+05:45": 5.75, "14": 14, "-0": 0}
    assert {text: utc_offset(text) for text in hours} == {text: value * 3600 for text, value in hours.items()}
    assert all(refused(utc_offset, text) for text in ("", "15", "-14:30", "UTC-8", "8:5", "5.001", "America", "--8"))
