"""Runs the user tower over slices of active users."""

import dataclasses
import datetime
import logging
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.ml.inference.base import ModelHandler, RunInference

from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.isolation import encode_healthy
from stores.errors import InputError
from stores.names import Counter, Step
from stores.schemas import to_binary_column, user_embeddings_schema
from stores.string_ids import INT64, STRING
from stores.tables import part_stem, write_rows
from transforms.markers import CompletionMarker, write_marker
from transforms.model import ModelReference
from transforms.report_outputs import REPORTS, tagged
from transforms.run import Run
from transforms.sequences import JoinedSlice
from transforms.step_reports import StepReport, task_report

LOG = logging.getLogger(__name__)

# A slice of at least so many users, of whom not one can be embedded, fails the job: something else is wrong. A smaller
# one may consist of damaged users by chance.
HOPELESS_USERS = 8


@dataclasses.dataclass(frozen=True)
class EmbeddedSlice:
    """The embeddings of one slice.

    Attributes:
        bucket, number: Of the slice.
        user_ids: int64 [N].
        embeddings: float16 [N, d]; zeros where a user failed.
        last_action_ms: int64 [N].
        failures: Row -> why it has no embedding.
        halved: Batches that were cut in two for want of memory.
        tokens: How many the model saw.
        seconds: Of model time.
        joined: What the join of the slice did.
    """

    bucket: int
    number: int
    user_ids: np.ndarray
    embeddings: np.ndarray
    last_action_ms: np.ndarray
    failures: dict[int, str]
    halved: int
    tokens: int
    seconds: float
    joined: StepReport

    def to_rows(self, date: datetime.date) -> pa.Table:
        """Rows of the table user_embeddings; a user that failed has a null for an embedding."""
        count, dim = self.embeddings.shape
        failed = np.zeros(count, bool)
        failed[list(self.failures)] = True
        # A null, and not a missing row: the snapshot must know who was tried, to mark the old vector `stale`.
        embeddings = to_binary_column(self.embeddings)
        columns = [
            pa.array(self.user_ids),
            pc.if_else(pa.array(failed), None, embeddings) if failed.any() else embeddings,
            pa.array(np.full(count, np.datetime64(date))),
            pa.array(self.last_action_ms),
            pa.array(failed),
        ]
        return pa.table(columns, schema=user_embeddings_schema(dim))


def embed_slice(run: Run, joined: JoinedSlice, encoder: UserEncoder) -> EmbeddedSlice:
    """Embeds the users of a slice; what comes out depends on the slice and the model only.

    Raises:
        InputError: not one of at least `HOPELESS_USERS` users could be embedded.
    """
    started = time.perf_counter()
    user_ids = joined.sequences.user_ids
    encoded = encode_healthy(
        encoder, joined.sequences, on_batch=lambda users: run.note_progress(Step.EMBED_USERS, users, tasks=0)
    )
    run.note_progress(Step.EMBED_USERS, 0)
    if len(encoded.failures) == len(user_ids) >= HOPELESS_USERS:
        raise InputError(
            f"--model: none of the {len(user_ids)} users of slice {joined.number} of bucket {joined.bucket} could be "
            f"embedded ({encoded.failures[0]}); that is the model's fault or the machine's, not the users'"
        )
    return EmbeddedSlice(
        joined.bucket,
        joined.number,
        user_ids,
        encoded.embeddings,
        joined.last_action_ms,
        encoded.failures,
        encoded.halved,
        len(joined.sequences.timestamp_ms),
        time.perf_counter() - started,
        joined.report,
    )


class UserTowerHandler(ModelHandler[JoinedSlice, EmbeddedSlice, UserEncoder]):
    """Embeds whole slices; batches are formed inside, by length, so Beam's own batching is off.

    One element in, one element out: users' vectors do not depend on which bundle their slice came in.
    """

    def __init__(self, run: Run, model: ModelReference, token_budget: int):
        super().__init__()
        self._run = run
        self._reference = model
        self._token_budget = token_budget

    def load_model(self) -> UserEncoder:
        # RunInference calls no `setup` of ours, but this, once per process before the first element.
        self._run.check_root()
        loaded = self._reference.load()
        return UserEncoder(loaded.user_tower, self._token_budget, self._reference.device)

    def run_inference(
        self, batch: Sequence[JoinedSlice], model: UserEncoder, inference_args: dict[str, Any] | None = None
    ) -> list[EmbeddedSlice]:
        # A list, not a generator: a generator would run outside Beam's failure counter and out-of-memory guard.
        return [embed_slice(self._run, joined, model) for joined in batch]

    def get_num_bytes(self, batch: Sequence[JoinedSlice]) -> int:
        return sum(joined.sequences.pin_vectors.nbytes for joined in batch)

    def get_metrics_namespace(self) -> str:
        return Step.EMBED_USERS


def norm_range(embeddings: np.ndarray) -> tuple[dict[str, float], dict[str, float], int, int]:
    """Lowest and highest L2 norm of the finite vectors of float16 [N, d]; how many are not; how many are constant.

    A constant vector is one number repeated: what a dead layer gives.
    """
    # In float32: the square of a float16 overflows at 256.
    norms = np.linalg.norm(embeddings.astype(np.float32), axis=1)
    finite = norms[np.isfinite(norms)]
    lowest = {"norm": float(finite.min())} if len(finite) else {}
    highest = {"norm": float(finite.max())} if len(finite) else {}
    constant = int((embeddings == embeddings[:, :1]).all(axis=1).sum())
    return lowest, highest, len(norms) - len(finite), constant


def slice_reports(embedded: EmbeddedSlice, user_ids: str = INT64) -> dict[Step, StepReport]:
    """What the join and the embedding of a slice did, by step.

    Args:
        user_ids: What the root's users have: names of strings are not at hand here, `staged.json` has them.
    """
    rows = sorted(embedded.failures)
    lowest, highest, not_finite, constant = norm_range(np.delete(embedded.embeddings, rows, axis=0))
    counters: dict[str, int] = {
        Counter.USERS_EMBEDDED: len(embedded.user_ids) - len(rows),
        Counter.USERS_FAILED: len(rows),
        Counter.BATCHES_HALVED: embedded.halved,
        Counter.TOKENS: embedded.tokens,
        Counter.USERS_NOT_FINITE: not_finite,
        Counter.USERS_CONSTANT: constant,
    }
    failures = [(int(embedded.user_ids[row]), embedded.failures[row]) for row in rows]
    for user, why in failures:
        LOG.warning("user %s%d was not embedded: %s", "with hash " if user_ids == STRING else "", user, why)
    started = time.perf_counter() - embedded.seconds
    done = task_report(started, counters, lowest=lowest, highest=highest, failures=failures)
    return {Step.JOIN_VECTORS: embedded.joined, Step.EMBED_USERS: done}


class WriteEmbedded(beam.DoFn):
    """EmbeddedSlice -> (bucket, its staged file): inference, the most expensive work of a run, is never repeated."""

    def __init__(self, run: Run):
        self._run = run

    def setup(self):
        self._run.check_root()

    def process(self, embedded: EmbeddedSlice):
        run = self._run
        # A file before the marker, never the other way round: a marker without its file would be a slice lost.
        entry = write_rows(run.root, f"{run.staging}/embedded", embedded.bucket, embedded.to_rows(run.date))
        reports = slice_reports(embedded, run.layout.user_ids)
        task = slice_task(embedded.bucket, embedded.number)
        write_marker(run.root, run.staging, Step.EMBED_USERS, task, CompletionMarker(reports, [entry]))
        yield embedded.bucket, entry
        for step, done in reports.items():
            yield tagged(step, done)


def slice_task(bucket: int, number: int) -> str:
    """A slice's name as a task of a run; `slice_key` is the inverse."""
    return f"{part_stem(bucket)}-{number:05d}"


def slice_key(task: str) -> tuple[int, int]:
    """(bucket, number) of a slice's name."""
    _, bucket, number = task.split("-")
    return int(bucket), int(number)


def batch_of_one(joined: JoinedSlice) -> list[JoinedSlice]:
    return [joined]


@dataclasses.dataclass
class EmbedUsers(beam.PTransform):
    """Embeds active users.

    Input: JoinedSlice. Output: `main`, (bucket, file of rows of user_embeddings), and `reports`.
    """

    run: Run
    model: ModelReference
    token_budget: int

    def expand(self, slices: beam.PCollection[JoinedSlice]):
        handler = UserTowerHandler(self.run, self.model, self.token_budget)
        # Shuffling vectors would cost 533 bytes per user again, and a retried bundle the inference: so the output is a
        # file name.
        return (
            slices
            | "BatchOfOne" >> beam.Map(batch_of_one)  # unbatched, RunInference takes an element for a batch
            | "RunInference" >> RunInference(handler.with_no_batching())
            | "WriteEmbedded" >> beam.ParDo(WriteEmbedded(self.run)).with_outputs(REPORTS, main="main")
        )
