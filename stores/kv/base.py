"""What the job and its readers ask of a key-value store.

Two records say what a namespace holds: `Current` and, of each generation, `Generation`. Servers read them that are
upgraded later than the job, and the first versions of this software refuse a record with a key that they do not know.
So neither gets another key: a new fact of a namespace or a generation stands in the store under a key of its own,
which older readers never ask for. What they would misread raises `format` (`stores.upgrades`).
"""

import abc
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from stores.errors import StoreError
from stores.upgrades import STORE_CURRENT, STORE_GENERATION, read_record, write_record


@dataclasses.dataclass(frozen=True)
class Current:
    """What a namespace serves; stored as JSON under `<namespace>:current`.

    Attributes:
        generation: Part of every key; changes with the model.
        release: Whose vectors these are; readers open that release's index.
        model_digest: Hex.
        users: How many users the release has.
        extra: Keys that a newer version wrote; whoever publishes next writes the record of its own.
    """

    generation: str
    release: str
    model_digest: str
    users: int
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def to_bytes(self) -> bytes:
        return json.dumps(write_record(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, shown: str) -> "Current":
        """Reads what `to_bytes` wrote.

        Raises:
            StoreError: it is something else.
        """
        try:
            return read_record(STORE_CURRENT, cls, json.loads(data), shown)
        except ValueError as error:
            raise StoreError(f"{shown}: `current` is not understood ({error}); publish a release again") from None


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generation that a namespace holds, served or not.

    Attributes:
        release: Whose vectors it holds; None while the first of them are written, or after that was cut off.
        model_digest: Hex.
        users: How many users the release has.
        retired_at: When another generation took over, in seconds since 1970; None while it is served, or unfinished.
        extra: Keys that a newer version wrote; they stay as long as the generation.
    """

    release: str | None
    model_digest: str
    users: int
    retired_at: float | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def to_bytes(self) -> bytes:
        return json.dumps(write_record(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, shown: str) -> "Generation":
        """Reads what `to_bytes` wrote.

        Raises:
            StoreError: it is something else.
        """
        return cls.from_json(_load(data, shown), shown)

    @classmethod
    def from_json(cls, found: Any, shown: str) -> "Generation":
        """As `from_bytes`, of what was JSON."""
        try:
            return read_record(STORE_GENERATION, cls, found, shown)
        except ValueError as error:
            raise StoreError(f"{shown}: the list of generations is not understood ({error})") from None


def read_generations(data: bytes, shown: str) -> dict[str, Generation]:
    """Generations by name, from one JSON object of them all.

    Raises:
        StoreError: it is something else.
    """
    found = _load(data, shown)
    if not isinstance(found, dict):
        raise StoreError(f"{shown}: the list of generations is not understood (not a JSON object)")
    return {name: Generation.from_json(entry, shown) for name, entry in found.items()}


def _load(data: bytes, shown: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise StoreError(f"{shown}: the list of generations is not understood ({error})") from None


def after_move(
    known: dict[str, Generation], before: Current | None, current: Current, now: float
) -> dict[str, Generation]:
    """What the list of generations says once `current` has moved; holds the entries that change."""

    def entry_of(now_in: Current, retired_at: float | None) -> Generation:
        extra = known[now_in.generation].extra if now_in.generation in known else {}
        return Generation(now_in.release, now_in.model_digest, now_in.users, retired_at, extra)

    changed = {current.generation: entry_of(current, None)}
    if before is not None and before.generation != current.generation:
        changed[before.generation] = entry_of(before, now)
    return {name: entry for name, entry in changed.items() if known.get(name) != entry}


@dataclasses.dataclass(frozen=True)
class UploadResult:
    """What an upload did; `stored` counts what the store was seen to hold of what was sent."""

    sent: int
    deleted: int
    stored: int


Batch = tuple[np.ndarray, list[bytes]]  # user_id int64 [N], values


class KeyValueStore(abc.ABC):
    """One namespace of a key-value store: generations of user vectors, and `current`, which names one of them.

    Attributes:
        url_shown: For messages; without the password.
        namespace: First part of every key.
    """

    url_shown: str
    namespace: str

    @abc.abstractmethod
    def check(self) -> None:
        """Makes sure that the store answers, accepts the credentials and can be written to.

        Raises:
            StoreError: says which of these fails and what to do, without the password.
        """

    @abc.abstractmethod
    def current(self) -> Current | None:
        """What the namespace serves; None before anything was published."""

    @abc.abstractmethod
    def get_many(self, generation: str, user_ids: np.ndarray) -> list[bytes | None]:
        """Values of users, in the order asked; None for those that are not there."""

    @abc.abstractmethod
    def upload(
        self, generation: str, batches: Iterable[Batch], *, deletes: Iterable[np.ndarray], fresh: bool, current: Current
    ) -> UploadResult:
        """Writes values, then deletes, then moves `current`; may be repeated after any interruption.

        Args:
            generation: Where to write.
            batches: Users and their values, each user once.
            deletes: Users to remove; read after `batches` is exhausted.
            fresh: A whole new generation: leftovers of it are removed first, and the values stored are counted against
                those sent before `current` moves.
            current: What is served from then on.

        Raises:
            StoreError: the store failed, or does not hold what was sent; `current` has not moved.
        """

    @abc.abstractmethod
    def generations(self) -> dict[str, Generation]:
        """Every generation that the namespace holds, by name; the one served as `current` says."""

    @abc.abstractmethod
    def delete_generation(self, generation: str) -> int:
        """Removes a generation that is not served; returns how many users it had.

        Raises:
            StoreError: it is the one that is served.
        """

    @abc.abstractmethod
    def delete_users(self, generation: str, user_ids: np.ndarray) -> int:
        """Removes users from a generation; returns how many of them it had."""

    @abc.abstractmethod
    def count(self, generation: str) -> int:
        """Users of a generation, by going through its keys: seconds a million."""

    @abc.abstractmethod
    def close(self) -> None:
        """Gives the connection or the file back."""

    def __enter__(self) -> "KeyValueStore":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def check_not_served(self, generation: str) -> None:
        """Refuses to touch what readers read.

        Raises:
            StoreError: `current` names the generation.
        """
        current = self.current()
        if current is not None and current.generation == generation:
            raise StoreError(f"{self.url_shown}: generation {generation} is being served; publish another first")

    def check_count(self, sent: int, stored: int) -> None:
        """Refuses a fresh generation that lacks values.

        Raises:
            StoreError: fewer or more stored than sent.
        """
        if sent != stored:
            raise StoreError(
                f"{self.url_shown}: {sent} values were sent, {stored} are stored; readers were not moved, "
                "look for evictions (maxmemory-policy must be noeviction) and publish again"
            )
