"""The report of a release: what it says, where it is written, what becomes of it."""

import dataclasses
import html.parser
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.report import drawn
from pipelines.report import write as writing
from pipelines.report.facts import facts_of, figures, gate_bars
from pipelines.report.page import one_a_date, render
from pipelines.report.told import SAMPLE, Told, sample_dead_letters
from stores.files import Root
from stores.manifests import read_manifest
from stores.reports import outcome_in, users_named
from tests.pipelines.nights import run_night
from tests.worlds import day, make_rows, write_file

VOID = {"meta", "circle", "polyline", "line"}  # that have no end tag in this page
TOLD = Told(root="/r", ended="committed", when="2026-11-04 03:12")


class Page(html.parser.HTMLParser):
    """What is in a page: text, tags, what they refer to; every tag that opens is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.refers: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.refers += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def page_of(root: str, release: str) -> Page:
    with open(f"{root}/releases/{release}/report.html") as file:
        return Page(file.read())


def test_a_night_leaves_a_page_that_says_how_it_came_out(made):
    page, manifest = page_of(made.root, str(day(3))), read_manifest(Root(made.root), str(day(3)))
    assert re.match(
        rf".*{day(3)} is served since 20\d\d-\d\d-\d\d \d\d:\d\d UTC: {len(manifest.gates)} of {len(manifest.gates)} "
        r"gates passed, 40 users embedded, [\d.]+ s of work\.",
        page.text,
    )
    for gate in manifest.gates:
        assert f"{gate['name']} passed" in page.text and gate["reads"] in page.text
    for step in manifest.timings:
        assert step.replace("_", " ") in page.text
    assert f"Beside {day(2)}" in page.text and "the last 4 releases" in page.text
    assert "popularity" in page.text and "negative_duration 1" in page.text
    assert manifest.model_digest in page.text and "40 users" in page.text
    # Complete in itself: it asks for nothing and runs nothing.
    assert not page.refers and "script" not in page.tags and "link" not in page.tags and "img" not in page.tags


def test_the_first_release_has_nothing_to_be_compared_with(made):
    page = page_of(made.root, str(day(0)))
    assert f"{day(0)} is a release since" in page.text  # it was published nowhere
    assert "no release before" in page.text and "Nothing to look back at" in page.text


def test_an_old_release_gets_its_page_from_the_command(made, kept, tmp_path, capsys):
    path = f"{kept.root}/releases/{day(2)}/report.html"
    with open(path) as file:
        written = file.read().replace(made.root, kept.root)
    os.remove(path)
    assert main(["report", f"--root={kept.root}", f"--release={day(2)}"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    with open(path) as file:
        assert file.read() == written  # the same manifest and outcome, the same page
    out = tmp_path / "new.html"
    assert main(["report", f"--root={kept.root}", f"--out={out}"]) == 0  # CURRENT
    assert Page(out.read_text()).text.count(f"Release {day(3)}") == 1
    assert main(["report", f"--root={kept.root}", "--release=2020-01-01"]) == 1
    assert main(["report", f"--root={kept.root}", "--release=2026-11-02", "--run=x"]) == 2
    assert main(["report", f"--root={kept.root}", "--run=daily-2026-11-09-0123456789ab"]) == 1
    assert "has not ended" in capsys.readouterr().err


def test_a_refused_run_has_its_page_and_the_screen_names_it(kept, capsys):
    write_file(
        f"{kept.world.folder}/logs", 4, [{**r, "pin_id": -1} for r in make_rows(4, 90, 40, 90, 8)], "bad.parquet"
    )
    flags = [f"--root={kept.root}", *kept.world.inputs, f"--date={day(4)}", f"--kv={kept.kv}", "--quiet"]
    assert main(["daily", *flags]) == 3
    said = capsys.readouterr().err
    found = re.search(r"The same as a page, beside the nights before: (\S+/staging/(\S+)/report.html)", said)
    assert found is not None
    with open(found[1]) as file:
        page = Page(file.read())
    assert f"{day(4)} was refused at" in page.text and "rows_dropped_share closed" in page.text
    command = re.search(r"pinnerformer release --root .* --kv URL", said)
    assert command is not None and command[0] in page.text
    assert not os.path.exists(f"{kept.root}/releases/{day(4)}")
    # Forced, it is a release with a page of its own, which says so.
    forced = ["release", f"--root={kept.root}", f"--run={found[2]}", f"--kv={kept.kv}", "--reason=<b>audit</b>"]
    closed = re.findall(r"--force-gate (\S+)", command[0])
    assert main([*forced, *(f"--force-gate={name}" for name in closed)]) == 0
    page = page_of(kept.root, str(day(4)))
    assert f"{len(closed)} forced" in page.text and "Forced: <b>audit</b>" in page.text


def test_a_report_that_cannot_be_written_fails_no_night(kept, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("no such filter")

    monkeypatch.setattr(writing, "render", fail)
    run_night(kept.world, kept.root, 4, f"--kv={kept.kv}")
    said = capsys.readouterr().err
    assert f"warning: no report of {day(4)} was written: ValueError('no such filter')" in said
    assert f"pinnerformer report --root {kept.root}" in said
    assert not os.path.exists(f"{kept.root}/releases/{day(4)}/report.html")


def test_an_erasure_writes_reports_again_and_verify_looks_into_them(kept, tmp_path, capsys):
    path = f"{kept.root}/releases/{day(0)}/report.html"
    with open(path) as file:
        before = file.read()
    gone = sorted({name for name in users_named(before)})
    assert gone
    (tmp_path / "leavers").write_text("\n".join(gone) + "\n")
    assert kept.of_root("erase", f"--users={tmp_path}/leavers") == 0
    with open(path) as file:
        after = file.read()
    assert not set(users_named(after)) & set(gone)
    assert outcome_in(after)["finished"] == outcome_in(before)["finished"][:16].replace("T", " ")  # its run is gone
    assert kept.verify(f"--erased={tmp_path}/leavers") == 0
    with open(path, "w") as file:
        file.write(before)
    capsys.readouterr()
    assert kept.verify(f"--erased={tmp_path}/leavers") == 1
    assert f"{path}: holds one of the erased users" in capsys.readouterr().err


def test_a_report_that_cannot_be_made_again_goes_with_an_erasure(kept, tmp_path, capsys, monkeypatch):
    (tmp_path / "leavers").write_text("7\n")

    def fail(*_):
        raise ValueError("damaged")

    monkeypatch.setattr(writing, "render", fail)
    assert kept.of_root("erase", f"--users={tmp_path}/leavers") == 0
    assert not any(os.path.exists(f"{kept.root}/releases/{day(n)}/report.html") for n in range(4))
    assert "was removed" in capsys.readouterr().err


def test_gc_keeps_the_report_of_a_slimmed_release(kept):
    path = f"{kept.root}/releases/{day(0)}/report.html"
    with open(path) as file:
        before = file.read()
    assert kept.of_root("gc", "--keep=1", "--keep-snapshots=1") == 0
    assert read_manifest(Root(kept.root), str(day(0))).dropped
    with open(path) as file:
        assert file.read() == before
    assert main(["report", f"--root={kept.root}", f"--release={day(0)}"]) == 0  # what is left tells most of it
    assert "The histories of this release are gone" in page_of(kept.root, str(day(0))).text


def test_a_backfill_writes_one_a_day(backfilled):
    for number in range(1, 5):
        assert f"Beside {day(number - 1)}" in page_of(backfilled, str(day(number))).text


def test_words_of_others_are_text(made):
    evil = '"><script>alert(1)</script>'
    manifest = read_manifest(Root(made.root), str(day(3)))
    gates = [{**manifest.gates[0], "passed": False, "forced": evil, "reads": evil}, *manifest.gates[1:]]
    settings = {**manifest.settings, "pinsage_version": evil}
    dead = {"negative_pin_id": [dict.fromkeys(("file", "row", "user_id", "pin_id", "timestamp_ms"), evil)]}
    for row in dead["negative_pin_id"]:
        row |= dict.fromkeys(("action", "surface", "duration_s"), evil)
    told = dataclasses.replace(TOLD, root=evil, ended="failed", error=evil, dead=dead)
    text = render(dataclasses.replace(manifest, gates=gates, settings=settings), [], told)
    page = Page(text)
    assert "is a release, but was not published: failed at 2026-11-04 03:12 UTC" in page.text
    assert "script" not in page.tags and page.text.count(evil) > 5
    assert users_named(text) == [evil] and outcome_in(text)["error"] == evil


def test_figures_stand_beside_yesterday_and_the_same_weekday(made):
    tonight = facts_of(read_manifest(Root(made.root), str(day(3))))
    before = [{**tonight, "date": f"2026-{d}", "release": f"2026-{d}", "rows_read": rows} for d, rows in DATES]
    rows = {figure.label: figure for figure in figures(tonight, one_a_date(before, tonight["date"]))}["log rows read"]
    assert (rows.now, rows.yesterday, rows.weekday, rows.change) == ("272", "136", "544", "+100.0 %")
    assert next(f for f in figures(tonight, []) if f.label == rows.label).change == ""
    assert len(rows.points.split()) == 4


# Newest first: a date that was released again counts once, as it stood last; so does tonight's own.
DATES = (("11-04", 9), ("11-03", 136), ("11-03", 1), ("10-29", 3), ("10-28", 544))


@pytest.mark.parametrize(
    ("measured", "threshold", "at_least", "expected"),
    [
        (0.0, 0.0, False, 0),
        (1.0, 0.0, False, 100),
        (0.05, 0.1, False, 40),
        (0.1, 0.1, False, 80),
        (9.0, 1.0, False, 100),
    ]
    + [(-3.0, 0.2, False, 0), (0.95, 0.95, True, 80), (1.9, 0.95, True, 40), (0.0, 0.95, True, 100), (0, 0, True, 0)],
)
def test_a_bar_reaches_its_mark_at_the_limit(measured, threshold, at_least, expected):
    assert drawn.bar(measured, threshold, at_least) == expected


def test_lines_and_columns():
    assert drawn.line([1.0]) == "" and drawn.line([None, 2.0, None]) == ""
    assert drawn.line([1.0, None, 3.0]) == "2.0,23.0 118.0,3.0"
    assert drawn.line([5.0, 5.0]) == "2.0,13.0 118.0,13.0"
    assert drawn.length_columns([1, 1, 3]) == [(100.0, 2, "1"), (0.0, 0, "2"), (50.0, 1, "3")]
    assert sum(count for _, count, _ in drawn.length_columns(list(range(1, 1000)))) == 999
    assert drawn.length_columns([]) == []


def test_the_closed_come_first_and_say_what_they_are_for(made):
    manifest = read_manifest(Root(made.root), str(day(3)))
    gates = [*manifest.gates[:-1], {**manifest.gates[-1], "passed": False}, {**manifest.gates[0], "name": "newer"}]
    bars = gate_bars(dataclasses.replace(manifest, gates=gates))
    assert (bars[0].name, bars[0].state) == (gates[-2]["name"], "closed") and bars[0].closes_when and bars[0].advice
    assert bars[-1].name == "newer" and bars[-1].closes_when == ""


def test_no_more_is_shown_of_a_reason_than_a_sample(tmp_path):
    root = Root(str(tmp_path))
    for n, reasons in enumerate((["a", "b", "a"], ["a", "a", "c"], ["a", "a", "a"])):
        rows = pa.table({"reason": reasons, "user_id": pa.array([n * 3, n * 3 + 1, None]), "file": ["f"] * 3})
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        root.write_bytes(f"dead/{n}.parquet", sink.getvalue().to_pybytes())
    root.write_bytes("dead/1b.parquet", b"damaged")
    found = sample_dead_letters(root, "dead")
    assert {reason: [row["user_id"] for row in rows] for reason, rows in found.items()} == {
        "a": ["0", "", "3"],
        "b": ["1"],
        "c": [""],
    }
    assert len(found["a"]) == SAMPLE and sample_dead_letters(root, "nowhere") == {}
