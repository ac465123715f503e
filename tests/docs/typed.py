"""The lines that the pages have people type: where they stand, and what says that a test types them too.

A block of code whose lines are commands is typed by `test_typed.py`, as it stands there, in a small world; above one
that is not stands a comment, which a reader of the page does not see:

    <!-- run: tests/docs/test_own_data.py -->
    <!-- not run: needs a cluster -->
"""

import argparse
import dataclasses
import re
import shlex
import subprocess
from collections.abc import Iterator

from pipelines.configuration.parsers import parser_of
from stores.errors import UsageError
from tests.docs.test_prose import read

FENCE = re.compile(
    r"(?:^<!-- (?P<how>run|not run): (?P<why>[^>]*?) -->\n\s*)?^(?P<indent> *)```(?P<kind>\w*)\n(?P<body>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
KINDS = ("", "sh", "bash")
PROGRAMS = {"pinnerformer", "make", "python", "kubectl", "curl", "ln", "mount", "kill", "OMP_NUM_THREADS=1"}
CRON = re.compile(r"\d+ \d+ \* \* \*\s+\w+\s+")
# Beam's own, which pass through; the rest of them have an underscore.
BEAM = {"--runner", "--parallelism", "--project", "--region"}
STANDS_FOR = {
    r"\bIN\b": "--logs world/logs --pins world/pins --model model",
    r"\bKV\b|\$KV\b": "lmdb:///srv/kv",
    r"\$\([^)]*\)": "2026-11-23",
    r"(?<=[ =])DATE\b": "2026-11-23",
    r"\bFORMAT\b": "npy",
}


@dataclasses.dataclass(frozen=True)
class Typed:
    """One command, on one line, and the first line of what the page shows it to say that names an error of it."""

    line: str
    refused: bool = False

    @property
    def words(self) -> list[str]:
        """Its words, without what a shell does with its output, and without a remark."""
        line = re.sub(r"\\%", "%", self.line)
        for word, meant in STANDS_FOR.items():
            line = re.sub(word, meant, line)
        words = shlex.split(line, comments=True)
        ends = [n for n, word in enumerate(words) if word in (">", "|", "&", "&&", "<", ";")]
        return words[: ends[0]] if ends else words

    @property
    def program(self) -> str:
        return (self.words or [""])[0].rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Block:
    """The commands of one block of code.

    Attributes:
        page, line: Where it begins.
        how: "run" with the test that types it, "not run" with the reason, or "" where `test_typed.py` does.
        why: The test, or the reason.
        commands: In order.
    """

    page: str
    line: int
    how: str
    why: str
    commands: tuple[Typed, ...]

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Those with commands that people type."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [page for page in listed if page.startswith(("docs/", "deploy/", "examples/", "README", "CONTRIBUTING"))]


def blocks_of(text: str, page: str) -> Iterator[Block]:
    """The blocks of a page that hold commands."""
    for found in FENCE.finditer(text):
        commands = tuple(commands_of(found["body"])) if found["kind"] in KINDS else ()
        if commands:
            line = text.count("\n", 0, found.start("body")) + 1
            yield Block(page, line, found["how"] or "", " ".join((found["why"] or "").split()), commands)


def commands_of(body: str) -> Iterator[Typed]:
    """The commands of a block: after `$ ` where it shows what they say, else its lines that begin with a program."""
    lines = re.sub(r" *\\\n\s*", " ", body).splitlines()
    shown = any(line.startswith("$ ") for line in lines)
    for number, line in enumerate(lines):
        text = line.strip()
        if shown and line.startswith("$ "):
            said = lines[number + 1 : next((n for n in range(number + 1, len(lines)) if lines[n][:2] == "$ "), None)]
            name = line.removeprefix("$ ").split()[1] if len(line.split()) > 2 else ""
            yield Typed(line[2:], any(text.startswith(f"pinnerformer {name}: ") for text in said))
        elif not shown and CRON.match(text):
            yield from (Typed(part) for part in CRON.sub("", text).split(" && ") if not part.startswith("cd "))
        elif not shown and begins_with_a_program(text):
            yield Typed(text)


def begins_with_a_program(line: str) -> bool:
    """Whether a line is a command; one of what a command says begins with its name and a colon."""
    first, _, rest = line.partition(" ")
    name = first.rpartition("/")[2]
    said = re.match(r"[\w-]+: ", rest) if name == "pinnerformer" else None
    return name in PROGRAMS and said is None


def fault_of(command: Typed, form: bool = False) -> str:
    """What the command's own parser says of it, "" where it takes it; of other programs that they are there.

    Args:
        form: The line says what may be typed (`[--json]`, `bash|zsh`): it has the flags that it names.
    """
    words = command.words
    program = command.program
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
        asked = [word for word in words[1:] if "=" not in word]
        return "" if set(asked) <= set(targets) else f"make has no {asked}"
    if program in ("python", "OMP_NUM_THREADS=1"):
        return _fault_of_python(words[words.index("-m") + 1 :])
    if "pinnerformer" not in program:
        return ""
    return _fault_of_ours(words[1:], form or "..." in words)


def _fault_of_python(words: list[str]) -> str:
    if words[0] == "pytest":
        paths = [word for word in words[1:] if word.startswith("tests")]
        return "" if paths and all(re.fullmatch(r"tests/[\w/.]+", path) for path in paths) else f"what of {words}?"
    source = read(f"{words[0].replace('.', '/')}.py")
    own = words[: words.index("--")] if "--" in words else words
    unknown = [word for word in own[1:] if word.startswith("--") and f'"{word.partition("=")[0]}"' not in source]
    return f"{words[0]} has no {unknown}" if unknown and unknown != ["--help"] else ""


def _fault_of_ours(words: list[str], form: bool) -> str:
    name, rest = words[0], words[1:]
    try:
        parser = parser_of(name)
        if form:
            flags = [word.strip("[]()|") for word in rest if word.strip("[]()|").startswith("--")]
            parser.refuse_unknown([flag for flag in flags if "_" not in flag], BEAM if parser.takes_beam else ())
            return ""
        if name == "config":  # whose words are those of another command
            return _fault_of_ours(rest, form=True) if rest else ""
        parser.refuse_unknown([word for word in rest if "_" not in word], BEAM if parser.takes_beam else ())
        _, left = argparse.ArgumentParser.parse_known_args(parser, rest)
    except UsageError as error:
        return str(error)
    flags = [word.partition("=")[0] for word in left if word.startswith("--")]
    unknown = [flag for flag in flags if not parser.takes_beam or not ("_" in flag or flag in BEAM)]
    return f"no flag {unknown} of {name}" if unknown else ""
