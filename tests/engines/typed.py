"""Blocks of commands on a page, typed as they stand: ours in this process, the others by a shell."""

import os
import re
import shlex
import subprocess
import sys

from pipelines.cli import main

MARK = re.compile(r"<!-- (run: (?P<by>\S+)|not run: [^>]+) -->\n```\n(?P<block>.*?)```", re.DOTALL)
RINGS = "# rings: exit code 1"


def marked_blocks(text: str) -> list[tuple[str | None, str]]:
    """(the test that types it, None where none does; the block) of every block that says so."""
    return [(found["by"], found["block"]) for found in MARK.finditer(text)]


def lines_of(block: str) -> list[str]:
    """Its commands, each on one line."""
    return re.sub(r"\\\n\s*", "", block).strip().splitlines()


def expanded(line: str) -> list[str]:
    """The words of a command, after what a shell makes of them."""
    done = subprocess.run(["bash", "-ec", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def type_line(line: str) -> int:
    """Types a line in the current folder, with the variables of this process; returns the exit code."""
    print(f"$ {line}", flush=True)
    command, _, _ = line.partition("   #")
    if command.startswith("pinnerformer ") and not re.search(r"[|<>;&]", command):
        return main(expanded(command)[1:])
    ours = shlex.quote(os.path.join(os.path.dirname(sys.executable), "pinnerformer"))
    return subprocess.run(["bash", "-ec", f'pinnerformer() {{ {ours} "$@"; }}\n{command}']).returncode


def type_block(block: str) -> None:
    """Types the lines of a block; each ends with the exit code that it says, or 0."""
    for line in lines_of(block):
        assert type_line(line) == (1 if line.endswith(RINGS) else 0), line
