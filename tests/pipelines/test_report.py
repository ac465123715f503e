"""The report of a release: what it says, where it is written, what becomes of it."""

import dataclasses
import datetime
import html.parser
import math
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.daily_finish import report_detached
from pipelines.report import drawn, plots
from pipelines.report import write as writing
from pipelines.report.facts import facts_of, figures, gate_bars
from pipelines.report.page import one_a_date, render, stages_of
from pipelines.report.range import range_reported
from pipelines.report.told import SAMPLE, Told, sample_dead_letters
from stores.errors import StoreError
from stores.files import Root
from stores.manifests import read_manifest
from stores.reports import outcome_in, read_page, report_path, users_named
from tests.pipelines.nights import run_night
from tests.worlds import day, make_rows, write_file
from transforms.release import read_outcome
from transforms.run import Launch, RunFolder

VOID = {"meta", "circle", "polyline", "line"}  # that have no end tag in this page
TOLD = Told(root="/r", ended="committed", finished="2026-11-04T03:12:00+00:00")


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
        r"gates passed, 40 users embedded, [\d.]+ s from the first step to the end \([\d.]+ s of work\)\.",
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
    assert "nothing to compare it with yet" in page.text and "Nothing to look back at" in page.text
    assert "the one before" not in page.text and "same weekday" not in page.text  # no columns of dashes


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
    def fail(*_, **__):
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
    assert outcome_in(after) == outcome_in(before)  # its run is gone: the page itself says how it ended and when
    assert kept.verify(f"--erased={tmp_path}/leavers") == 0
    with open(path, "w") as file:
        file.write(before)
    capsys.readouterr()
    assert kept.verify(f"--erased={tmp_path}/leavers") == 1
    assert f"{path}: holds one of the erased users" in capsys.readouterr().err


def test_a_report_that_cannot_be_made_again_goes_with_an_erasure(kept, tmp_path, capsys, monkeypatch):
    (tmp_path / "leavers").write_text("7\n")

    def fail(*_, **__):
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


def test_a_backfill_writes_one_a_day_and_one_of_its_range(backfilled):
    for number in range(1, 5):
        assert f"Beside {day(number - 1)}" in page_of(backfilled, str(day(number))).text
    with open(f"{backfilled}/releases/{day(4)}/range.html") as file:
        page = Page(file.read())
    assert page.refers == [f"../{day(number)}/report.html" for number in (4, 3, 2, 1, 0)]
    assert f"5 releases, {day(0)} to {day(4)}: every gate passed" in page.text
    assert not any(os.path.exists(f"{backfilled}/releases/{day(number)}/range.html") for number in range(4))


def test_a_range_that_stopped_says_why(made, kept):
    root, days = Root(kept.root), (day(1), day(3))
    with (
        pytest.raises(StoreError),
        range_reported(root, [str(day(n)) for n in (1, 2, 3)], None, days, None, False) as seen,
    ):
        seen |= {str(day(3)): facts_of(read_manifest(root, str(day(3))))}  # is not read again
        raise StoreError("worker 3 <died>")
    with open(f"{kept.root}/releases/{day(3)}/range.html") as file:
        page = Page(file.read())
    assert f"3 releases, {day(1)} to {day(3)}, and then it stopped" in page.text and "worker 3 <died>" in page.text
    assert len(seen) == 3


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
    assert rows.line.count(" L") == 1 and len(rows.line.split('<path d="')[1].split('"')[0].split()) == 2 * 4


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


def test_a_small_line_passes_over_what_is_not_there():
    assert plots.small_line([1.0], "x") == "" == plots.small_line([None, 2.0, math.nan], "x")
    drawn = plots.small_line([1.0, None, 3.0, None], "a<b")
    assert drawn.count("<path") == drawn.count("<circle") == 1 and 'aria-label="a&lt;b"' in drawn
    moves = re.search(r'd="M(\S+) (\S+) L(\S+) (\S+)"', drawn)
    assert moves is not None and float(moves[3]) > float(moves[1]) and float(moves[4]) < float(moves[2])
    assert "<style" not in drawn and "<script" not in drawn and "<!--" not in drawn and "tooltip" not in drawn
    assert plots.small_line([5.0, 5.0], "x").count("<path") == 1


def test_a_histogram_says_of_each_column_what_it_is():
    assert plots.histogram([0, 0], ["a", "b"], "x") == "" == plots.histogram([], [], "x")
    drawn = plots.histogram([3, 0, 1200], ["up to 1", "2 & more", "3"], "x")
    titles = re.findall(r"<title>(.*?)</title>", drawn)
    assert {"up to 1: 3", "2 &amp; more: 0", "3: 1,200"} <= set(titles)
    found = [drawn_height(drawn, title) for title in ("up to 1: 3", "3: 1,200")]
    assert 0 < found[0] < found[1] / 100


def drawn_height(svg: str, title: str) -> float:
    found = re.search(rf'<rect [^>]*height="([\d.]+)"[^>]*/><title>{title}</title>', svg)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize(("most", "steps"), [(1, [0, 1]), (3, [0, 1, 2, 3]), (11, [0, 5, 10, 15]), (99, [0, 50, 100])])
def test_a_scale_reaches_the_highest_column(most, steps):
    assert plots._steps(most) == steps


def test_lengths_fall_into_bins():
    assert drawn.length_bins([]) == ([], [])
    assert drawn.length_bins([1, 1, 3]) == ([2, 0, 1], ["1", "2", "3"])
    counts, words = drawn.length_bins([*range(1, 1000)])
    assert sum(counts) == 999 and len(counts) == len(words) == 24 and words[-1] == "967 to 1,008"


def test_steps_stand_where_they_ran(made):
    manifest = dataclasses.replace(
        read_manifest(Root(made.root), str(day(3))), timings={"read_logs": 1.5, "embed_users": 6.0, "check": 0.25}
    )
    began = datetime.datetime(2026, 11, 4, 3, 11, 50, tzinfo=datetime.UTC).timestamp()
    told = dataclasses.replace(TOLD, ran={"embed_users": [began + 2, began + 8], "read_logs": [began, began + 2]})
    assert [(s.name, s.left, s.wide, s.when, s.work) for s in stages_of(manifest, told)] == [
        ("read logs", 0.0, 20.0, "from 0.0 s, for 2.0 s", "1.50 s"),
        ("embed users", 20.0, 60.0, "from 2.0 s, for 6.0 s", "6.00 s"),
        ("check, commit, publish", 80.0, 20.0, "from 8.0 s, for 2.0 s", ""),
        ("check", None, 0.0, "", "0.25 s"),
    ]
    assert [(s.name, s.left) for s in stages_of(manifest, TOLD)] == [
        ("read logs", None),
        ("embed users", None),
        ("check", None),
    ]
    assert "10.0 s from the first step to the end (7.8 s of work)." in render(manifest, [], told)


def test_a_night_says_when_its_steps_ran(made):
    outcome = outcome_in(read_page(Root(made.root), report_path(str(day(3)))))
    steps = set(read_manifest(Root(made.root), str(day(3))).timings) - {"check"}
    assert set(outcome["ran"]) == steps and all(began <= ended for began, ended in outcome["ran"].values())
    assert "Steps as they ran From 20" in page_of(made.root, str(day(3))).text


def test_nobody_waits_for_a_detached_run_and_its_last_step_writes_the_page(kept):
    root = Root(kept.root)
    manifest = read_manifest(root, str(day(3)))
    name, path = manifest.settings["run"], report_path(str(day(3)))
    outcome = read_outcome(root, name)
    root.remove(path)
    report_detached(outcome, name, RunFolder(root, name, launch=Launch("sentinel", "lease")))
    assert not root.exists(path)
    report_detached(outcome, name, RunFolder(root, name, launch=Launch("sentinel")))
    assert root.exists(path)


def test_pins_are_called_by_their_names(made, tmp_path, capsys):
    names, out = str(tmp_path / "items.parquet"), str(tmp_path / "new.html")
    asked = ["report", f"--root={made.root}", f"--out={out}", f"--names={names}"]
    assert main(asked) == 1
    assert f"--names {names}: no such file" in capsys.readouterr().err
    pq.write_table(pa.table({"pin_id": [1]}), names)
    assert main(asked) == 1
    assert f"--names {names}: no column name" in capsys.readouterr().err
    shown = [*range(-5, 91)]
    pq.write_table(
        pa.table({"pin_id": [*shown, -4], "name": [f"<b>no {pin}</b>" for pin in shown] + ["the last"]}), names
    )
    assert main(asked) == 0
    with open(out) as file:
        page = Page(file.read())
    most = re.search(r"Acted on most that day .*? by pin\. (\d+) <b>no (\d+)</b> ", page.text)
    assert most is not None and most[1] == most[2] and "-4 the last" in page.text  # of the dead letters


def test_the_same_command_writes_a_page_that_a_killed_run_did_not(kept):
    path = f"{kept.root}/releases/{day(3)}/report.html"
    os.remove(path)
    run_night(kept.world, kept.root, 3, f"--kv={kept.kv}")
    assert f"{day(3)} is served since" in page_of(kept.root, str(day(3))).text


def test_the_closed_come_first_and_say_what_they_are_for(made):
    manifest = read_manifest(Root(made.root), str(day(3)))
    gates = [*manifest.gates[:-1], {**manifest.gates[-1], "passed": False}, {**manifest.gates[0], "name": "newer"}]
    bars = gate_bars(dataclasses.replace(manifest, gates=gates))
    assert (bars[0].name, bars[0].state) == (gates[-2]["name"], "closed") and bars[0].closes_when and bars[0].advice
    assert bars[-1].name == "newer" and bars[-1].closes_when == ""


def test_advice_that_asks_ends_as_a_question(made):
    manifest = read_manifest(Root(made.root), str(day(3)))
    asks = {**manifest.gates[-1], "name": "rows_against_week", "passed": False}
    text = Page(render(dataclasses.replace(manifest, gates=[asks]), [], TOLD)).text
    assert "written twice?" in text and "?." not in text


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
