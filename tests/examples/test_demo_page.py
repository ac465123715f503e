"""The demo's page: the report of a release, with households."""

import os
import re

import pyarrow as pa
import pyarrow.parquet as pq

from examples.completejourney.demo import COLUMNS, choose_households, last_lines
from examples.completejourney.report import Household, Shown, write_report
from stores.files import Root
from stores.releases import read_current


def test_the_page_is_the_report_and_its_households(one_night, tmp_path):
    _, root = one_night
    files = Root(root)
    manifest = read_current(files)
    users = choose_households(files, manifest, 3)
    assert len(set(users)) == 3
    evil = "<script>alert(1)</script>"
    household = Household(users[0], [("04 Nov", evil, "purchase", "shelf")], [(0.75, "BREAD")])
    shown = Shown(
        [household], COLUMNS, [["the model", ".01 ± .00"]], "step 20 was kept", "331 households", "served: 9 %"
    )
    page, names = str(tmp_path / "report.html"), str(tmp_path / "names.parquet")
    pq.write_table(pa.table({"pin_id": [1], "name": ["BREAD"]}), names)
    write_report(page, files, manifest.release, names, shown)
    with open(page) as file:
        text = file.read()
    for words in (
        f"<h2>Household {users[0]}</h2>",
        "<h2>Gates</h2>",
        "331 households",
        "step 20",
        "served: 9 %",
        "0.750",
    ):
        assert words in text
    assert "<script" not in text and "&lt;script&gt;" in text


def test_the_last_lines_say_where_to_go_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = os.path.realpath(tmp_path)
    said = last_lines(f"{here}/d/report.html", f"{here}/d/root", f"lmdb://{here}/d/kv", f"{here}/d/names.parquet")
    assert f"file://{here}/d/report.html" in said
    assert re.search(rf"pinnerformer serve --root d/root --kv lmdb://{here}/d/kv --catalogue d/names.parquet$", said)
