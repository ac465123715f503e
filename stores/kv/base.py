"""What the job and its readers ask of a key-value store.

Two records say what a namespace holds: `Current` and, of each generation, `Generation`. Servers read them that are
upgraded later than the job, and the first versions of this software refuse a record with a key that they do not know.
So neither gets another key: a new fact of a namespace or a generation stands in the store under a key of its own,
which older readers never ask for. What they would misread raises `format` (`stores.upgrades`). Of users whose ids are
strings `Current` has two keys more, and those first versions refuse it: they would find nobody there.
"""

import abc
import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from stores.errors import StoreError
from stores.string_ids import INT64, SCHEME, STRING
from stores.upgrades import STORE_CURRENT, STORE_GENERATION, read_record, write_record


@dataclasses.dataclass(frozen=True)
class Current:
    """What a namespace serves; stored as JSON under `<namespace>:current`.

    Attributes:
        generation: Part of every key; changes with the model.
        release: Whose vectors these are; readers open that release's index.
        model_digest: Hex.
        users: How many users the release has.
        extra: `facts_of_ids`, and keys that a newer version wrote; whoever publishes next writes the record of its own.
    """

    generation: str
    release: str
    model_digest: str
    users: int
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def user_ids(self) -> str:
        """The kind of ids that clients ask by, "int64" or "string"; keys are made of the hashes of strings."""
        return str(self.extra.get(USER_IDS, INT64))

    def to_bytes(self) -> bytes:
        return json.dumps(write_record(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, shown: str) -> "Current":
        """Reads what `to_bytes` wrote; what was read lately is not parsed again, since it is asked for with every user.

        Raises:
            StoreError: it is something else, or its ids are hashed in a way that this version does not know.
        """
        return _read_current(data, shown)


@functools.lru_cache(64)
def _read_current(data: bytes, shown: str) -> Current:
    try:
        current = read_record(STORE_CURRENT, Current, json.loads(data), shown)
    except ValueError as error:
        raise StoreError(f"{shown}: `current` is not understood ({error}); publish a release again") from None
    scheme = current.extra.get(ID_SCHEME, SCHEME)
    if scheme != SCHEME or current.user_ids not in (INT64, STRING):
        raise StoreError(
            f"{shown}: user ids are {current.user_ids!r}, hashed by {scheme!r}; this version knows int64, and "
            f"string hashed by {SCHEME!r}: upgrade pinnerformer"
        )
    return current


USER_IDS, ID_SCHEME = "user_ids", "id_scheme"  # keys of `current`, as of layout.json


def facts_of_ids(user_ids: str) -> dict[str, str]:
    """What `current` says of the ids of its users: nothing where they are int64, as it always was."""
    return {USER_IDS: STRING, ID_SCHEME: SCHEME} if user_ids == STRING else {}


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


def served_generation(current: Current, known: dict[str, Generation]) -> Generation:
    """What the list of generations says of the one that is served; what a newer version wrote beside is kept."""
    extra = known[current.generation].extra if current.generation in known else {}
    return Generation(current.release, current.model_digest, current.users, None, extra)


def after_move(
    known: dict[str, Generation], before: Current | None, current: Current, now: float
) -> dict[str, Generation]:
    """What the list of generations says once `current` has moved; holds the entries that change.

    Every finished generation that is served no longer is retired, also one that a publish which was cut off right
    after its move of `current` left as if it were.
    """
    changed = {} if before is None else {before.generation: served_generation(before, known)}
    for name, entry in (known | changed).items():
        if entry.release is not None and entry.retired_at is None:
            changed[name] = dataclasses.replace(entry, retired_at=now)
    changed[current.generation] = served_generation(current, known)
    return {name: entry for name, entry in changed.items() if known.get(name) != entry}


@dataclasses.dataclass(frozen=True)
class Content:
    """What a generation holds, known by more than a name: two roots may both have a release `2026-11-24`.

    Stored apart from `Generation`, under a key of its own: readers of the version before refuse a key they do not know.

    Attributes:
        root: The id of the root, as `stores.layout.read_root_id` gives it.
        release: Of that root.
        snapshot: Hex sha256 of the release's user embeddings, as `transforms.publish.snapshot_digest` gives it.
    """

    root: str
    release: str
    snapshot: str

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Content":
        """Reads what `dataclasses.asdict` gave; keys that a later version added are left out.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(str(found["root"]), str(found["release"]), str(found["snapshot"]))


@dataclasses.dataclass(frozen=True)
class PublishNote:
    """Left in the store before the first key of a publish is written, removed when all of it is there.

    While it stands, any value of its generation may be of any of its ends.

    Attributes:
        generation: That is being written.
        ends: What it held before, and every snapshot that a publish was on the way to since.
        since: UTC, ISO 8601: when the publish began.
    """

    generation: str
    ends: tuple[Content, ...]
    since: str

    @property
    def target(self) -> Content:
        """What the last publish was on the way to."""
        return self.ends[-1]

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, shown: str) -> "PublishNote":
        """Reads what `to_bytes` wrote.

        Raises:
            StoreError: it is something else.
        """
        try:
            found = json.loads(data)
            ends = tuple(Content.from_json(end) for end in found["ends"])
            if not ends:
                raise ValueError("it names no release")
            return cls(str(found["generation"]), ends, str(found["since"]))
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{shown}: the note of a publish is not understood ({error}); remove its key") from None


def contents_from_bytes(found: dict[str, bytes]) -> dict[str, Content]:
    """Generation -> what it holds. An entry that cannot be read tells nothing, as one that is not there."""
    known = {}
    for name, data in found.items():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            known[name] = Content.from_json(json.loads(data))
    return known


def content_to_bytes(content: Content) -> bytes:
    return json.dumps(dataclasses.asdict(content)).encode()


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

    def warnings(self) -> list[str]:
        """What is wrong with the server that does not keep a release from being published, and what to do."""
        return []

    @abc.abstractmethod
    def current(self) -> Current | None:
        """What the namespace serves; None before anything was published."""

    @abc.abstractmethod
    def get_many(self, generation: str, user_ids: np.ndarray) -> list[bytes | None]:
        """Values of users, in the order asked; None for those that are not there."""

    def get_many_then_current(self, generation: str, user_ids: np.ndarray) -> tuple[list[bytes | None], Current | None]:
        """As `get_many`, and `current`, which is read no earlier than the values."""
        return self.get_many(generation, user_ids), self.current()

    @abc.abstractmethod
    def hold_writes(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Makes this handle the only one that writes while the body runs.

        Whoever held the writes before and goes on later (a process that was stopped, a machine that was cut off)
        changes nothing any more: servers compare a number that only grows with every chunk, LMDB has a lock.

        Args:
            what: Shown to whoever has to wait.

        Raises:
            StoreError: the store failed, or another process holds the lock and does not give it back in time.
        """

    @abc.abstractmethod
    def note(self) -> PublishNote | None:
        """What a publish that was not finished left; None where there is none."""

    @abc.abstractmethod
    def contents(self) -> dict[str, Content]:
        """Generation -> what it holds, as far as that is known; nothing of one that an older version wrote."""

    @abc.abstractmethod
    def set_contents(self, contents: dict[str, Content | None]) -> None:
        """Says what generations hold; None: not known any more. For whoever changes values and not `current`."""

    @abc.abstractmethod
    def upload(
        self,
        generation: str,
        batches: Iterable[Batch],
        *,
        deletes: Iterable[np.ndarray],
        fresh: bool,
        current: Current,
        note: PublishNote | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> UploadResult:
        """Writes a note, values, then deletes, then moves `current`; may be repeated after any interruption.

        Args:
            generation: Where to write.
            batches: Users and their values, each user once.
            deletes: Users to remove; read after `batches` is exhausted.
            fresh: A whole new generation: leftovers of it are removed first, and the values stored are counted against
                those sent before `current` moves.
            current: What is served from then on.
            note: Stands while values are written; its target is what the generation holds afterwards.
            confirm: Asked once everything is written, before `current` moves: raises if it shall not any more.

        Raises:
            StoreError: the store failed, does not hold what was sent, or another handle holds the writes by now;
                `current` has not moved.
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
