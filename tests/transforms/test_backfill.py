"""What a backfill takes over from an earlier attempt: whatever was made from the state that there is."""

import dataclasses
import datetime

from stores.files import FileEntry, Root
from stores.layout import Layout
from stores.names import Step
from transforms.backfill import BucketStart, BucketState, find_replayed, state_after
from transforms.markers import CompletionMarker, write_marker
from transforms.run import Instructions, Run
from transforms.step_reports import StepReport

DAYS = [datetime.date(2026, 11, n) for n in (1, 2, 3)]


def make_runs(root: Root) -> list[Run]:
    layout = Layout(user_buckets=2)
    instructions = Instructions(everyone_active=False)
    return [Run(root, f"backfill-{day}", day, str(day), None, layout, instructions) for day in DAYS]


def walk(run: Run, bucket: int, state: BucketState, failed: int | None = None) -> BucketState:
    """Leaves the marker of a (bucket, day), and its files; returns the state after it."""
    entries = {}
    for table in ("histories", "user_embeddings"):
        content = f"{table} {bucket} {run.date} {state}".encode()
        folder = f"{table}/{run.date}"

        def write(path: str, content: bytes = content) -> None:
            with open(path, "wb") as file:
                file.write(content)

        entries[table] = [run.root.write_named_by_content(folder, f"part-{bucket}", ".x", bucket, 1, write)]
    reports = {
        "update_histories": StepReport(files={"histories": entries["histories"]}),
        "merge_snapshot": StepReport(files={"user_embeddings": entries["user_embeddings"]}),
        "embed_users": StepReport(failures=[] if failed is None else [(failed, "poison")]),
    }
    marker = CompletionMarker(reports)
    write_marker(run.root, run.staging, Step.REPLAY_BUCKETS, state.task(bucket), marker)
    return state_after(marker)


def test_receipts_are_followed_bucket_by_bucket_as_far_as_they_go(tmp_path):
    root = Root(str(tmp_path))
    runs, empty = make_runs(root), BucketState()
    state = empty
    for run in runs:
        state = walk(run, 0, state)
    one = walk(runs[0], 1, empty)
    found = find_replayed(runs, {0: empty, 1: empty})
    assert found.starts == {1: BucketStart(1, one)}
    assert sorted(day for day, _ in found.finished) == [0, 0, 1, 2]
    # With the first day committed, what follows is taken over from there.
    assert find_replayed(runs[1:], {1: one}).starts == {1: BucketStart(0, one)}
    assert not find_replayed(runs, {0: empty}).starts


def test_a_receipt_of_another_state_is_left_alone(tmp_path):
    root = Root(str(tmp_path))
    runs, empty = make_runs(root), BucketState()
    after = walk(runs[0], 0, empty)
    walk(runs[1], 0, after)
    other = dataclasses.replace(after, retry=(5,))
    assert find_replayed(runs[1:], {0: other}).starts == {0: BucketStart(0, other)}
    moved = BucketState((FileEntry("histories/x", 0, 1, 1, "ff"),), after.embeddings)
    assert find_replayed(runs[1:], {0: moved}).starts == {0: BucketStart(0, moved)}


def test_a_day_with_a_user_that_failed_is_walked_again(tmp_path):
    root = Root(str(tmp_path))
    runs, empty = make_runs(root), BucketState()
    first = walk(runs[0], 0, empty)
    second = walk(runs[1], 0, first, failed=9)
    assert second.retry == (9,)
    walk(runs[2], 0, second)
    assert find_replayed(runs, {0: empty}).starts == {0: BucketStart(1, first)}


def test_a_receipt_without_its_file_counts_for_nothing(tmp_path):
    root = Root(str(tmp_path))
    runs, empty = make_runs(root), BucketState()
    state = walk(runs[0], 0, empty)
    root.remove(state.histories[0].path)
    assert find_replayed(runs, {0: empty}).starts == {0: BucketStart(0, empty)}
