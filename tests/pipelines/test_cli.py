"""The console script: what it says of itself, that looking at a root does not wait for Beam and torch, and `| head`."""

import os
import shutil
import subprocess
import sys

import pytest

import pinnerformer
from pipelines import cli
from pipelines.cli import COMMANDS, GROUPS, READER_GONE, main
from tests.old_roots import OLD_ROOTS


def test_the_list_of_commands_is_the_list_of_commands(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert main([]) == 2


def test_commands_are_listed_in_groups_the_nightly_ones_first(capsys):
    assert main(["--help"]) == 0
    titles = [line[:-1] for line in capsys.readouterr().out.splitlines() if line.endswith(":")]
    assert titles == list(GROUPS) and titles[0] == "every night"
    assert list(COMMANDS)[:4] == ["daily", "plan", "status", "release"]
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("dayly", "no command 'dayly'; did you mean daily?"),
        ("roll-back", "no command 'roll-back'; did you mean rollback?"),
        ("training_data", "no command 'training_data'; did you mean training-data?"),
        ("xyz", f"no command 'xyz'; there are {', '.join(COMMANDS)}"),
    ],
)
def test_a_mistyped_command_gets_the_nearest_one(typed, said, capsys):
    assert main([typed, "--root=x"]) == 2
    assert capsys.readouterr().err == f"pinnerformer {typed}: {said}\n"


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pinnerformer {pinnerformer.__version__}\n"


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
    def broken(*_, **__):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr(cli, "run_command", broken)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        main([])


def test_escapes_in_other_peoples_names_are_shown_as_text(tmp_path, capsys):
    evil = f"{tmp_path}/logs\x1b]0;owned\x07\x1b[2J"
    assert cli.main(["init-model", f"--logs={evil}", f"--out={tmp_path}/model"]) == 1
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\x07" not in said and "\\x1b]0;owned" in said
    assert cli.printable("Grüße, 猫\tand\nlines") == "Grüße, 猫\tand\nlines"
