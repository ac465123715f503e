"""What says that a task of a run is done: found again by the next attempt, and worth nothing without its files."""

import pytest

from stores.files import FileEntry, Root
from transforms.markers import (
    STAGED_FOLDERS,
    CompletionMarker,
    discard_staged,
    merge_reports,
    read_markers,
    write_marker,
)
from transforms.step_reports import StepReport

RUN = "staging/daily-x"


def write_file(root: Root, name: str, content: bytes = b"rows") -> FileEntry:
    root.write_bytes(name, content)
    return FileEntry(name, 3, 7, len(content), "ab" * 32)


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(str(tmp_path))


def test_it_comes_back_as_it_was(root):
    made, staged = write_file(root, "histories/a"), write_file(root, f"{RUN}/rows/b", b"")
    report = StepReport(
        seconds=0.5,
        tasks=1,
        counters={"rows": 7},
        lowest={"norm": 0.9},
        highest={"norm": 1.1},
        histograms={"moved": [1, 0, 2]},
        files={"histories": [made]},
        failures=[(-4, "NaN")],
    )
    marker = CompletionMarker({"update_histories": report}, [staged])
    write_marker(root, RUN, "update_histories", "part-00003", marker)
    write_marker(root, RUN, "update_histories", "part-00003", marker)  # engines may do a task twice
    assert read_markers(root, RUN, "update_histories") == {"part-00003": marker}
    assert marker.files() == [made, staged]
    assert read_markers(root, RUN, "embed_users") == read_markers(root, "staging/other", "update_histories") == {}


@pytest.mark.parametrize("damage", ["removed", "longer", "shorter"])
@pytest.mark.parametrize("which", ["histories/a", f"{RUN}/rows/b"])
def test_it_counts_for_nothing_without_its_files(root, damage, which):
    files = {"histories": [write_file(root, "histories/a")]}
    marker = CompletionMarker({"update_histories": StepReport(files=files)}, [write_file(root, f"{RUN}/rows/b")])
    write_marker(root, RUN, "update_histories", "one", marker)
    write_marker(root, RUN, "update_histories", "two", CompletionMarker({}))
    if damage == "removed":
        root.remove(which)
    else:
        root.write_bytes(which, b"rows and" if damage == "longer" else b"")
    assert list(read_markers(root, RUN, "update_histories")) == ["two"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"reports": {}}',
        b'{"reports": [], "staged": []}',
        b'{"reports": {}, "staged": [{}]}',
        b'{"reports": {"x": {}}, "staged": []}',
        b'{"reports": {}, "staged": [7]}',
        b"\xff",
    ],
)
def test_one_that_cannot_be_read_is_as_none(root, content):
    root.write_bytes(f"{RUN}/done/embed_users/a.json", content)
    assert read_markers(root, RUN, "embed_users") == {}


def test_a_committed_run_keeps_its_reports_only(root):
    write_marker(root, RUN, "embed_users", "a", CompletionMarker({}))
    for name in (*STAGED_FOLDERS, "dead_letters"):
        write_file(root, f"{RUN}/{name}/x")
    write_file(root, f"{RUN}/staged.json")
    for _ in range(2):
        discard_staged(root, RUN)
        assert sorted(root.list(RUN)) == ["dead_letters", "staged.json"]


def test_reports_add_up_by_stage():
    one = CompletionMarker({"join": StepReport(1.0, 1, {"tokens": 5}), "embed": StepReport(2.0, 1, {"users": 1})})
    two = CompletionMarker({"join": StepReport(0.5, 1, {"tokens": 3, "cut": 1})})
    assert merge_reports([]) == []
    assert merge_reports([one, two]) == [
        ("embed", StepReport(2.0, 1, {"users": 1})),
        ("join", StepReport(1.5, 2, {"tokens": 8, "cut": 1})),
    ]


def test_what_was_done_before_is_named_in_pieces():
    """The first has the sums; none names more than a thousand files."""
    entries = [FileEntry(f"histories/{n}", n, 1, 1, "") for n in range(2300)]
    reports = [StepReport(tasks=1, counters={"rows": 1}, files={"histories": [entry]}) for entry in entries]
    found = merge_reports([CompletionMarker({"join": report}) for report in reports])
    assert [report.count_names() for _, report in found] == [1000, 1000, 300]
    assert [report.tasks for _, report in found] == [2300, 0, 0] and {step for step, _ in found} == {"join"}
