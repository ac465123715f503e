"""The console script: what it says of itself, and that looking at a root does not wait for Beam and torch."""

import subprocess
import sys

import pytest

from pipelines.cli import COMMANDS, main


def test_the_list_of_commands_is_the_list_of_commands(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize("module", ["retrieve", "status", "gc"])
def test_commands_that_only_look_start_without_beam_and_torch(module):
    code = f"import sys, pipelines.{module}; print([m for m in ('apache_beam', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
