"""Joins the histories of active users with the vectors of their pins: the sequences that the user tower reads."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.sequences import Sequences
from stores.files import FileEntry
from stores.ids import bucket_of, find_sorted
from stores.names import Counter, Step
from stores.pin_vectors import map_vector_table
from transforms.batches import MAX_SHUFFLED_BYTES, from_ipc
from transforms.run import Run
from transforms.sorted_rows import group_starts, rank_within_groups
from transforms.step_reports import StepReport, task_report
from transforms.vector_tables import SharedVectorTable

SliceKey = tuple[int, int]  # (bucket, number within it)

# pin_id int64 [N] -> (found bool [N], vector [found.sum(), width])
LookUp = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class JoinedSlice:
    """The sequences of one slice of active users.

    Attributes:
        bucket: Of its users.
        number: Of the slice within the bucket.
        sequences: Users with at least one usable token, by user_id.
        last_action_ms: int64 [N]: the newest engagement of each, usable or not.
        report: What the join did; it is reported with the slice's embedding, so that the two are one task.
    """

    bucket: int
    number: int
    sequences: Sequences
    last_action_ms: np.ndarray
    report: StepReport


def model_codes(column: pa.ChunkedArray, vocabulary: tuple[str, ...]) -> np.ndarray:
    """int32 [N]: each string's place in the model's vocabulary, -1 where it has none."""
    # Words are looked up once per chunk's dictionary, not once per row.
    place = {word: code for code, word in enumerate(vocabulary)}
    parts = [np.empty(0, np.int32)]
    for chunk in column.chunks:
        mapping = np.array([place.get(word, -1) for word in chunk.dictionary.to_pylist()], np.int32)
        parts.append(mapping[chunk.indices.to_numpy()] if len(chunk) else np.empty(0, np.int32))
    return np.concatenate(parts)


def token_columns(
    rows: pa.Table, action_vocabulary: tuple[str, ...], surface_vocabulary: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the towers read of log rows beside their pins: the one place where a column of the log becomes a token's.

    Args:
        rows: N rows of schema `ENGAGEMENTS`.
        action_vocabulary, surface_vocabulary: Of the model.

    Returns:
        `TOKEN_COLUMNS` -> [N], in the types of `Sequences`; bool [N], whether the model knows the row's words.
    """
    action, surface = model_codes(rows["action"], action_vocabulary), model_codes(rows["surface"], surface_vocabulary)
    columns = {
        "action": action,
        "surface": surface,
        "timestamp_ms": rows["timestamp_ms"].to_numpy(),
        "duration_s": rows["duration_s"].to_numpy(),
    }
    return columns, (action >= 0) & (surface >= 0)


def assemble(rows: pa.Table, config: ModelConfig, look_up: LookUp) -> tuple[Sequences, np.ndarray, dict[str, int]]:
    """Turns histories into sequences: the newest `max_sequence_length` USABLE tokens of every user.

    A token is usable if its action and surface are in the model's vocabularies and its pin has a vector.

    Args:
        rows: Whole histories of some users, in the order of the histories.
        config: Of the model.
        look_up: Vectors of pins.

    Returns:
        The sequences of the users with at least one usable token; their last_action_ms int64 [N]; counters
        tokens, tokens_out_of_vocabulary, tokens_without_vector, users_without_token.
    """
    user_id = rows["user_id"].to_numpy()
    columns, in_vocabulary = token_columns(rows, config.action_vocabulary, config.surface_vocabulary)
    # The look-up reads a vector per row from the tables, the vocabulary test nothing: so the words are tested first.
    known = np.flatnonzero(in_vocabulary)
    found, vectors = look_up(rows["pin_id"].to_numpy()[known])
    usable = known[found]

    user = user_id[usable]
    first = group_starts(user)
    length = np.diff(np.r_[first, len(user)])
    # The cut comes after the filter: M USABLE tokens. Cut first, a user with many unknown pins would be embedded from
    # few.
    kept = rank_within_groups(user) < config.max_sequence_length
    usable, vectors = usable[kept], vectors[kept] if not kept.all() else vectors
    # Of the whole history: a user whose newest act is unusable has acted all the same, and must not count as idle.
    everyone, start = np.unique(user_id, return_index=True)
    with_token = user[first]
    counters: dict[str, int] = {
        Counter.TOKENS: len(usable),
        Counter.TOKENS_OUT_OF_VOCABULARY: rows.num_rows - len(known),
        Counter.TOKENS_WITHOUT_VECTOR: len(known) - int(found.sum()),
        Counter.USERS_WITHOUT_TOKEN: len(everyone) - len(with_token),
    }
    sequences = Sequences(
        user_ids=with_token,
        offsets=np.r_[0, np.cumsum(np.minimum(length, config.max_sequence_length))].astype(np.int64),
        pin_vectors=vectors,
        **{name: column[usable] for name, column in columns.items()},
    )
    return sequences, columns["timestamp_ms"][start[np.searchsorted(everyone, with_token)]], counters


def unpack_slice(chunks: Iterable[tuple[int, bytes]]) -> pa.Table:
    """The rows of a slice, its chunks put back in order."""
    return pa.Table.from_batches(from_ipc(chunk for _, chunk in sorted(chunks, key=lambda c: c[0])))


def join_slice(
    run: Run, key: SliceKey, rows: pa.Table, config: ModelConfig, look_up: LookUp, started: float
) -> JoinedSlice:
    """Assembles the sequences of a slice and says what it did; `started` is when that began."""
    sequences, last_action_ms, counters = assemble(rows, config, look_up)
    run.note_progress(Step.JOIN_VECTORS, rows.num_rows)
    return JoinedSlice(*key, sequences, last_action_ms, task_report(started, counters))


class _Joiner(beam.DoFn):
    def __init__(self, run: Run, config: ModelConfig, dtype: str):
        self._run = run
        self._config = config
        self._dtype = dtype

    def setup(self):
        self._run.check_root()

    def join(self, key: SliceKey, rows: pa.Table, look_up: LookUp, started: float) -> JoinedSlice:
        return join_slice(self._run, key, rows, self._config, look_up, started)


class JoinMapped(_Joiner):
    """((bucket, slice), chunks) -> JoinedSlice, looking vectors up in a table that all workers of a machine map."""

    def __init__(self, run: Run, config: ModelConfig, dtype: str):
        super().__init__(run, config, dtype)
        self._vectors = SharedVectorTable(run.root, dtype)

    def process(self, element: tuple[SliceKey, Iterable[tuple[int, bytes]]], tables: list[FileEntry]):
        started = time.perf_counter()
        look_up = self._vectors.open(tables).look_up
        yield self.join(element[0], unpack_slice(element[1]), look_up, started)


def ask_for_pins(
    element: tuple[SliceKey, Iterable[tuple[int, bytes]]], config: ModelConfig, shards: int
) -> Iterator[tuple[int, tuple[SliceKey, np.ndarray]]]:
    """Yields (shard, (slice, sorted distinct pin ids)): the vectors that a slice needs."""
    rows = unpack_slice(element[1])
    known = model_codes(rows["action"], config.action_vocabulary) >= 0
    known &= model_codes(rows["surface"], config.surface_vocabulary) >= 0
    # Distinct ones: a popular pin is asked for once per slice and not once per token, 0.85 of them (docs/scale.md).
    pins = np.unique(rows["pin_id"].to_numpy()[known])
    shard = bucket_of(pins, shards)
    for s in np.unique(shard):
        yield int(s), (element[0], pins[shard == s])


def keep_rows(
    element: tuple[SliceKey, Iterable[tuple[int, bytes]]],
) -> Iterator[tuple[SliceKey, tuple[int, bytes]]]:
    """A slice's chunks one by one: a value that is shuffled stays within 1 MB."""
    for chunk in element[1]:
        yield element[0], chunk


class AnswerPins(beam.DoFn):
    """(shard, its table and the requests) -> (slice, (pin ids, vectors)), each at most 1 MB."""

    def __init__(self, run: Run, dtype: str):
        self._run = run
        self._dtype = dtype

    def setup(self):
        self._run.check_root()

    def process(self, element):
        _, groups = element
        (entry,) = groups["table"]
        ids, vectors = map_vector_table(self._run.root, entry, self._dtype)
        # 16 bytes for the id and what pickling adds per row.
        step = max(1, MAX_SHUFFLED_BYTES // (vectors.dtype.itemsize * vectors.shape[1] + 16))
        for key, pins in groups["requests"]:
            at, hit = find_sorted(ids, pins)
            at, pins = at[hit], pins[hit]
            for start in range(0, len(pins), step):
                yield key, (pins[start : start + step], vectors[at[start : start + step]])


class JoinAnswered(_Joiner):
    """(slice, its chunks and the answers) -> JoinedSlice."""

    def process(self, element):
        started = time.perf_counter()
        key, groups = element
        answers = list(groups["answers"])
        ids = np.concatenate([np.empty(0, np.int64), *(pins for pins, _ in answers)])
        vectors = np.concatenate([np.empty((0, self._config.pin_vector_dim), self._dtype), *(v for _, v in answers)])
        # Answers come in the shuffle's order, from several shards. An id is in one of them only, so the order is
        # unique.
        order = np.argsort(ids)
        ids, vectors = ids[order], vectors[order]

        def look_up(pin_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            at, hit = find_sorted(ids, pin_ids)
            return hit, vectors[at[hit]]

        yield self.join(key, unpack_slice(groups["rows"]), look_up, started)


@dataclasses.dataclass
class JoinPinVectors(beam.PTransform):
    """Joins slices of histories with pin vectors.

    `broadcast`: every worker maps the sorted tables of all shards; nothing but rows is shuffled. `shuffle`: slices ask
    for their distinct pins, shards answer; no worker sees all vectors. Both give the same sequences, bit for bit.

    Input: ((bucket, slice), (index, Arrow IPC bytes)), and the pin vector tables, one per shard. Output: JoinedSlice.
    """

    run: Run
    config: ModelConfig
    tables: beam.PCollection[FileEntry]
    dtype: str
    join: str

    def __post_init__(self):
        super().__init__()
        if self.join not in ("broadcast", "shuffle"):
            raise ValueError(f"join must be broadcast or shuffle, got {self.join!r}")

    def expand(self, slices: beam.PCollection[tuple[SliceKey, tuple[int, bytes]]]):
        # A slice of histories is one or two chunks of at most 1 MB; grouping also spreads slices over workers, which a
        # big bucket needs.
        grouped = slices | "GroupBySlice" >> beam.GroupByKey()
        if self.join == "broadcast":
            # One pass, and vectors never move; every worker's machine must hold all tables on disk. Where they do not
            # fit, `shuffle`.
            return grouped | "JoinMapped" >> beam.ParDo(
                JoinMapped(self.run, self.config, self.dtype), tables=beam.pvalue.AsList(self.tables)
            )
        # Three more shuffles: requests to the shards, vectors back (the largest thing a night can move), rows to meet
        # them. In return a worker maps one shard's table at a time.
        requests = grouped | "AskForPins" >> beam.FlatMap(
            ask_for_pins, config=self.config, shards=self.run.layout.pin_shards
        )
        answers = (
            {"table": self.tables | "ByShard" >> beam.Map(lambda entry: (entry.part, entry)), "requests": requests}
            | "MeetAtShard" >> beam.CoGroupByKey()
            | "AnswerPins" >> beam.ParDo(AnswerPins(self.run, self.dtype))
        )
        return (
            {"rows": grouped | "KeepRows" >> beam.FlatMap(keep_rows), "answers": answers}
            | "MeetAtSlice" >> beam.CoGroupByKey()
            | "JoinAnswered" >> beam.ParDo(JoinAnswered(self.run, self.config, self.dtype))
        )
