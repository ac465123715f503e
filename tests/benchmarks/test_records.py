"""Figures that benchmarks leave, and the table that is made of them."""

import json

import pytest

from benchmarks import table
from benchmarks.records import FILE, Figure, read_figures, record

FACTS = {"machine": "a laptop", "versions": "torch 2"}
ROWS = """| | |
|---|---|
| machine | a laptop |
| versions | torch 2 |

| benchmark | what | found | to be | |
|---|---|---|---|---|
| nights | Daft / ours | **0.731** (43 and 59 s) | >= 1 | **no** |
| nights | seconds | **1,234 s** |  |  |
| tower | padded / ours | **6.85** | >= 6.8 | yes |"""


def test_a_figure_is_printed_and_kept_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(FILE, raising=False)
    record("tower", "by hand", 1)
    assert read_figures(str(tmp_path)) == []
    monkeypatch.setenv(FILE, str(tmp_path / "01-tower.jsonl"))
    record("tower", "padded / ours", 6.85, at_least=6.8)
    monkeypatch.setenv(FILE, str(tmp_path / "00-nights.jsonl"))
    record("nights", "Daft / ours", 0.731, at_least=1.0, note="43 and 59 s")
    record("nights", "seconds", 1234.4, unit="s")
    assert "Daft / ours: 0.731 (to be >= 1); 43 and 59 s\n" in capsys.readouterr().out
    assert table.format_table(read_figures(str(tmp_path)), FACTS) == ROWS


@pytest.mark.parametrize(("value", "reached"), [(0.9, False), (1.0, True), (1.5, True), (1.6, False)])
def test_a_goal_is_a_lowest_value_a_highest_or_both(value, reached):
    assert Figure("nights", "x", value, at_least=1.0, at_most=1.5).reached is reached


def test_the_table_takes_the_place_of_the_one_on_the_page(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"# Speed\n\n{table.BEGIN}\nold\n{table.END}\n\nAfter.\n")
    (tmp_path / table.MACHINE).write_text(json.dumps(FACTS))
    monkeypatch.setenv(FILE, str(tmp_path / "00-tower.jsonl"))
    record("tower", "padded / ours", 6.85)
    monkeypatch.setattr("sys.argv", ["table", str(tmp_path), "--write", str(page)])
    assert table.main() == 0
    written = page.read_text()
    assert (
        written.startswith(f"# Speed\n\n{table.BEGIN}\n\n| | |\n|---|---|\n| machine | a laptop |")
        and "old" not in written
    )
    assert "| **6.85** |" in written and written.endswith(f"{table.END}\n\nAfter.\n")


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="begin"):
        table.replace_table("# Speed\n", "| |")
