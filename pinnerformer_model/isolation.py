"""Embeds what can be embedded: a batch that fails is narrowed down to the users that make it fail."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.packed import PackedWindows, pack_sequences
from pinnerformer_model.sequences import TOKEN_COLUMNS, Sequences, form_batches

NOT_FINITE = "the embedding has NaN or infinity in it"


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The embeddings of N users, as far as they have one.

    Attributes:
        embeddings: float16 [N, d]; zeros for users that failed.
        failures: Row -> why it has none.
        halved: How many batches were cut in two because memory ran out.
    """

    embeddings: np.ndarray
    failures: dict[int, str]
    halved: int


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was not enough memory: of numpy, of torch on a CPU or on a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "DefaultCPUAllocator" in text)


def encode_healthy(
    encoder: UserEncoder, sequences: Sequences, on_batch: Callable[[int], None] | None = None
) -> Encoded:
    """Embeds users; those that raise or give no finite vector are named, and cost nobody else a vector.

    A batch that fails is bisected down to the users that cause it. It is then run once more in its own shape with
    harmless tokens in their place, so that everybody else's vector is, bit for bit, what it is in a healthy batch. Out
    of memory is nobody's fault: the batch is cut in two, and those vectors may differ in their last bit.

    Args:
        sequences: N users; none is fine.
        on_batch: Called with the number of users of every batch that is done.
    """
    work = _Work(encoder, sequences)
    for rows in form_batches(sequences.lengths, encoder.token_budget):
        work.encode(rows)
        if on_batch:
            on_batch(len(rows))
    return Encoded(work.out, dict(sorted(work.failures.items())), work.halved)


class _Work:
    def __init__(self, encoder: UserEncoder, sequences: Sequences):
        self._encoder = encoder
        self._sequences = sequences
        self.out = np.zeros((len(sequences.user_ids), encoder.embedding_dim), np.float16)
        self.failures: dict[int, str] = {}
        self.halved = 0

    def encode(self, rows: np.ndarray) -> None:
        """Embeds a batch, or says who of it cannot be embedded."""
        # The usual case is this one line: a healthy batch pays nothing for the isolation.
        vectors, error = self._attempt(rows)
        if vectors is None and error is None:  # out of memory
            self._halve(rows)
            return
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)) if vectors is not None else np.arange(len(rows))
        if not len(bad):
            self.out[rows] = vectors
            return
        # Only among the rows that came out bad; where the batch raised, that is all of them.
        culprits = self._culprits(rows[bad])
        healthy = ~np.isin(rows, list(culprits))
        self.failures |= culprits
        # Once more in its own shape and not without the culprits: another shape may round differently in the last bit,
        # and a user's vector must not depend on a sick neighbour.
        if vectors is None or healthy[bad].any():  # the culprits took others with them
            vectors, _ = self._attempt(rows, ~healthy)
        if vectors is not None and np.isfinite(vectors[healthy]).all():
            self.out[rows[healthy]] = vectors[healthy]
        elif len(rows) > 1:  # it fails as a batch, and none of its users does
            # No single culprit: a fault of the combination. Smaller batches are the only way left; it ends at one user.
            for half in np.array_split(rows[healthy], 2):
                if len(half):
                    self.encode(half)
        else:
            self.failures[int(rows[0])] = error or NOT_FINITE

    def _culprits(self, rows: np.ndarray) -> dict[int, str]:
        """Those of some users that fail on their own, found by halving."""
        vectors, error = self._attempt(rows)
        if vectors is not None:
            rows, error = rows[~np.isfinite(vectors).all(axis=1)], NOT_FINITE
        if not len(rows):
            return {}
        if len(rows) == 1 and (vectors is None or len(vectors) == 1):
            return {int(rows[0]): error or f"out of memory at {self._sequences.lengths[rows[0]]} tokens"}
        # One that came out bad in company is asked again alone: it may have been taken along.
        if len(rows) == 1:
            return self._culprits(rows)
        # With c culprits among n users about 2 c log2(n) runs, where one by one would be n.
        first, second = np.array_split(rows, 2)
        return self._culprits(first) | self._culprits(second)

    def _halve(self, rows: np.ndarray) -> None:
        if len(rows) == 1:
            self.failures[int(rows[0])] = f"out of memory at {self._sequences.lengths[rows[0]]} tokens"
            return
        self.halved += 1
        for half in np.array_split(rows, 2):
            self.encode(half)

    def _attempt(self, rows: np.ndarray, silenced: np.ndarray | None = None) -> tuple[np.ndarray | None, str | None]:
        """Runs a batch: (float16 [B, d], None), or (None, why not), or (None, None) if memory ran out.

        Args:
            silenced: bool [B]: users whose tokens are replaced by harmless ones.
        """
        try:
            batch = pack_sequences(self._sequences, rows)
            return self._encoder.encode_batch(batch if silenced is None else silence(batch, silenced)), None
        except Exception as error:  # whatever it is, it is some user's, or everybody's: then the caller refuses
            if is_out_of_memory(error):
                # The allocator keeps what the failed batch had taken; the halves need it.
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                return None, None
            lines = str(error).strip().splitlines()
            return None, f"{type(error).__name__}: {lines[0] if lines else ''}"


def silence(batch: PackedWindows, users: np.ndarray) -> PackedWindows:
    """The same batch, of the same shape, with zeros for the tokens of some users.

    Args:
        users: bool [B].
    """
    # Lengths and positions are kept: every product and every call of attention has the shape it has in health, and a
    # row of a product follows from that row and the shape alone.
    mask = torch.repeat_interleave(torch.from_numpy(users), batch.lengths)  # [T]
    changed = {}
    for name in ("pin_vectors", "since_latest_ms", "gap_ms", *TOKEN_COLUMNS):
        values = getattr(batch, name).clone()
        values[mask] = 0
        changed[name] = values
    return dataclasses.replace(batch, **changed)
