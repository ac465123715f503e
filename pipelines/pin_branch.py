"""The branch of pins, which the daily job has beside its users, and a backfill once for all of its days."""

import datetime

import apache_beam as beam

from pipelines.planning.daily_plan import JobInputs
from stores.manifests import Manifest
from stores.pin_shards import shards_before
from stores.tables import PIN_NAMES
from transforms.pins import EmbedPins
from transforms.report_outputs import REPORTS
from transforms.resume import CompletedPins
from transforms.run import RunFolder
from transforms.sort_vectors import ShardVectors


def pin_branch(
    pipeline: beam.Pipeline,
    run: RunFolder,
    date: datetime.date,
    shards: int,
    given: JobInputs,
    done: CompletedPins,
    previous: Manifest | None,
) -> tuple[beam.PCollection, beam.PCollection]:
    """Sorts, embeds and indexes the pins; returns the vector tables, one per shard, and the reports.

    Args:
        date: Of the release; the files of pins and index that are made lie in the folder of its name.
        shards: Of the root.
        done: What an earlier attempt finished.
        previous: The release before: its names of pins stay, and so do its files of shards that are as they were.
    """
    # Two costs: where one vector changed, all are cut and sorted, read and written twice; and an index is built by one
    # thread per shard, 1,500 to 4,500 pins a second (docs/scale.md). The tables are an output of their own, since the
    # users' join needs them long before there is an index.
    vectors, dtype = given.vectors, given.vectors.dtype
    names = previous.parts(PIN_NAMES) if previous else {}
    # What is the same as the night before is not made again: neither its embeddings nor its index.
    before = {} if given.settings.reindex else shards_before(previous, given.model.digest)
    to_cut = done.vectors_to_cut(vectors, shards)
    tables = pipeline | "ShardVectors" >> ShardVectors(
        run, shards, vectors, to_cut, done.shard_tables(), done.pieces(), names
    )
    reports = tables["main"] | "EmbedPins" >> EmbedPins(
        run, date, given.model, dtype, given.settings.index, before, done.pins.keys(), done.unindexed()
    )
    return tables["main"], (tables[REPORTS], reports) | "PinBranchReports" >> beam.Flatten()
