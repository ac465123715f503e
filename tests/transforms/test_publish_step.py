"""Publishing as steps of a pipeline: what the plain function does, by several workers, whatever happens to one."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.cli import main
from stores.files import Root
from stores.kv import open_store
from stores.kv.parts import PartedStore
from stores.releases import current_release
from tests.pipelines.test_daily import run_twice
from tests.transforms.interrupted import (
    CHUNK_OF,
    NEW,
    NEWEST,
    OTHER_MODEL,
    commit,
    held,
    problems,
    servers,
    small_chunks,
    target,
    two_releases,
    url_of,
)
from tests.worlds import day
from transforms import publish_step
from transforms.gates import Thresholds
from transforms.publish import publish
from transforms.publish_step import PublishBuckets, Written, add_written, is_spread
from transforms.release import Committed, check_commit, read_outcome
from transforms.run import Launch, RunFolder

__all__ = ["servers"]
FIRST, SECOND, THIRD = "2026-11-01", "2026-11-02", "2026-11-03"


@pytest.fixture(params=["redis", "cluster"])
def kv(request, tmp_path, servers, monkeypatch):
    small_chunks(monkeypatch)
    return url_of(request.param, servers, str(tmp_path))


@pytest.fixture
def root(tmp_path) -> Root:
    return two_releases(f"{tmp_path}/root", FIRST, SECOND)


def run_steps(root: Root, kv: str, name: str, *flags: str, by: str = "") -> dict[str, Any]:
    """Publishes a committed release by the steps; returns what the run's folder says of it."""
    run = RunFolder(root, f"daily-{name}", launch=Launch(root_sentinel=by))
    if by:
        root.write_bytes(f"{run.staging}/token", by.encode())
    outcome = check_commit(root, run.name, Thresholds())
    with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(flags))) as pipeline:
        one = pipeline | beam.Create([Committed(run.name, name, outcome)])
        _ = one | PublishBuckets(run, target(kv))
    return read_outcome(root, run.name)


def writes(patch: pytest.MonkeyPatch) -> list[int]:
    """The users that are sent from now on, one after the other."""
    sent: list[int] = []
    for store, name in CHUNK_OF.items():
        put = getattr(store, name)

        def counted(self, generation, ids, values, put=put):
            sent.extend(ids.tolist())
            return put(self, generation, ids, values)

        patch.setattr(store, name, counted)
    return sent


def test_the_steps_bring_a_store_where_the_plain_function_brings_it(root, kv):
    """From nothing, by a difference, to a new model and back; a second time there is nothing to send."""
    commit(root, THIRD, NEWEST, OTHER_MODEL, previous=SECOND)
    outcome = run_steps(root, kv, THIRD)
    assert outcome["outcome"] == "committed" and held(kv) == NEWEST and problems(root, kv, THIRD) == []
    assert outcome["publish"] == {"users_sent": len(NEWEST), "users_deleted": 0, "users_stored": len(NEWEST)}
    assert run_steps(root, kv, THIRD)["publish"]["users_sent"] == 0
    assert not root.list(f"staging/daily-{THIRD}/done")


def test_a_difference_sends_and_deletes_what_the_plain_function_would(root, kv, monkeypatch):
    publish(root, FIRST, target(kv))
    sent = writes(monkeypatch)
    published = run_steps(root, kv, SECOND)["publish"]
    assert held(kv) == NEW and problems(root, kv, SECOND) == []
    by_steps, expected = sorted(sent), {"users_sent": published["users_sent"], "users_deleted": 1, "users_stored": 7}
    publish(root, FIRST, target(kv))
    sent.clear()
    assert publish(root, SECOND, target(kv)) == published == expected
    assert sorted(sent) == by_steps and len(by_steps) < len(NEW)


def test_every_step_may_run_twice_and_take_nothing_from_itself(root, kv, monkeypatch):
    """A bundle that is tried again writes equal rows; the step that begins does not shut out its own buckets."""
    for kind in (publish_step.BeginPublish, publish_step.WriteBucket, publish_step.CountBucket):
        monkeypatch.setattr(kind, "process", run_twice(kind.process))
    monkeypatch.setattr(publish_step.FinishPublish, "process", run_twice(publish_step.FinishPublish.process))
    publish(root, FIRST, target(kv))
    outcome = run_steps(root, kv, SECOND, by="launched")
    assert outcome["outcome"] == "committed", outcome
    assert held(kv) == NEW and problems(root, kv, SECOND) == []


def test_the_first_attempt_of_the_step_that_begins_is_the_one_that_counts(root, kv, monkeypatch):
    """An engine keeps what the first gave, and runs it again all the same: by the launch it is known."""

    def first_of_two(self, element, process=publish_step.BeginPublish.process):
        first = list(process(self, element))
        list(process(self, element))
        return first

    monkeypatch.setattr(publish_step.BeginPublish, "process", first_of_two)
    assert run_steps(root, kv, SECOND, by="launched")["outcome"] == "committed" and held(kv) == NEW
    publish(root, FIRST, target(kv))
    assert "another command writes" in run_steps(root, kv, SECOND)["error"], "nobody's launch"


class Killed(Exception):
    """Stands for a worker that dies."""


@contextlib.contextmanager
def dying_at_third_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lets whoever writes buckets in the body die at the third; yields those that are done."""
    write, done = PartedStore.upload_part, list[int]()

    def dying(self, upload, part, *rows):
        if len(done) == 2:
            raise Killed
        done.append(part)
        return write(self, upload, part, *rows)

    with monkeypatch.context() as patched:
        patched.setattr(PartedStore, "upload_part", dying)
        yield done


def kill_at_third_bucket(root: Root, kv: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Publishes the second release as far as two buckets; returns which."""
    with dying_at_third_bucket(monkeypatch) as done:
        with pytest.raises(Exception, match="Killed"):
            run_steps(root, kv, SECOND)
    assert len(done) == 2
    return done


@pytest.mark.parametrize("fresh", [False, True])
def test_killed_in_the_middle_and_run_again_by_whatever_command(root, kv, monkeypatch, fresh):
    """Buckets that were done are not sent again: neither by the steps, nor by `release`, which has no pipeline."""
    finish = {
        "steps": lambda: run_steps(root, kv, SECOND)["publish"],
        "plain": lambda: publish(root, SECOND, target(kv)),
    }
    write = PartedStore.upload_part
    for how, go_on in finish.items():
        empty(kv)
        if not fresh:
            publish(root, FIRST, target(kv))
        done = kill_at_third_bucket(root, kv, monkeypatch)
        with open_store(kv) as store:
            assert store.note().target.release == SECOND
            assert (store.current() is None) if fresh else (store.current().release == FIRST)
        with monkeypatch.context() as patched:
            sent, parts = writes(patched), []

            def noting(self, upload, part, *rows, parts=parts):
                parts.append(part)
                return write(self, upload, part, *rows)

            patched.setattr(PartedStore, "upload_part", noting)
            published = go_on()
        assert len(parts) == 1 and parts[0] not in done, how
        assert len(sent) < published["users_sent"], "the counts are of the whole publish"
        assert held(kv) == NEW and problems(root, kv, SECOND) == []


def empty(kv: str) -> None:
    with open_store(kv) as store:
        for name in store.generations():
            store._clear(name)
        for name in ("current", "generations", "contents", "publishing", "published", "fence"):
            store._client.delete(store._key(name))


def test_what_is_done_of_another_publish_does_not_count(root, kv, monkeypatch):
    publish(root, FIRST, target(kv))
    kill_at_third_bucket(root, kv, monkeypatch)
    commit(root, THIRD, NEWEST, previous=SECOND)
    assert run_steps(root, kv, THIRD)["outcome"] == "committed" and held(kv) == NEWEST
    assert problems(root, kv, THIRD) == []


def test_on_a_server_that_was_started_again_nothing_counts_as_done(root, kv, monkeypatch):
    publish(root, FIRST, target(kv))
    kill_at_third_bucket(root, kv, monkeypatch)
    monkeypatch.setattr(PartedStore, "_run_ids", lambda self: ["another"])
    sent = writes(monkeypatch)
    published = run_steps(root, kv, SECOND)["publish"]
    assert len(sent) == published["users_sent"] and held(kv) == NEW


def test_overtaken_in_the_middle_nothing_of_it_is_left(root, kv, monkeypatch):
    """Another command raises the fence while buckets are written: they change nothing more, and the outcome says so."""
    commit(root, THIRD, NEWEST, previous=SECOND)
    publish(root, FIRST, target(kv))
    write, calls = PartedStore.upload_part, []

    def overtaken(self, upload, part, *rows):
        calls.append(part)
        if len(calls) == 2:
            publish(root, THIRD, target(kv))
        return write(self, upload, part, *rows)

    monkeypatch.setattr(PartedStore, "upload_part", overtaken)
    monkeypatch.setattr(publish_step, "refuse_overtaken", lambda root, release: None)
    outcome = run_steps(root, kv, SECOND)
    assert outcome["outcome"] == "failed" and "another command writes to namespace" in outcome["error"]
    assert held(kv) == NEWEST and problems(root, kv, THIRD) == []


def test_a_run_behind_current_is_refused(root, kv):
    commit(root, THIRD, NEWEST, previous=SECOND)
    outcome = run_steps(root, kv, SECOND)
    assert outcome["outcome"] == "failed" and f"CURRENT is {THIRD}" in outcome["error"]
    with open_store(kv) as store:
        assert store.current() is None


def test_what_the_server_lost_on_the_way_is_noticed_before_readers_are_moved(root, kv, monkeypatch):
    count = publish_step.CountBucket.process

    def evicting(self, bucket, publishing, written):
        with open_store(kv) as store:
            store.delete_users(publishing.difference.upload.generation, [7])
        return count(self, bucket, publishing, written)

    monkeypatch.setattr(publish_step.CountBucket, "process", evicting)
    outcome = run_steps(root, kv, SECOND)
    assert outcome["outcome"] == "failed" and "7 values were sent, 6 are stored" in outcome["error"]
    assert f"release --run daily-{SECOND}" in outcome["error"]
    with open_store(kv) as store:
        assert store.current() is None


def test_two_worker_processes(root, kv):
    flags = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert run_steps(root, kv, SECOND, *flags)["publish"]["users_sent"] == len(NEW)
    assert held(kv) == NEW and problems(root, kv, SECOND) == []


def test_a_store_that_is_down_is_an_outcome(root, kv, monkeypatch):
    wrong = dataclasses.replace(target(kv), url="redis://127.0.0.1:1/0")
    run = RunFolder(root, f"daily-{SECOND}")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        one = pipeline | beam.Create([Committed(run.name, SECOND, check_commit(root, run.name, Thresholds()))])
        _ = one | PublishBuckets(run, wrong)
    outcome = read_outcome(root, run.name)
    assert outcome["outcome"] == "failed" and "connection refused" in outcome["error"]


def test_lmdb_is_left_to_one_process(root, tmp_path, monkeypatch):
    kv = f"lmdb://{tmp_path}/kv"
    assert not is_spread(target(kv)) and not is_spread(None) and is_spread(target("redis://h:1/0"))
    monkeypatch.setenv("A_STORE", kv)
    assert not is_spread(target("env:A_STORE")) and is_spread(target("env:NOT_SET_HERE"))
    assert run_steps(root, kv, SECOND)["publish"]["users_sent"] == len(NEW) and held(kv) == NEW


def test_sums_do_not_depend_on_who_adds_them():
    one = [Written(error="b"), Written(error="a"), Written()]
    assert add_written([add_written(one[:1]), add_written(one[1:])]) == add_written(one[::-1]) == Written(error="a")


def test_a_night_and_a_backfill_publish_by_the_steps(one_night, servers, tmp_path, monkeypatch, capsys):
    """Cut off in the middle the release is committed, and the same command goes on; the plain function is not asked."""
    (world, path), kv = one_night, url_of("redis", servers, str(tmp_path))
    night = ["daily", f"--root={path}", *world.inputs, f"--date={day(1)}", f"--kv={kv}", "--quiet"]
    with dying_at_third_bucket(monkeypatch) as done:
        assert main(night) == 1
    root = Root(path)
    assert current_release(root) == str(day(1)) and len(done) == 2
    assert main(night) == 0
    with open_store(kv) as store:
        assert store.current().release == str(day(1)) and store.note() is None
    assert problems(root, kv, str(day(1))) == []
    with monkeypatch.context() as patched:
        patched.setattr("transforms.release.publish", None)
        assert main(["daily", f"--root={path}", *world.inputs, f"--date={day(2)}", f"--kv={kv}", "--quiet"]) == 0
    assert problems(root, kv, str(day(2))) == []
    days = [f"--start={day(3)}", f"--end={day(4)}", f"--kv={kv}", "--quiet"]
    with monkeypatch.context() as patched:
        patched.setattr("transforms.release.publish", None)
        assert main(["backfill", f"--root={path}", *world.inputs, *days]) == 0
    assert problems(root, kv, str(day(4))) == []
    assert read_outcome(root, run_of(path, "backfill", day(4)))["publish"]["users_sent"] > 0


def run_of(root: str, job: str, date) -> str:
    (run,) = [name for name in os.listdir(f"{root}/staging") if name.startswith(f"{job}-{date}")]
    return run
