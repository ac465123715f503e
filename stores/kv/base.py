"""What the job and its readers ask of a key-value store."""

import abc
import dataclasses
import json
from collections.abc import Iterable

import numpy as np

from stores.errors import StoreError


@dataclasses.dataclass(frozen=True)
class Current:
    """What a namespace serves; stored as JSON under `<namespace>:current`.

    Attributes:
        generation: Part of every key; changes with the model.
        release: Whose vectors these are; readers open that release's index.
        model_digest: Hex.
        users: How many users the release has.
    """

    generation: str
    release: str
    model_digest: str
    users: int

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, shown: str) -> "Current":
        """Reads what `to_bytes` wrote.

        Raises:
            StoreError: it is something else.
        """
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise StoreError(f"{shown}: `current` is not understood ({error}); publish a release again") from None


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generation that a namespace holds, served or not.

    Attributes:
        release: Whose vectors it holds; None while the first of them are written, or after that was cut off.
        model_digest: Hex.
        users: How many users the release has.
        retired_at: When another generation took over, in seconds since 1970; None while it is served, or unfinished.
    """

    release: str | None
    model_digest: str
    users: int
    retired_at: float | None = None

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, shown: str) -> "Generation":
        """Reads what `to_bytes` wrote.

        Raises:
            StoreError: it is something else.
        """
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise StoreError(f"{shown}: the list of generations is not understood ({error})") from None


def after_move(
    known: dict[str, Generation], before: Current | None, current: Current, now: float
) -> dict[str, Generation]:
    """What the list of generations says once `current` has moved; holds the entries that change."""
    changed = {current.generation: Generation(current.release, current.model_digest, current.users)}
    if before is not None and before.generation != current.generation:
        changed[before.generation] = Generation(before.release, before.model_digest, before.users, retired_at=now)
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
