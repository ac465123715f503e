"""Releases as the explorer looks at them: what one says of a user and of pins. Nothing of a user is kept in memory.

A release that the store serves is searched as the API searches it. Any other is compared pin by pin, a file at a time:
it takes a second where there is a million pins, and no memory.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.serving.filtered import best_of
from pipelines.serving.problems import Problem, UnknownId, invalid, no_vector
from pipelines.serving.reader import Reader, Release
from stores import neighbours
from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.id_names import Id, NamedIds, names_of, parse_id, quoted
from stores.ids import bucket_of, find_sorted
from stores.kv import without_password
from stores.manifests import Manifest, read_manifest
from stores.neighbours import Neighbours, exact_top_k, merge_top_k, ordered_top_k
from stores.releases import chain, current_release
from stores.schemas import from_binary_column
from stores.string_ids import STRING
from stores.tables import read_files, read_rows_of

LISTED = 8  # releases of a root that can be chosen


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One release of one root.

    Attributes:
        number: Of the root, in the order of `--root`.
        manifest: As it is now: `erase` and `gc` write it again.
        served: Its index, if the store serves it.
    """

    number: int
    root: Root
    manifest: Manifest
    served: Release | None

    @property
    def name(self) -> str:
        """As a page's address has it: `0@2026-11-04`."""
        return f"{self.number}@{self.manifest.release}"

    @property
    def release(self) -> str:
        return self.manifest.release


@dataclasses.dataclass(frozen=True)
class UserVector:
    """A user's row of a snapshot.

    Attributes:
        vector: float32 [d], of unit norm.
        day: When it was made.
        stale: Whether it is one kept because inference failed.
    """

    vector: np.ndarray
    day: np.datetime64
    stale: bool


class Shelf:
    """The releases of one root.

    Args:
        number: In the order of `--root`.
        url: Of the root.
        reader: Of what the store serves of it; None: there is no store, its newest release is looked at.
    """

    def __init__(self, number: int, url: str, reader: Reader | None = None):
        self.number, self._root, self._reader = number, Root(url), reader
        self.shown = without_password(url)

    def open(self, release: str = "") -> View:
        """A release; without a name the one that is served, or the newest.

        Raises:
            StoreError: nothing is served, or there is no such release.
            Problem: a release without the tables that the explorer reads.
        """
        served = self._reader.release() if self._reader is not None else None
        root = self._root if served is None else served.root
        name = release or (served.name if served is not None else current_release(root))
        if name is None:
            raise StoreError(f"{self.shown}: no release yet; run `pinnerformer daily` first")
        try:
            manifest = read_manifest(root, name)
        except StoreError as error:
            if release:
                raise UnknownId(f"{error}; choose another release") from None
            raise
        gone = sorted({"histories", "user_embeddings", "pin_embeddings"} & set(manifest.dropped))
        if gone:
            raise Problem(404, f"release {name} has no {' and '.join(gone)} any more (`gc` removed them)")
        return View(self.number, root, manifest, served if served is not None and served.name == name else None)

    def names(self) -> list[str]:
        """Of the newest releases that can be opened, newest first."""
        found: list[str] = []
        with contextlib.suppress(StoreError):  # of releases that somebody removed the newer ones are still there
            for manifest in itertools.islice(chain(self.open().root), LISTED):
                found += [manifest.release] * (not manifest.dropped)
        return found

    def before(self, view: View) -> View | None:
        """The release that a release was built on; None where there is none any more."""
        try:
            return self.open(view.manifest.previous) if view.manifest.previous else None
        except (Problem, StoreError):
            return None


def inner_id(view: View, text: str, of: NamedIds) -> int:
    """The inner id of what somebody typed.

    Raises:
        Problem: it can be nobody's.
    """
    found = parse_id(text, of.kind(view.manifest))
    if found is None:
        what = f"{text[:80]!r} is not a {of.word} id" if text else f"no {of.word} was named"
        raise invalid(f"{what}; the {of.word} ids here are whole numbers")
    return found


def ids_shown(view: View, of: NamedIds, ids: np.ndarray) -> dict[int, Id]:
    """Inner ids as the logs have them; a string whose name is gone is called by its hash."""
    asked = np.unique(ids)
    if of.kind(view.manifest) != STRING:
        return {one: one for one in asked.tolist()}
    names = names_of(view.root, view.manifest, of, asked.tolist())
    return {one: names.get(one, f"hash {one}") for one in asked.tolist()}


def _entries_of(view: View, table: str, user: int) -> list[FileEntry]:
    bucket = int(bucket_of(np.array([user]), view.manifest.settings["layout"]["user_buckets"])[0])
    return view.manifest.parts(table).get(bucket, [])


def user_vector(view: View, user: int) -> UserVector | None:
    """A user's vector by the inner id; None of one who has none.

    Raises:
        StoreError: a file is missing or damaged.
    """
    entries = _entries_of(view, "user_embeddings", user)
    rows = read_rows_of(view.root, entries, "user_id", np.array([user])) if entries else None
    if rows is None or not rows.num_rows:
        return None
    vector = from_binary_column(rows["embedding"])[0].astype(np.float32)
    return UserVector(vector, rows["embedding_date"].to_numpy()[0], bool(rows["stale"][0].as_py()))


def unknown_user(view: View, text: str) -> UnknownId:
    """Nobody of that id has a vector."""
    return UnknownId(no_vector(quoted(text), view.release, view.manifest.rows("user_embeddings")))


def history(view: View, user: int) -> pa.Table:
    """A user's kept history, newest first.

    Raises:
        StoreError: a file is missing or damaged.
    """
    entries = _entries_of(view, "histories", user)
    if not entries:
        return pa.table({name: [] for name in ("pin_id", "timestamp_ms", "action", "surface")})
    return read_rows_of(view.root, entries, "user_id", np.array([user])).sort_by([("timestamp_ms", "descending")])


def best_pins(view: View, query: np.ndarray, k: int, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pins nearest to a vector: ids int64 [<= k] and scores float32, best first.

    Args:
        query: float32 [d].
        without: Pins that are not to be found, int64, sorted.

    Raises:
        StoreError: a file is missing or damaged.
    """
    if view.served is not None:
        opened = view.served.opened
        found = best_of(opened.shards, query[None], k, opened.ef, [without])
    else:
        found = neighbours.without(_compared(view, query[None], k + len(without)), without, k)
    there = found.pin_ids[0] >= 0
    return found.pin_ids[0][there], found.scores[0][there]


def _compared(view: View, queries: np.ndarray, k: int) -> Neighbours:
    best = ordered_top_k(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
    for entry in view.manifest.tables["pin_embeddings"]:
        if entry.rows:
            rows = read_files(view.root, [entry], ["pin_id", "embedding"])
            mine = exact_top_k(queries, rows["pin_id"].to_numpy(), from_binary_column(rows["embedding"]), k)
            best = merge_top_k([best, mine], k)
    return best


def pin_vectors(view: View, pins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of pins: of int64 [N], sorted and distinct, those that there are, and float32 [M, d].

    Raises:
        StoreError: a file is missing or damaged.
    """
    if view.served is not None:
        ids, vectors = view.served.vectors
        at, found = find_sorted(ids, pins)
        return pins[found], vectors[at[found]].astype(np.float32)
    entries: Sequence[FileEntry] = [entry for entry in view.manifest.tables["pin_embeddings"] if entry.rows]
    if not entries or not len(pins):
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    rows = [read_rows_of(view.root, [entry], "pin_id", pins, ["pin_id", "embedding"]) for entry in entries]
    table = pa.concat_tables(rows).sort_by("pin_id").combine_chunks()
    return table["pin_id"].to_numpy(), from_binary_column(table["embedding"]).astype(np.float32)
