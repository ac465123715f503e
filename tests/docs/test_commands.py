"""What the pages tell people to type: the commands and flags are there, and so is what make is asked for."""

import contextlib
import io
import re

import pytest

from pipelines.cli import COMMANDS, main
from tests.docs.test_prose import PAGES, read

# Beam's own, which pass through; those with an underscore in them are Beam's or torchrun's as well.
BEAM = {"--runner", "--parallelism", "--project", "--region"}


def shown_commands(text: str) -> set[tuple[str, str]]:
    """(command, flag) of every `pinnerformer COMMAND ... --flag` in code, across lines that go on."""
    code = [*re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)]
    code += re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL))
    found: set[tuple[str, str]] = set()
    for block in code:
        joined = re.sub(r"\\\n\s*|\n {12,}", " ", block)  # a line that goes on, in a shell and in a list of commands
        for line in joined.splitlines():
            line = line.partition(" # ")[0].partition(": ")[0]  # what it is followed by: a remark, or what it said
            for command, rest in re.findall(
                r"(?<!from )(?<!-n )(?<!namespace )(?<!/opt/)\bpinnerformer ([a-z][a-z-]*)(.*?)"
                r"(?=\bpinnerformer [a-z]|$)",
                line,
            ):
                found |= {(command, flag) for flag in ["", *re.findall(r"(?<![\w-])--[a-z][\w-]*", rest)]}
    return found


def help_of(command: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return said.getvalue()


@pytest.fixture(scope="module")
def shown() -> set[tuple[str, str]]:
    return {pair for page in PAGES for pair in shown_commands(read(page))}


def test_every_command_that_is_shown_is_there_and_every_command_is_shown(shown):
    assert {command for command, _ in shown} == set(COMMANDS)


def test_every_flag_that_is_shown_is_one_of_its_command(shown):
    unknown = []
    for command in sorted({command for command, flag in shown if flag}):
        known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_of(command)))
        flags = {flag for name, flag in shown if name == command and flag and "_" not in flag}
        unknown += [f"{command} {flag}" for flag in sorted(flags - known - BEAM)]
    assert not unknown


def test_every_target_of_make_that_is_shown_is_there():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    shown = {target for page in PAGES for target in re.findall(r"\bmake ((?:[a-z]+-)*[a-z]+)`", read(page))}
    assert len(shown) > 5 and not shown - targets


def test_what_is_found_in_code():
    text = (
        "```\n$ pinnerformer plan --a X \\\n    --b    # --c\npinnerformer plan   --d\n                 [--e N]\n```\n"
    )
    assert shown_commands(f"{text}and `pinnerformer gc --keep 7`, `--loose`") == {
        *(("plan", flag) for flag in ("", "--a", "--b", "--d", "--e")),
        ("gc", ""),
        ("gc", "--keep"),
    }
