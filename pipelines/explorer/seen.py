"""What a page about a user or a pin shows, found once and without any HTML: pure functions over views."""

import dataclasses
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from pinnerformer_model.days import midnight_ms
from pipelines.explorer.items import Item, items_of
from pipelines.explorer.views import (
    UserVector,
    View,
    best_pins,
    history,
    ids_shown,
    pin_vectors,
    unknown_user,
    user_vector,
)
from pipelines.serving.catalogue import Catalogue
from pipelines.serving.problems import UnknownId
from stores.id_names import PINS, USERS, Id
from stores.ids import bucket_of, find_sorted
from stores.schemas import from_binary_column
from stores.tables import read_files

ROWS_SHOWN = 120  # of a history
ALIKE = 8  # users
# Of vectors are read for the users nearest to one; a hundred thousand users of 256 numbers.
ALIKE_BYTES = 64 << 20
DAY_MS = 86_400_000


@dataclasses.dataclass(frozen=True)
class Why:
    """The pin of a user's history that is nearest to a pin.

    Attributes:
        row: Its newest row among those shown, from 0; None where it is not among them.
        cosine: Of the two pins' vectors.
    """

    item: Item
    row: int | None
    cosine: float


@dataclasses.dataclass(frozen=True)
class Found:
    """A pin that was found, with all that is said of it.

    Attributes:
        rank: From 1.
        engaged: Whether it is in the user's kept history.
        was: Its rank in what it is compared with; 0: not there; None: nothing was compared.
    """

    item: Item
    rank: int
    score: float
    engaged: bool = False
    why: Why | None = None
    was: int | None = None


@dataclasses.dataclass(frozen=True)
class HistoryRow:
    """One engagement of a user.

    Attributes:
        when: UTC, to the minute.
        is_new: Whether the release before did not know of it.
        known: Whether its pin has a vector.
    """

    item: Item
    when: str
    action: str
    surface: str
    is_new: bool
    known: bool


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two answers for one user.

    Attributes:
        other: The view that it is compared with.
        cosine: Of the user's two vectors; None where they are of two models.
        stayed: How many pins are in both.
        gone: Pins that only the other has, best first.
    """

    other: View
    cosine: float | None
    stayed: int
    gone: list[Found]


@dataclasses.dataclass(frozen=True)
class UserSeen:
    """A user in one release.

    Attributes:
        rows: Of the history, newest first, as many as are shown.
        in_all: Rows of the history.
        without_user: The user has no vector in this release; all below is empty then.
        difference: To the release before; None where there is none, or the user was not in it.
    """

    view: View
    user: Id
    vector: UserVector | None
    rows: list[HistoryRow]
    in_all: int
    pins: list[Found]
    difference: Difference | None


def see_user(
    view: View,
    user: int,
    text: str,
    k: int,
    *,
    exclude_engaged: bool,
    before: View | None,
    catalogue: Catalogue | None,
    hosts: Collection[str],
) -> UserSeen:
    """What a release says of a user.

    Args:
        user: The inner id of `text`.
        before: The release to tell the difference from.

    Raises:
        UnknownId: the user has no vector in this release.
        StoreError: a file is missing or damaged.
    """
    vector = user_vector(view, user)
    if vector is None:
        raise unknown_user(view, text)
    rows = history(view, user)
    engaged = np.unique(rows["pin_id"].to_numpy()).astype(np.int64)
    without = engaged if exclude_engaged else engaged[:0]
    pins, scores = best_pins(view, vector.vector, k, without)
    earlier, rank_before, cosine = _earlier(view, before, user, vector, k, without)
    gone = [pin for pin in earlier.tolist() if pin not in set(pins.tolist())]
    items = items_of(view, np.concatenate([pins, engaged, np.array(gone, np.int64)]), catalogue, hosts)
    shown = rows.slice(0, ROWS_SHOWN)
    whys = _whys(view, pins, engaged, shown["pin_id"].to_numpy(), items)
    found = [
        Found(
            items[pin],
            rank,
            float(score),
            bool(find_sorted(engaged, np.array([pin]))[1][0]),
            whys.get(pin),
            rank_before.get(pin, 0) if before is not None and len(earlier) else None,
        )
        for rank, (pin, score) in enumerate(zip(pins.tolist(), scores.tolist(), strict=True), 1)
    ]
    difference = None
    if before is not None and len(earlier):
        lost = [Found(items[pin], rank_before[pin], 0.0) for pin in gone]
        difference = Difference(before, cosine, len(set(pins.tolist()) & set(earlier.tolist())), lost)
    history_rows = _history_rows(shown, items, before, set(pin_vectors(view, engaged)[0].tolist()))
    name = ids_shown(view, USERS, np.array([user]))[user]
    return UserSeen(view, name, vector, history_rows, rows.num_rows, found, difference)


def _earlier(
    view: View, before: View | None, user: int, vector: UserVector, k: int, without: np.ndarray
) -> tuple[np.ndarray, dict[int, int], float | None]:
    """What the release before found: pins int64, their ranks, and the cosine of the user's two vectors."""
    then = user_vector(before, user) if before is not None else None
    if before is None or then is None:
        return np.empty(0, np.int64), {}, None
    pins, _ = best_pins(before, then.vector, k, without)
    same = before.manifest.model_digest == view.manifest.model_digest
    return pins, {pin: rank for rank, pin in enumerate(pins.tolist(), 1)}, _cosine(vector, then) if same else None


def _cosine(a: UserVector, b: UserVector) -> float:
    return float(a.vector @ b.vector / (np.linalg.norm(a.vector) * np.linalg.norm(b.vector)))


def _whys(
    view: View, pins: np.ndarray, engaged: np.ndarray, shown: np.ndarray, items: dict[int, Item]
) -> dict[int, Why]:
    """Pin -> the pin of the history whose vector is nearest to its; a pin that was engaged with is its own reason, and
    has none."""
    asked = np.unique(np.concatenate([pins, engaged]))
    ids, vectors = pin_vectors(view, asked)
    has = np.isin(ids, engaged)
    if not has.any():
        return {}
    cosines = vectors @ vectors[has].T  # unit vectors
    kept = ids[has]
    first_row = {pin: row for row, pin in reversed(list(enumerate(shown.tolist())))}
    whys = {}
    for pin in pins.tolist():
        at, found = find_sorted(ids, np.array([pin]))
        if found[0] and not np.isin(pin, kept):
            best = int(np.argmax(cosines[at[0]]))
            nearest = int(kept[best])
            whys[pin] = Why(items[nearest], first_row.get(nearest), float(cosines[at[0], best]))
    return whys


def _history_rows(rows: pa.Table, items: dict[int, Item], before: View | None, known: set[int]) -> list[HistoryRow]:
    since = midnight_ms(before.manifest.day) + DAY_MS if before is not None else None
    when = rows["timestamp_ms"].to_numpy().astype("datetime64[ms]")
    columns = (rows["pin_id"].to_pylist(), when, rows["action"].to_pylist(), rows["surface"].to_pylist())
    found = []
    for pin, moment, action, surface in zip(*columns, strict=True):
        text = str(moment.astype("datetime64[m]")).replace("T", " ")
        is_new = since is not None and bool(moment >= np.datetime64(since, "ms"))
        found.append(HistoryRow(items[pin], text, str(action or ""), str(surface or ""), is_new, pin in known))
    return found


@dataclasses.dataclass(frozen=True)
class Alike:
    """The users nearest to one.

    Attributes:
        users: As the logs have them, and the cosine, best first.
        among: How many were compared.
        in_all: Users of the release.
    """

    users: list[tuple[Id, float]]
    among: int
    in_all: int


def users_alike(view: View, user: int, vector: np.ndarray) -> Alike:
    """The nearest among the users of the user's bucket, and of the buckets after it as far as `ALIKE_BYTES` goes.

    A bucket is a part of the users by a hash of the id, so this is a random part of them; of a small root it is all.
    Nobody is compared where one bucket is larger.

    Raises:
        StoreError: a file is missing or damaged.
    """
    parts = view.manifest.parts("user_embeddings")
    buckets = int(view.manifest.settings["layout"]["user_buckets"])
    first = int(bucket_of(np.array([user]), buckets)[0])
    ids, scores, read = [np.empty(0, np.int64)], [np.empty(0, np.float32)], 0
    for step in range(buckets):
        entries = parts.get((first + step) % buckets, [])
        read += sum(entry.bytes for entry in entries)
        if read > ALIKE_BYTES:
            break
        rows = read_files(view.root, entries, ["user_id", "embedding"]) if entries else None
        if rows is not None and rows.num_rows:
            ids.append(rows["user_id"].to_numpy())
            scores.append(from_binary_column(rows["embedding"]).astype(np.float32) @ vector)
    all_ids, all_scores = np.concatenate(ids), np.concatenate(scores)
    others = all_ids != user
    all_ids, all_scores = all_ids[others], all_scores[others]
    best = np.lexsort((all_ids, -all_scores))[:ALIKE]
    names = ids_shown(view, USERS, all_ids[best])
    users = [(names[one], float(score)) for one, score in zip(all_ids[best].tolist(), all_scores[best], strict=True)]
    return Alike(users, len(all_ids), view.manifest.rows("user_embeddings"))


@dataclasses.dataclass(frozen=True)
class PinSeen:
    """A pin in one release, and the pins nearest to it."""

    view: View
    item: Item
    pins: list[Found]


def see_pin(view: View, pin: int, k: int, catalogue: Catalogue | None, hosts: Collection[str]) -> PinSeen:
    """What a release says of a pin, by its inner id.

    Raises:
        UnknownId: the release has no such pin.
        StoreError: a file is missing or damaged.
    """
    ids, vectors = pin_vectors(view, np.array([pin]))
    name = ids_shown(view, PINS, np.array([pin]))[pin]
    if not len(ids):
        count = view.manifest.rows("pin_embeddings")
        raise UnknownId(
            f"pin {name}: not in release {view.release} of {count:,} pins; it is spelled otherwise there, or had no "
            "vector that night"
        )
    pins, scores = best_pins(view, vectors[0], k, np.array([pin]))
    items = items_of(view, np.append(pins, pin), catalogue, hosts)
    ranked = enumerate(zip(pins.tolist(), scores.tolist(), strict=True), 1)
    return PinSeen(view, items[pin], [Found(items[one], rank, float(score)) for rank, (one, score) in ranked])
