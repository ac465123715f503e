"""Which tasks of an earlier attempt count: those whose makings count too, and no slice with a user that failed."""

import dataclasses
import datetime

import pytest

from stores.files import FileEntry, Root
from stores.layout import Layout
from stores.names import Step
from stores.pin_vectors import VectorFile, VectorSet
from transforms.embed_users import slice_task
from transforms.markers import CompletionMarker, write_marker
from transforms.resume import NO_COMPLETED_WORK, find_completed, find_completed_pins
from transforms.run import Instructions, Run
from transforms.sort_vectors import vector_groups
from transforms.step_reports import StepReport

DAY = datetime.date(2026, 11, 1)
VECTORS = VectorSet("v1", "float16", (VectorFile("/pins/a.parquet", 30, 2, "float16", "x", 256),), 256)


@pytest.fixture
def run(tmp_path) -> Run:
    """Of two buckets and two shards."""
    layout = Layout(user_buckets=2, pin_shards=2)
    return Run(Root(str(tmp_path)), "daily-x", DAY, str(DAY), None, layout, Instructions(everyone_active=False))


def file_of(run: Run, name: str, part: int) -> FileEntry:
    run.root.write_bytes(name, b"rows")
    return FileEntry(name, part, 1, 4, "ff")


def finish(run: Run, step: Step, task: str, staged: list[FileEntry] | None = None, **files: list[FileEntry]) -> None:
    marker = CompletionMarker({step: StepReport(files=files)}, staged or [], run.name)
    write_marker(run.root, run.staging, step, task, marker)


def finish_bucket(run: Run, bucket: int, slices: int) -> None:
    files = {"histories": [file_of(run, f"histories/{bucket}", bucket)]}
    report = StepReport(counters={"slices": slices}, files=files)
    marker = CompletionMarker({Step.UPDATE_HISTORIES: report}, [file_of(run, f"{run.staging}/active/{bucket}", bucket)])
    write_marker(run.root, run.staging, Step.UPDATE_HISTORIES, f"part-{bucket:05d}", marker)


def finish_slice(run: Run, bucket: int, number: int, failures: tuple = ()) -> None:
    staged = [file_of(run, f"{run.staging}/embedded/{bucket}-{number}", bucket)]
    marker = CompletionMarker({Step.EMBED_USERS: StepReport(failures=list(failures))}, staged)
    write_marker(run.root, run.staging, Step.EMBED_USERS, slice_task(bucket, number), marker)


def test_a_first_attempt_takes_nothing_over(run):
    found = find_completed(run)
    assert found == NO_COMPLETED_WORK and found.describe() == "" and found.reports() == []
    assert [group.task for group in found.pin_branch.vectors_to_cut(VECTORS, 2)] == [
        group.task for group in vector_groups(VECTORS)
    ]


def test_rows_are_read_again_for_as_long_as_a_bucket_lacks_its_histories(run):
    finish(run, Step.READ_LOGS, "a+00000")
    finish_bucket(run, 0, slices=1)
    assert find_completed(run).logs == {}
    finish_bucket(run, 1, slices=0)
    assert set(find_completed(run).logs) == {"a+00000"}


def test_a_bucket_is_open_until_all_of_its_slices_are_embedded(run):
    finish_bucket(run, 1, slices=3)
    finish_slice(run, 1, 0)
    finish_slice(run, 1, 2)
    (bucket,) = find_completed(run).open_buckets()
    assert (bucket.bucket, bucket.finished) == (1, frozenset({0, 2}))
    finish_slice(run, 1, 1)
    assert find_completed(run).open_buckets() == []


def test_a_slice_counts_if_its_bucket_does_and_nobody_in_it_failed(run):
    finish_slice(run, 0, 0)  # of a bucket whose histories are not there
    finish_bucket(run, 1, slices=2)
    finish_slice(run, 1, 0)
    finish_slice(run, 1, 1, failures=((7, "NaN"),))
    found = find_completed(run)
    assert set(found.slices) == {(1, 0)}
    assert [(bucket, entry.path) for bucket, entry in found.embedded()] == [(1, f"{run.staging}/embedded/1-0")]
    assert found.describe() == "1 histories, 1 embedded slices"


def test_a_snapshot_counts_if_every_slice_of_its_bucket_does(run):
    for bucket in (0, 1):
        finish_bucket(run, bucket, slices=2)
        finish_slice(run, bucket, 0)
        finish(run, Step.MERGE_SNAPSHOT, f"part-{bucket:05d}")
    finish_slice(run, 1, 1)
    found = find_completed(run)
    assert set(found.snapshots) == {1}
    assert [bucket for bucket, _ in found.embedded()] == [0], "what is merged is not merged again"


def test_cut_vectors_count_if_they_hold_a_piece_for_every_shard_without_a_table(run):
    groups = [group.task for group in vector_groups(VECTORS)]
    assert len(groups) == 2
    piece = [file_of(run, f"{run.staging}/vector_pieces/{shard}", shard) for shard in (0, 1)]
    finish(run, Step.CUT_VECTORS, groups[0], piece)
    finish(run, Step.CUT_VECTORS, groups[1], piece[1:])  # when shard 0 had a table
    found = find_completed_pins(run, 2)
    assert set(found.cuts) == {groups[0]} and [g.task for g in found.vectors_to_cut(VECTORS, 2)] == groups[1:]
    finish(run, Step.SHARD_PINS, "part-00000", [file_of(run, f"{run.staging}/vectors/0", 0)])
    found = find_completed_pins(run, 2)
    assert set(found.cuts) == set(groups) and found.vectors_to_cut(VECTORS, 2) == []
    assert [entry.part for entry in found.pieces()] == [1, 1], "the shard that has a table needs no piece"
    assert [entry.part for entry, _ in found.shard_tables()] == [0]


def test_an_index_counts_if_its_pins_do(run):
    finish(run, Step.BUILD_INDEXES, "part-00000", indexes=[file_of(run, "indexes/0", 0)])
    finish(run, Step.EMBED_PINS, "part-00001", pin_embeddings=[file_of(run, "pin_embeddings/1", 1)])
    found = find_completed_pins(run, 2)
    assert found.indexes == {} and [entry.part for entry in found.unindexed()] == [1]
    finish(run, Step.BUILD_INDEXES, "part-00001", indexes=[file_of(run, "indexes/1", 1)])
    found = find_completed(run).pin_branch
    assert set(found.indexes) == {1} and found.unindexed() == []


def test_what_is_taken_over_is_reported_once(run):
    finish_bucket(run, 0, slices=1)
    finish_bucket(run, 1, slices=2)
    reports = dict(find_completed(run).reports())
    assert reports[Step.UPDATE_HISTORIES].counters == {"slices": 3}
    assert len(reports[Step.UPDATE_HISTORIES].files["histories"]) == 2
    assert dataclasses.astuple(NO_COMPLETED_WORK) == (*({},) * 4, (*({},) * 4, 0), {})
