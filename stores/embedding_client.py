"""Reads user embeddings, for rankers."""

from collections.abc import Sequence

import numpy as np

from stores.errors import StoreError
from stores.id_names import Id, inner_ids
from stores.kv import Content, Current, open_store
from stores.kv.codec import decode_what_can_be


class EmbeddingClient:
    """Looks users' embeddings up in the key-value store; always of one model in one answer.

    Args:
        kv_url: As `daily --kv`.
        namespace: As `daily --namespace`.

    Attributes:
        damaged: Values met so far that could not be read: their users were reported as not found. More than zero is
            worth an alarm: `pinnerformer verify --kv URL --users N` finds them, `release --run RUN --rewrite` mends it.
    """

    damaged: int = 0

    def __init__(self, kv_url: str, namespace: str = "pinnerformer"):
        self._store = open_store(kv_url, namespace)

    @property
    def current(self) -> Current:
        """What the store serves now.

        Raises:
            StoreError: nothing was published yet, or the store is down.
        """
        return self._published(self._store.current())

    def _published(self, current: Current | None) -> Current:
        if current is None:
            raise StoreError(
                f"{self._store.url_shown}: nothing published yet in namespace {self._store.namespace}; "
                "run `pinnerformer daily --kv ...` first"
            )
        return current

    def content_of(self, current: Current) -> Content | None:
        """Which root and snapshot the store says that it serves; None where an older version wrote it."""
        return self._store.contents().get(current.generation)

    def get_many(self, user_ids: np.ndarray | Sequence[Id]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Embeddings of users, in the order asked.

        Args:
            user_ids: [N], as the logs have them: integers, or strings where the store's users have such; may repeat or
                be empty. Strings are hashed here: no table of names is read.

        Returns:
            float16 [N, d], zeros where not found; `datetime64[D]` [N], the day each was made, NaT where not found;
            bool [N], whether it was found. d is 0 if none was. A user whose stored value is damaged is not found, and
            counted in `damaged`; the others are answered.

        Raises:
            TypeError: ids of another kind than the store's (`current.user_ids`), or of none, as those of a float
                column: another user's vector is no answer.
            ValueError: ids that no int64 holds, strings that UTF-8 cannot write.
            StoreError: nothing was published yet, the store is down, or all it holds is of another model or format.
        """
        embeddings, days, found, _ = self.get_many_of(self.current, user_ids)
        return embeddings, days, found

    def get_many_of(
        self, current: Current, user_ids: np.ndarray | Sequence[Id]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Current]:
        """As `get_many`, and what it was read under: the store's next `current` if it moved in between."""
        for _ in range(3):
            ids = inner_ids(user_ids, current.user_ids)
            values, served = self._store.get_many_then_current(current.generation, ids)
            after = self._published(served)
            if after.generation == current.generation:
                break
            current = after  # a new model took over while we read: its vectors are complete, read them instead
        found = np.array([value is not None for value in values], bool)
        days = np.full(len(ids), np.datetime64("NaT"), "datetime64[D]")
        if not found.any():
            return np.zeros((len(ids), 0), np.float16), days, found, after
        vectors, day, good = decode_what_can_be([value for value in values if value is not None], current.model_digest)
        if found.all() and good.all():
            return vectors, day.astype("datetime64[D]"), found, after
        self.damaged += int((~good).sum())
        found[found] = good
        embeddings = np.zeros((len(ids), vectors.shape[1]), np.float16)
        embeddings[found] = vectors[good]
        days[found] = day[good].astype("datetime64[D]")
        return embeddings, days, found, after

    def close(self) -> None:
        """Gives the connection back."""
        self._store.close()

    def __enter__(self) -> "EmbeddingClient":
        return self

    def __exit__(self, *_) -> None:
        self.close()
