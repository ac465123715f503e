"""Publishing as steps of a pipeline, after the commit: begun in one place, buckets written by workers, then finished.

What is done to a bucket is what `transforms.publish.publish` does to it, by the same functions. A store that cannot be
written by several processes gets the whole release where it would be begun.
"""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import apache_beam as beam

from stores.errors import PinnerFormerError
from stores.kv import KeyValueStore, UploadResult, open_store
from stores.kv.parts import PartedStore
from stores.manifests import read_manifest
from transforms.publish import (
    PublishTarget,
    already_served,
    begin_publish,
    content_of,
    finish_publish,
    publish,
    refuse_overtaken,
)
from transforms.publish_buckets import BucketWriter, Difference, add_results
from transforms.release import Committed, explain_failure, write_outcome
from transforms.run import RunFolder

BEGUN = "begun"
ONE_WRITER = ("lmdb",)  # schemes of stores that one process writes: there is nothing to spread


def is_spread(target: PublishTarget | None) -> bool:
    """Whether a release may be published by several workers; where `env:NAME` is not set here, it may be."""
    if target is None:
        return False
    url = target.url
    if url.startswith("env:"):
        url = os.environ.get(url.removeprefix("env:"), "")
    return urlsplit(url).scheme not in ONE_WRITER


@dataclasses.dataclass(frozen=True)
class Publishing:
    """A committed release on its way into a store.

    Attributes:
        committed: The release.
        difference: What is written; None where nothing is left to write.
        published: What came of it, where that is known already.
        error: Why it failed, in words for the outcome.
    """

    committed: Committed
    difference: Difference | None = None
    published: dict[str, Any] | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Written:
    """What some buckets came to; of those that failed the first error in the order of the alphabet."""

    result: UploadResult = UploadResult(0, 0, 0)
    error: str | None = None


def add_written(found: Iterable[Written]) -> Written:
    """Several of them as one, in whatever order and grouping they come."""
    every = list(found)
    errors = sorted(one.error for one in every if one.error is not None)
    return Written(add_results(one.result for one in every), errors[0] if errors else None)


class BeginPublish(beam.DoFn):
    """`Committed` -> the buckets to write, in the main output, and a `Publishing`."""

    def __init__(self, run: RunFolder, target: PublishTarget):
        self._run = run
        self._target = target

    def setup(self):
        self._run.check_root()

    def process(self, committed: Committed):
        buckets: list[int] = []
        try:
            publishing, buckets = self._begin(committed)
        except PinnerFormerError as error:
            words = explain_failure(self._run.root, committed.run, committed.release, error)
            publishing = Publishing(committed, error=words)
        yield from buckets
        yield beam.pvalue.TaggedOutput(BEGUN, publishing)

    def _begin(self, committed: Committed) -> tuple[Publishing, list[int]]:
        root, target, release = self._run.root, self._target, committed.release
        with open_store(target.url, target.namespace) as store:
            if not isinstance(store, PartedStore):
                done = publish(root, release, target, unless_overtaken=True)
                return Publishing(committed, published=done), []
            refuse_overtaken(root, release)
            by = self._run.launch.root_sentinel
            fence = store.writes_of(by)
            # An engine may run this step twice: the second attempt of one launch takes nothing from the first.
            held = store.hold_writes("publishing") if fence is None else store.join_writes(fence)
            with held:
                refuse_overtaken(root, release)
                manifest = read_manifest(root, release)
                mine = content_of(root, manifest)
                served = None if target.rewrite else already_served(store, mine)
                if served is not None:
                    return Publishing(committed, published=served), []
                difference = begin_publish(root, store, manifest, mine, rewrite=target.rewrite, by=by)
                buckets = BucketWriter(root, store, difference).buckets()
                return Publishing(committed, difference), buckets


class _OfBuckets(beam.DoFn):
    """A step of which each worker opens the store once, and gives up at the first error: the outcome says it."""

    def __init__(self, run: RunFolder, target: PublishTarget):
        self._run = run
        self._target = target
        self._store: KeyValueStore | None = None
        self._writer: BucketWriter | None = None
        self._failed = False

    def setup(self):
        self._run.check_root()

    def teardown(self):
        if self._store is not None:
            self._store.close()

    def _attempt(self, publishing: Publishing, bucket: int) -> Written:
        difference = publishing.difference
        if difference is None or self._failed:
            return Written()
        try:
            if self._store is None:
                self._store = open_store(self._target.url, self._target.namespace)
            assert isinstance(self._store, PartedStore)
            with self._store.join_writes(difference.upload.fence):
                if self._writer is None:
                    self._writer = BucketWriter(self._run.root, self._store, difference)
                return self._do(self._writer, bucket)
        except PinnerFormerError as error:
            # An element, not an exception: engines would try a store that is down again and again, and lose the words.
            self._failed = True
            committed = publishing.committed
            words = explain_failure(self._run.root, committed.run, committed.release, error)
            return Written(error=words)

    def _do(self, writer: BucketWriter, bucket: int) -> Written:
        raise NotImplementedError


class WriteBucket(_OfBuckets):
    """A bucket -> `Written`, once the store has what is new in it."""

    def process(self, bucket: int, publishing: Publishing):
        yield self._attempt(publishing, bucket)

    def _do(self, writer: BucketWriter, bucket: int) -> Written:
        return Written(writer.write(bucket))


class CountBucket(_OfBuckets):
    """A bucket -> `Written`: how much of it the store has, asked once all of a fresh generation is written."""

    def process(self, bucket: int, publishing: Publishing, written: Written):
        difference = publishing.difference
        if difference is not None and difference.upload.fresh and written.error is None:
            yield self._attempt(publishing, bucket)

    def _do(self, writer: BucketWriter, bucket: int) -> Written:
        return Written(UploadResult(0, 0, writer.count(bucket)))


class FinishPublish(beam.DoFn):
    """`Publishing` -> the run's outcome, in its folder: readers are moved, or the reason is said why not."""

    def __init__(self, run: RunFolder, target: PublishTarget):
        self._run = run
        self._target = target

    def setup(self):
        self._run.check_root()

    def process(self, publishing: Publishing, written: Written, counted: Written):
        root, committed = self._run.root, publishing.committed
        found, error = publishing.published, publishing.error or written.error or counted.error
        if found is None and error is None:
            try:
                found = self._finish(publishing, written.result, counted.result)
            except PinnerFormerError as raised:
                error = explain_failure(root, committed.run, committed.release, raised)
        yield write_outcome(root, committed.run, committed.outcome, published=found, error=error)

    def _finish(self, publishing: Publishing, written: UploadResult, counted: UploadResult) -> dict[str, Any]:
        root, target, difference = self._run.root, self._target, publishing.difference
        assert difference is not None
        release = publishing.committed.release
        with open_store(target.url, target.namespace) as store:
            assert isinstance(store, PartedStore)
            if store.note() is None:  # another attempt of this step was here before
                served = already_served(store, content_of(root, read_manifest(root, release)))
                if served is not None:
                    return {**served, "users_sent": written.sent, "users_deleted": written.deleted}
            if difference.upload.fresh:
                written = dataclasses.replace(written, stored=counted.stored)
            with store.join_writes(difference.upload.fence):
                return finish_publish(store, difference, written, lambda: refuse_overtaken(root, release))


@dataclasses.dataclass
class PublishBuckets(beam.PTransform):
    """Publishes a committed release, bucket by bucket, on as many workers as there are.

    Input: `Committed`, one at most. Output: outcomes, as `transforms.release.write_outcome` gives them.

    Attributes:
        run: Under whose root the release is, and which launched it.
        target: Where to; not an element, since its URL may hold a password.
    """

    run: RunFolder
    target: PublishTarget

    def expand(self, committed: beam.PCollection[Committed]):
        begin = beam.ParDo(BeginPublish(self.run, self.target)).with_outputs(BEGUN, main="main")
        found = committed | "BeginPublish" >> begin
        begun = beam.pvalue.AsSingleton(found[BEGUN], None)
        # Numbers of buckets travel: whoever writes one reads its rows from the release.
        buckets = found.main | "SpreadBuckets" >> beam.Reshuffle()
        written = (
            buckets
            | "WriteBucket" >> beam.ParDo(WriteBucket(self.run, self.target), publishing=begun)
            | "AddWritten" >> beam.CombineGlobally(add_written)
        )
        # A second pass, and after the first as a whole: what came later may have evicted what came first.
        counted = (
            buckets
            | "CountBucket"
            >> beam.ParDo(
                CountBucket(self.run, self.target), publishing=begun, written=beam.pvalue.AsSingleton(written)
            )
            | "AddCounted" >> beam.CombineGlobally(add_written)
        )
        return found[BEGUN] | "FinishPublish" >> beam.ParDo(
            FinishPublish(self.run, self.target),
            written=beam.pvalue.AsSingleton(written),
            counted=beam.pvalue.AsSingleton(counted),
        )
