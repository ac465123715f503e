"""Commands that are no night say on stderr what they are at, and nothing of it where it takes no time."""

import time

import pytest

from pipelines.operations import doing
from pipelines.operations.doing import Doing

COMMANDS = {
    "verify": (["--users=2"], ["files of 2026-11-04", "indexes", "users in lmdb://"]),
    "gc": (["--dry-run"], ["collect files", "sweep lmdb://"]),
    "erase": (["--users={0}/nobody"], ["erase from lmdb://", "erase from releases", "erase from training data"]),
    "export": (["--out={0}/export"], ["write users and pins as parquet"]),
}


def run(kept, folder, command: str, words: list[str]) -> int:
    given = [word.format(folder) for word in words]
    if command == "export":  # of a root alone
        from pipelines.cli import main

        return main([command, f"--root={kept.root}", *given])
    return kept.of_root(command, *given)


@pytest.mark.parametrize("command", COMMANDS)
def test_pieces_that_last_are_told_on_stderr(command, kept, tmp_path, capsys, monkeypatch):
    words, pieces = COMMANDS[command]
    (tmp_path / "nobody").write_text("123456789\n")
    monkeypatch.setattr(doing, "LASTS_S", 0.0)
    assert run(kept, tmp_path, command, words) == 0
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if ": done in " in line]
    assert all(line.startswith("[     ") and " s] " in line for line in lines)
    for piece in pieces:
        assert any(f"] {piece}" in line for line in lines), told.err
    assert ": done in " not in told.out
    again = ["--replace"] if command == "export" else []
    assert run(kept, tmp_path, command, [*words, *again, "--quiet"]) == 0
    assert ": done in " not in capsys.readouterr().err


def test_a_long_piece_is_told_while_it_lasts_and_a_short_one_is_not(capsys, monkeypatch):
    monkeypatch.setattr(doing, "LASTS_S", 0.2)
    monkeypatch.setattr(doing, "SILENT_S", 0.2)
    told = Doing(True)
    with told.piece("short"):
        pass
    with told.piece("long"):
        time.sleep(0.7)
    said = capsys.readouterr().err
    assert "short" not in said and said.count("] long\n") >= 2 and "] long: done in 0." in said
