"""What one root and its store answer: vectors, pins of users, neighbours of pins, releases."""

import dataclasses
import datetime
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.serving.catalogue import Catalogue, read_catalogue, stamp_of
from pipelines.serving.filtered import Matching, best_matching, best_of
from pipelines.serving.problems import Problem, UnknownId, invalid
from stores.errors import StoreError
from stores.files import Root
from stores.id_names import PINS, USERS, Id, NamedIds, inner_ids, quoted
from stores.ids import find_sorted
from stores.kv import Current
from stores.manifests import Manifest, read_manifest
from stores.releases import chain, current_release
from stores.retriever import Opened, Retriever
from stores.schemas import from_binary_column
from stores.string_ids import STRING
from stores.tables import read_files

KEPT_FILTERS = 8  # a byte for every pin of the release, and up to 20 MiB of vectors where few match; in each process
KEPT_RELEASES = 2  # open at a time: the one served, and the one before or the next
MOVES = 5  # of the store while one question is answered: nobody publishes that often
LOOK_S = 1.0  # how often a root is looked at for a release to open before the store serves it


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Users' vectors, all of one release.

    Attributes:
        current: What the store served.
        users: As asked.
        inner: int64 [N].
        embeddings: float16 [N, d], zeros where not found; d is 0 if nobody was.
        days: datetime64[D] [N].
        found: bool [N].
    """

    current: Current
    users: Sequence[Id]
    inner: np.ndarray
    embeddings: np.ndarray
    days: np.ndarray
    found: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pins:
    """Pins found for one user or pin, best first.

    Attributes:
        inner: int64 [<= k].
        ids: As the logs have them: int64 or object [<= k].
        scores: float32 [<= k], inner products of unit vectors.
    """

    inner: np.ndarray
    ids: np.ndarray
    scores: np.ndarray


class PinVectors:
    """All pin vectors of a release, read when they are first asked for."""

    def __init__(self, opened: Opened):
        self._root, self.entries = opened.root, [e for e in opened.manifest.tables["pin_embeddings"] if e.rows]

    @functools.cached_property
    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids int64 [P], ascending; float16 [P, d].

        Raises:
            StoreError: a file is missing or damaged.
        """
        tables = [read_files(self._root, [entry], ["pin_id", "embedding"]) for entry in self.entries]
        ids = np.concatenate([np.empty(0, np.int64), *(table["pin_id"].to_numpy() for table in tables)])
        vectors = [from_binary_column(table["embedding"]) for table in tables]
        order = np.argsort(ids, kind="stable")
        return ids[order], np.concatenate(vectors)[order] if vectors else np.empty((0, 0), np.float16)


@dataclasses.dataclass(frozen=True, eq=False)
class Release:
    """A release that is open for questions.

    Attributes:
        opened: Its index, and what its manifest says.
        pins: Shared with an open release of the same files.
    """

    opened: Opened
    pins: PinVectors

    @property
    def manifest(self) -> Manifest:
        return self.opened.manifest

    @property
    def root(self) -> Root:
        return self.opened.root

    @property
    def name(self) -> str:
        return self.opened.current.release

    @property
    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """As `PinVectors.read`."""
        return self.pins.read


class Filters:
    """What filters let through of the pins of one release, by one catalogue; remembered, the latest asked for."""

    def __init__(self, pins: PinVectors, catalogue: Catalogue):
        self.pins, self.catalogue = pins, catalogue
        self.matching = functools.lru_cache(KEPT_FILTERS)(self._match)

    def _match(self, where: str) -> Matching:
        return Matching(self.pins.read, self.catalogue.matching(where))


class Reader:
    """Answers questions about one root and one namespace of one store. Safe to use from several threads.

    It follows what the store serves. A release is opened in the background as soon as the root has it, before the
    store serves it, so that nobody waits for it then; whoever asks before it is open waits.

    Args:
        root: The job's root.
        kv: As `daily --kv`.
        namespace: As `daily --namespace`.
        catalogue: A Parquet file of pins, for filters and for names.
    """

    def __init__(self, root: str, kv: str, namespace: str = "pinnerformer", catalogue: str | None = None):
        self.root_shown = root
        self._connect = functools.partial(Retriever, root, kv, namespace)
        self._retriever = self._connect()
        self._releases: dict[tuple[str, str, str], Release] = {}  # (generation, release, model) -> open
        self._lock = threading.Lock()
        self._catalogue = read_catalogue(catalogue) if catalogue else None
        self._filters: Filters | None = None

    # What is served

    def current(self) -> Current:
        """What the store serves.

        Raises:
            StoreError: nothing is published, or the store is down.
        """
        return self._retriever.client.current

    def release(self, current: Current | None = None) -> Release:
        """The release that the store serves, open for search; of another `current` that one.

        Raises:
            StoreError: nothing is published, the store is down, or it does not belong to the root.
        """
        current = self.current() if current is None else current
        key = (current.generation, current.release, current.model_digest)
        found = self._releases.get(key)
        if found is not None:
            return found
        # Two threads that both see a new release would load its index twice, and have both in memory.
        with self._lock:
            found = self._releases.get(key)
            if found is None:
                opened = self._retriever.load(current)
                found = Release(opened, self._pins_of(opened))
                kept = list(self._releases.items())[-(KEPT_RELEASES - 1) :]
                self._releases = dict([*kept, (key, found)])
            return found

    def _pins_of(self, opened: Opened) -> PinVectors:
        """The vectors of a release that is being opened: those of one that is open, where they are the same."""
        pins = PinVectors(opened)
        same = (r.pins for r in self._releases.values() if r.root.url == opened.root.url)
        return next((other for other in same if other.entries == pins.entries), pins)

    def follow(self, ahead: bool = True) -> Release:
        """Opens what is served, and what will be next; for whoever looks now and then, in the background.

        Args:
            ahead: Whether to open what will be next.

        Raises:
            StoreError: as `release`.
        """
        current = self.current()
        served = self.release(current)
        self._mend(served, current)
        self._read_catalogue_again()
        newest = current_release(served.root) if ahead else None
        if newest is not None and newest != current.release:
            manifest = read_manifest(served.root, newest)
            # Of another model it will be published into another generation, whose name is not known yet.
            if not manifest.dropped and manifest.model_digest == current.model_digest:
                self._open_vectors(self.release(dataclasses.replace(current, release=newest)))
        self._open_vectors(served)
        return served

    def _open_vectors(self, release: Release) -> None:
        release.vectors  # noqa: B018 - read now, so that nobody waits for it, and before processes are forked

    def state(self) -> tuple[object, ...]:
        """What is open: equal as long as it is the same."""
        return (*self._releases.values(), self._catalogue)

    def reconnect(self) -> None:
        """Opens a connection of its own in a process that was forked; what is open stays open."""
        self._retriever, self._lock = self._connect(), threading.Lock()

    def _mend(self, served: Release, current: Current) -> None:
        """Takes over a manifest that `erase` or `gc` wrote again; the index stays as it is."""
        manifest = read_manifest(served.root, served.name)
        if manifest.revision != served.manifest.revision:
            histories = manifest.parts("histories")
            newer = Release(dataclasses.replace(served.opened, manifest=manifest, histories=histories), served.pins)
            key = (current.generation, current.release, current.model_digest)
            with self._lock:
                self._releases = {**self._releases, key: newer}

    def _read_catalogue_again(self) -> None:
        catalogue = self._catalogue
        if catalogue is not None and stamp_of(catalogue.path) != catalogue.stamp:
            self._catalogue = read_catalogue(catalogue.path)

    def releases(self, limit: int) -> dict[str, Any]:
        """The newest releases of the root, and which is served.

        Raises:
            StoreError: as `release`.
        """
        current = self.current()
        root = self.release(current).root
        found: list[dict[str, Any]] = []
        for manifest in chain(root):
            if len(found) == limit:
                break
            found.append(_summary(manifest))
        return {"served": current.release, "newest": current_release(root), "releases": found}

    @property
    def catalogue(self) -> Catalogue | None:
        return self._catalogue

    # Questions

    def vectors(self, users: Sequence[Id]) -> Vectors:
        """Users' vectors and what they were read under.

        Raises:
            Problem: ids of another kind than the store's.
            StoreError: nothing is published, or the store is down.
        """
        current = self.current()
        for _ in range(MOVES):
            inner = _inner(users, current.user_ids, USERS)
            embeddings, days, found, after = self._retriever.client.get_many_of(
                current, _as_given(users, inner, current)
            )
            if (after.generation, after.release) == (current.generation, current.release):
                return Vectors(after, users, inner, embeddings, days, found)
            current = after  # it moved while values were read: they may be of either release
        raise StoreError("the store moved from release to release while it was read; ask again")

    def pins_of_users(
        self, users: Sequence[Id], k: int, *, exclude_engaged: bool = False, where: str = ""
    ) -> tuple[Vectors, Release, list[Pins | None]]:
        """The k best pins of users, all of one release; None of a user who has no vector.

        Raises:
            Problem: ids of another kind, a filter that cannot be answered.
            StoreError: as `release`.
        """
        vectors = self.vectors(users)
        release = self.release(vectors.current)
        asked = np.flatnonzero(vectors.found)
        matching = self._matching(where, release)
        engaged = [_NOBODY] * len(asked)
        if exclude_engaged:
            engaged = [self.engaged(release, int(vectors.inner[row])) for row in asked]
        queries = vectors.embeddings[asked].astype(np.float32)
        found = self._search(release, queries, k, matching, engaged) if len(asked) else []
        answers: list[Pins | None] = [None] * len(users)
        for row, pins in zip(asked.tolist(), found, strict=True):
            answers[row] = pins
        return vectors, release, answers

    def neighbours(self, pin: Id, k: int, *, where: str = "") -> tuple[Release, Pins]:
        """The pins nearest to a pin, without itself.

        Raises:
            UnknownId: the release has no such pin.
            Problem: an id of another kind, a filter that cannot be answered.
            StoreError: as `release`.
        """
        release = self.release()
        inner = _inner([pin], PINS.kind(release.manifest), PINS)
        vector = self.vector_of_pin(release, int(inner[0]))
        if vector is None:
            shown = quoted(pin) if isinstance(pin, str) else str(pin)
            raise UnknownId(
                f"pin {shown}: not in release {release.name}; it is spelled otherwise in the pin vectors, or was not "
                f"among them ({release.manifest.rows('pin_embeddings'):,} pins are)"
            )
        matching = self._matching(where, release)
        (pins,) = self._search(release, vector[None].astype(np.float32), k, matching, [inner])
        return release, pins

    def vector_of_pin(self, release: Release, pin: int) -> np.ndarray | None:
        """float16 [d] of a pin by its inner id; None where the release has it not."""
        ids, embeddings = release.vectors
        at, found = find_sorted(ids, np.array([pin]))
        return embeddings[at[0]] if found[0] else None

    def engaged(self, release: Release, user: int) -> np.ndarray:
        """Pins of the kept history of a user, by the inner id: int64, sorted.

        Raises:
            StoreError: the release has no histories any more, or a file is damaged.
        """
        if "histories" in release.manifest.dropped:
            raise StoreError(f"release {release.name} has no histories any more (`gc` removed them)")
        return self._retriever.engaged(release.opened, np.array([user]))

    def _matching(self, where: str, release: Release) -> Matching | None:
        """Pins that a filter lets through; None where there is no filter."""
        if not where.strip():
            return None
        catalogue = self._catalogue
        if catalogue is None:
            raise invalid("where: there is no catalogue here; start `pinnerformer serve` with --catalogue FILE")
        kind = PINS.kind(release.manifest)
        if catalogue.kind != kind:
            raise Problem(503, f"the catalogue's pin_id is {catalogue.kind}, the pin ids of the root are {kind}")
        # Of another release or catalogue everything is another; old ones are not kept in memory for it.
        filters = self._filters
        if filters is None or filters.pins is not release.pins or filters.catalogue is not catalogue:
            filters = self._filters = Filters(release.pins, catalogue)
        return filters.matching(where)

    def _search(
        self, release: Release, queries: np.ndarray, k: int, matching: Matching | None, without: list[np.ndarray]
    ) -> list[Pins]:
        opened = release.opened
        if matching is None:
            found = best_of(opened.shards, queries, k, opened.ef, without)
        else:
            found = best_matching(opened.shards, queries, k, opened.ef, matching, without)
        answers = []
        for pin_ids, scores in zip(found.pin_ids, found.scores, strict=True):
            kept = pin_ids >= 0
            pins = pin_ids[kept]
            answers.append(Pins(pins, self._retriever.named(opened, pins), scores[kept]))
        return answers

    def close(self) -> None:
        """Gives the connection to the store back."""
        self._retriever.close()


_NOBODY = np.empty(0, np.int64)


def _as_given(users: Sequence[Id], inner: np.ndarray, current: Current) -> Sequence[Id] | np.ndarray:
    """Ids as the client takes them: strings are hashed by it, numbers were checked already."""
    return users if current.user_ids == STRING else inner


def _inner(ids: Sequence[Id], kind: str, of: NamedIds) -> np.ndarray:
    """Inner ids, int64 [N].

    Raises:
        Problem: ids of another kind.
    """
    if kind == STRING and "" in ids:
        raise invalid(f"an empty string is no {of.word} id")
    try:
        return inner_ids(list(ids), kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(f"{of.word} {error}") from None


def _summary(manifest: Manifest) -> dict[str, Any]:
    """What `/v1/releases` says of one."""
    return {
        "release": manifest.release,
        "date": manifest.date,
        "previous": manifest.previous,
        "model": manifest.model_digest[:12],
        "users": manifest.rows("user_embeddings"),
        "pins": manifest.rows("pin_embeddings"),
        "dropped": manifest.dropped,
    }


def data_age_s(manifest: Manifest) -> float:
    """Seconds since the end of the last day that a release includes."""
    return (datetime.datetime.now(datetime.UTC) - manifest.data_until).total_seconds()
