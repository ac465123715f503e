"""The console script: what it says of itself, that looking at a root does not wait for Beam and torch, and `| head`."""

import os
import shutil
import subprocess
import sys

import pytest

from pipelines import cli
from pipelines.cli import COMMANDS, READER_GONE, main
from tests.old_roots import OLD_ROOTS


def test_the_list_of_commands_is_the_list_of_commands(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize("module", ["retrieve", "status", "gc"])
def test_commands_that_only_look_start_without_beam_and_torch(module):
    code = (
        f"import sys, pipelines.operations.{module}; print([m for m in ('apache_beam', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.fixture
def closed():
    """The end to write to of a pipe whose other end is closed."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


STATUS = ["status", f"--root={OLD_ROOTS}/v1/root"]


@pytest.mark.parametrize("arguments", [["-h"], ["status", "-h"], STATUS, [*STATUS, "--json"]])
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_has_gone_is_no_failure_to_tell_of(arguments, unbuffered, closed):
    """`pinnerformer status --json | head -1`, in a process of its own: the interpreter flushes once more at its end."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.stderr == "" and done.returncode in (READER_GONE, 0)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("command", ["gc", "retrieve", "nonsense"])
def test_so_it_is_for_every_command_that_prints(command, stream, closed, tmp_path, monkeypatch):
    root, kv = f"{tmp_path}/root", f"--kv=lmdb://{tmp_path}/kv"
    shutil.copytree(f"{OLD_ROOTS}/v1/root", root)
    arguments = {
        "gc": ["gc", f"--root={root}", "--dry-run"],
        "retrieve": ["retrieve", f"--root={root}", kv, "--user=1"],  # nothing is published: an error, on stderr
        "nonsense": ["nonsense"],
    }[command]
    monkeypatch.setattr(sys, stream, os.fdopen(os.dup(closed), "w", buffering=1))
    code = main(arguments)
    printed = {"gc": "stdout", "retrieve": "stderr", "nonsense": "stderr"}[command]
    assert code == (READER_GONE if stream == printed else {"gc": 0, "retrieve": 1, "nonsense": 2}[command])
    getattr(sys, stream).close()  # what was left in it has gone nowhere


def test_another_pipe_that_breaks_is_an_error(monkeypatch):
    def broken(_):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr(cli, "run_command", broken)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        main([])
