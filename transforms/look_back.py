"""The look back as a step: what buckets and shards left for it, brought together a day at a time."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from stores.files import FileEntry
from stores.ids import bucket_of
from stores.manifests import read_manifest
from stores.names import Step
from stores.tables import read_files
from transforms.acts import ACTS, BEFORE, VECTORS
from transforms.batches import from_ipc, to_ipc
from transforms.gates.hindsight import HINDSIGHT
from transforms.hindsight import HindsightCheck, Left, Previous, Vectors, vectors_of
from transforms.report_outputs import REPORTS, DayReport
from transforms.run import Run
from transforms.shard_measures import PICKED, WANTED

NOTHING = "nothing"
LEFT = (ACTS, VECTORS, BEFORE)  # files that a night leaves of its buckets

Piece = tuple[int, int, bytes]  # (bucket, number, Arrow IPC of some rows)


class ReadLeft(beam.DoFn):
    """A report -> (day, (kind, `Piece`)) of the rows of files that it names, at most 1 MB each.

    Of acts, (shard, (`wanted`, (day, ids of their pins))) is put out too. Every day is put out once more for each
    report on its histories, with nothing: a day of which nothing was left is looked back at all the same.
    """

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs

    def setup(self):
        self._runs[0].check_root()

    def process(self, element: DayReport):
        day, (step, report) = element
        if step == Step.UPDATE_HISTORIES:
            yield day, (NOTHING, None)
        for kind in LEFT:
            for entry in report.files.get(kind, ()):
                if entry.rows:
                    yield from self._read(day, kind, entry)

    def _read(self, day: int, kind: str, entry: FileEntry) -> Iterator[Any]:
        run = self._runs[day]
        rows = read_files(run.root, [entry], verify=True).combine_chunks()
        chunks = [chunk for batch in rows.to_batches() for chunk in to_ipc(batch)]
        for number, chunk in enumerate(chunks):
            yield day, (kind, (entry.part, number, chunk))
        if kind == ACTS:
            pins = np.unique(rows["pin_id"].to_numpy())
            shard = bucket_of(pins, run.layout.pin_shards)
            for one in np.unique(shard).tolist():
                yield beam.pvalue.TaggedOutput(WANTED, (one, (WANTED, (day, pins[shard == one]))))


def table_of(pieces: Iterable[Piece]) -> pa.Table | None:
    """The rows of pieces, bucket after bucket; None if there are none."""
    ordered = sorted(pieces)
    tables = [pa.Table.from_batches(from_ipc([chunk])) for _, _, chunk in ordered]
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries() if tables else None


def join_vectors(picked: Iterable[pa.Table], name: str) -> Vectors:
    """One of the two columns of what shards picked, as far as they have it."""
    parts = [vectors_of(rows, name, "pin_id") for rows in picked if rows[name].null_count < rows.num_rows]
    if not parts:
        return vectors_of(None, name)
    return Vectors.of(np.concatenate([p.ids for p in parts]), np.concatenate([p.vectors for p in parts]))


class LookBack(beam.DoFn):
    """(day, what was left) -> (day, name and figures of the look back), and its report in `reports`.

    What was left are pieces, as `ReadLeft` gives them, and the files that shards `picked`.
    """

    def __init__(self, runs: Sequence[Run], check: HindsightCheck):
        self._runs = runs
        self._check = check

    def setup(self):
        self._runs[0].check_root()

    def process(self, element: tuple[int, Iterable[tuple[str, Any]]], tables: list[FileEntry]):
        """As `beam.DoFn`; `tables` are tonight's pin vectors."""
        day, values = element
        run, groups = self._runs[day], collections.defaultdict(list)
        for kind, value in values:
            groups[kind].append(value)
        picked = [read_files(run.root, [entry]) for entry in sorted(groups[PICKED], key=lambda entry: entry.path)]
        drawn = [rows["pin_id"].to_numpy()[rows["is_drawn"].to_numpy()] for rows in picked]
        left = Left(
            acts=table_of(groups[ACTS]),
            asked=table_of(groups[VECTORS]),
            histories=table_of(groups[BEFORE]),
            drawn=np.sort(np.concatenate([np.empty(0, np.int64), *drawn])),
            before=join_vectors(picked, "before"),
            tonight=join_vectors(picked, "tonight"),
        )
        report, figures = self._check.measure(run, self._previous(day), left, tables)
        yield beam.pvalue.TaggedOutput(REPORTS, (day, (Step.LOOK_BACK, report)))
        yield day, (HINDSIGHT, figures)

    def _previous(self, day: int) -> Previous | None:
        """The release that a day's is built on; of all but the first it is one of this very run."""
        run = self._runs[day]
        if day > 0:
            return Previous(self._runs[day - 1].date, self._check.model.digest)
        if run.previous is None:
            return None
        manifest = read_manifest(run.root, run.previous)
        return Previous(manifest.day, manifest.model_digest)
