"""Canaries: a few users whose history is frozen, embedded again every night to see whether the machinery still agrees.

Drawn by hash at the first release under a model, with their rows, the vectors of their pins and the embedding they got
then. Recomputed from what was kept, the embedding must not move at all: another library, another machine, a damaged
model show here. The pin vectors kept are held against tonight's: a vector set of another space, under the name of the
old one, shows here.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.isolation import encode_healthy
from stores.files import FileEntry, Root
from stores.ids import find_sorted, splitmix64
from stores.manifests import read_manifest
from stores.names import Counter, Step
from stores.pin_vectors import VectorTable
from stores.schemas import from_binary_column, to_binary_column
from stores.tables import read_files, read_rows_of, write_part
from transforms.model import ModelReference
from transforms.report_outputs import DayReport
from transforms.run import Run
from transforms.sequences import LookUp, assemble
from transforms.step_reports import StepReport, task_report

CANARIES = 64


def draw_canaries(
    root: Root,
    histories: list[FileEntry],
    snapshot: list[FileEntry],
    day: np.datetime64,
    look_up: LookUp,
    count: int = CANARIES,
) -> pa.Table | None:
    """Freezes the users of the lowest hash, bucket after bucket until there are enough: few buckets are opened.

    Args:
        histories, snapshot: Files of the staged release.
        day: Only users embedded on this day: their embedding is of the rows and vectors there are now.
        look_up: Tonight's pin vectors.

    Returns:
        Rows of the histories with `vector` (binary, null where the pin has none) and `embedding`; None if nobody was
        embedded.
    """
    frozen: list[pa.Table] = []
    left = count
    by_bucket: dict[int, list[FileEntry]] = {}
    for entry in histories:
        by_bucket.setdefault(entry.part, []).append(entry)
    for entry in sorted(snapshot, key=lambda e: e.part):
        users = read_files(root, [entry])
        embedded = (users["embedding_date"].to_numpy() == day) & ~users["stale"].to_numpy()
        candidates = np.flatnonzero(embedded)
        ids = users["user_id"].to_numpy()
        chosen = np.sort(candidates[np.argsort(splitmix64(ids[candidates]))[:left]])
        if len(chosen) and entry.part in by_bucket:
            rows = read_rows_of(root, by_bucket[entry.part], "user_id", ids[chosen])
            at = chosen[np.searchsorted(ids[chosen], rows["user_id"].to_numpy())]
            embedding = users["embedding"].combine_chunks().take(pa.array(at))
            frozen.append(with_vectors(rows, look_up).append_column("embedding", embedding))
            left -= len(chosen)
        if left <= 0:
            break
    return pa.concat_tables(frozen).unify_dictionaries().combine_chunks() if frozen else None


def with_vectors(rows: pa.Table, look_up: LookUp) -> pa.Table:
    """Adds the pins' vectors to history rows: fixed_size_binary, null where a pin has none."""
    found, vectors = look_up(rows["pin_id"].to_numpy())
    place = np.where(found, np.cumsum(found) - 1, 0)
    column = to_binary_column(vectors).take(pa.array(place, mask=~found))
    return rows.append_column("vector", column)


def frozen_look_up(frozen: pa.Table, width: int) -> LookUp:
    """The pin vectors that were kept with the canaries, of so many numbers."""
    has = frozen.filter(frozen["vector"].is_valid())
    column = has["vector"].combine_chunks()
    dtype = np.float16 if column.type.byte_width == 2 * width else np.float32
    pins, first = np.unique(has["pin_id"].to_numpy(), return_index=True)
    vectors = from_binary_column(column, dtype)[first]

    def look_up(pin_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at, hit = find_sorted(pins, pin_ids)
        return hit, vectors[at[hit]]

    return look_up


def canary_cosines(frozen: pa.Table, look_up: LookUp, config: ModelConfig, encoder: UserEncoder) -> np.ndarray:
    """Embeds the canaries again.

    Returns:
        float64 [canaries]: cosine of each one's embedding to the one kept; 0 for one without a usable token. Canaries
        that raise are left out: users that fail have a gate of their own.
    """
    users, first = np.unique(frozen["user_id"].to_numpy(), return_index=True)
    kept = from_binary_column(frozen["embedding"])[first].astype(np.float64)
    sequences, _, _ = assemble(frozen, config, look_up)
    embedded = np.zeros(kept.shape)
    encoded = encode_healthy(encoder, sequences)
    place = np.searchsorted(users, sequences.user_ids)
    embedded[place] = encoded.embeddings
    lengths = np.linalg.norm(kept, axis=1) * np.linalg.norm(embedded, axis=1)
    cosines = np.einsum("nd,nd->n", kept, embedded) / np.where(lengths > 0, lengths, 1.0)
    return np.delete(cosines, place[list(encoded.failures)])


def pin_cosines(frozen: pa.Table, look_up: LookUp) -> np.ndarray:
    """Cosine of each pin's vector kept with the canaries to the one there is now; float64, pins that have both."""
    pins = np.unique(frozen["pin_id"].to_numpy())
    has, now = look_up(pins)
    had, kept = frozen_look_up(frozen, now.shape[1])(pins)
    both = had & has
    a, b = kept[both[had]].astype(np.float64), now[both[has]].astype(np.float64)
    return np.einsum("nd,nd->n", a, b) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@dataclasses.dataclass(frozen=True)
class CanaryCheck:
    """Embeds a run's canaries again, and freezes new ones where the model has none yet; small and picklable."""

    model: ModelReference
    dtype: str
    token_budget: int

    def measure(
        self,
        run: Run,
        tables: list[FileEntry],
        frozen_before: list[FileEntry],
        files: Callable[[str], list[FileEntry]],
    ) -> StepReport:
        """The canaries' cosines, and the file that holds them.

        Args:
            tables: Tonight's pin vectors, one table a shard.
            frozen_before: The file of the release before; none where it has none, or another model.
            files: Of a table, those of the staged release; asked for where canaries are drawn.
        """
        started = time.perf_counter()
        model = self.model.load()
        tonight = VectorTable.open(run.root, tables, self.dtype).look_up
        entries = frozen_before
        if not entries:
            day = np.datetime64(run.date)
            drawn = draw_canaries(run.root, files("histories"), files("user_embeddings"), day, tonight)
            entries = [] if drawn is None else [write_part(run.root, "canaries", run.date, 0, drawn)]
        if not entries:
            return task_report(started, {Counter.CANARIES: 0}, files={"canaries": []})
        frozen = read_files(run.root, entries, verify=True)
        encoder = UserEncoder(model.user_tower, self.token_budget, self.model.device)
        kept = canary_cosines(frozen, frozen_look_up(frozen, model.config.pin_vector_dim), model.config, encoder)
        pins = pin_cosines(frozen, tonight)
        lowest = {"cosine": float(kept.min())} if len(kept) else {}
        lowest |= {"pin_vectors_cosine": float(np.median(pins))} if len(pins) else {}
        counters: dict[str, int] = {Counter.CANARIES: len(kept), Counter.CANARY_PINS: len(pins)}
        return task_report(started, counters, files={"canaries": entries}, lowest=lowest)


def files_of_day(reports: Iterable[DayReport], day: int, table: str) -> list[FileEntry]:
    """The files of a table that the reports of a day name."""
    mine = (report for of, (_, report) in reports if of == day)
    return [entry for report in mine for entry in report.files.get(table, ())]


class CheckCanaries(beam.DoFn):
    """An empty element -> (day, (step, report)) of each day; days are of one model, pin vectors and machine.

    What is frozen does not change from day to day, nor does anything that it is embedded with: the first day with
    canaries bears the time, those after it its findings.
    """

    def __init__(self, runs: Sequence[Run], check: CanaryCheck):
        self._runs = runs
        self._check = check

    def setup(self):
        self._runs[0].check_root()

    def process(self, element: bytes, tables: list[FileEntry], reports: Iterable[DayReport]):
        """As `beam.DoFn`.

        Args:
            tables: Tonight's pin vectors.
            reports: That name the files of histories and snapshots; read where canaries are drawn.
        """
        first, found = self._runs[0], None
        entries: list[FileEntry] = []
        if first.previous is not None:
            previous = read_manifest(first.root, first.previous)
            entries = previous.tables["canaries"] if previous.model_digest == self._check.model.digest else []
        for day, run in enumerate(self._runs):
            if found is None or not entries:
                found = self._check.measure(run, tables, entries, functools.partial(files_of_day, reports, day))
                entries = found.files["canaries"]
            else:
                found = dataclasses.replace(found, seconds=0.0)
            yield day, (Step.CHECK_CANARIES, found)
