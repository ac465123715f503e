"""`make bench`: benchmarks one after another, and what they found in one table."""

import subprocess
import sys

import pytest

from benchmarks import everything
from benchmarks.records import read_figures


@pytest.fixture
def pieces(tmp_path, monkeypatch):
    """Benchmarks named one, two and three, in place of the real ones; the second fails, the third is not there."""
    package = tmp_path / "path" / "benchmarks"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "records.py").write_text(open(sys.modules["benchmarks.records"].__file__).read())
    line = "import sys; from benchmarks.records import record; record('one', ' '.join(sys.argv[1:]), 2, at_least=1)\n"
    (package / "one.py").write_text(line)
    (package / "two.py").write_text("raise SystemExit('no disk')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.chdir(tmp_path / "path")
    specs = {f"benchmarks.{name}" for name in ("one", "two")}
    monkeypatch.setattr(everything.importlib.util, "find_spec", lambda name: name in specs or None)
    found = [everything.Piece(name, "--few", "--some") for name in ("one", "two", "three")]
    monkeypatch.setattr(everything, "PIECES", tuple(found))
    return tmp_path


def run(monkeypatch, *argv: str) -> int:
    monkeypatch.setattr("sys.argv", ["everything", *argv])
    return everything.main()


def test_one_that_fails_does_not_keep_the_others_from_the_table(pieces, monkeypatch, capsys):
    out = str(pieces / "out")
    assert run(monkeypatch, "--size", "small", "--out", out) == 1
    said = capsys.readouterr()
    assert "| one | --few | **2** | >= 1 | yes |" in said.out and "three: not in this checkout" in said.out
    assert "failed: two" in said.err and "no disk" in (pieces / "out" / "two.log").read_text()


def test_figures_of_the_run_before_are_replaced_and_those_of_others_not_shown(pieces, monkeypatch, capsys):
    out = str(pieces / "out")
    for _ in range(2):
        assert run(monkeypatch, "--only", "one", "--out", out) == 0
    assert [figure.what for figure in read_figures(out)] == ["--some"]
    (pieces / "out" / "09-old.jsonl").write_text('{"benchmark": "old", "what": "of another day", "value": 1}\n')
    assert run(monkeypatch, "--only", "one", "--out", out) == 0
    assert "of another day" not in capsys.readouterr().out


def test_what_has_no_large_size_is_left_out_of_it(pieces, monkeypatch, capsys):
    assert run(monkeypatch, "--size", "large", "--out", str(pieces / "out")) == 0
    assert "== " not in capsys.readouterr().out


@pytest.mark.slow
def test_tiny_nights_leave_their_figures(tmp_path):
    command = [sys.executable, "-m", "benchmarks.everything", "--size", "small", "--only", "nights", "small_nights"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, timeout=290)
    found = {(figure.benchmark, figure.what): figure for figure in read_figures(str(tmp_path))}
    night = "200 active of 2,000 users, 2,000 pins"
    assert found["nights", f"{night}: whole night / bare inference"].value > 1
    assert found["nights", f"{night}: lowest cosine of a user's vectors, ours and the loop's"].reached
    assert found["small_nights", "ten users, CPU"].value > 1
