"""Users worth a look: recently active, most changed tonight, canaries, drawn at random."""

import dataclasses

import numpy as np
import pyarrow as pa

from pinnerformer_model.days import day_of
from pipelines.explorer.views import View, ids_shown
from stores.files import FileEntry
from stores.id_names import USERS, Id
from stores.ids import find_sorted
from stores.schemas import from_binary_column
from stores.tables import read_files, read_numbered

SHOWN = 8  # users of each kind
SAMPLE_BYTES = 32 << 20  # of snapshots are read to find them


@dataclasses.dataclass(frozen=True)
class Pick:
    """A user to look at, and why."""

    user: Id
    note: str


@dataclasses.dataclass(frozen=True)
class Picks:
    """Users worth a look.

    Attributes:
        active, changed, canaries: The users of each kind; none where there is nobody of it.
        among: How many users the first two were looked for among.
        in_all: Users of the release.
        compared_with: The release that `changed` is told from; empty where it cannot be told.
    """

    active: list[Pick]
    changed: list[Pick]
    canaries: list[Pick]
    among: int
    in_all: int
    compared_with: str


def sampled_parts(view: View, most: int = SAMPLE_BYTES) -> list[list[FileEntry]]:
    """The files of some buckets, one at least: users are spread over buckets by a hash, so they are any users."""
    chosen: list[list[FileEntry]] = []
    size = 0
    for _, entries in sorted(view.manifest.parts("user_embeddings").items()):
        size += sum(entry.bytes for entry in entries)
        if chosen and size > most:
            break
        chosen.append(entries)
    return chosen


def find_picks(view: View, before: View | None) -> Picks:
    """Users of a release worth a look.

    Args:
        before: The release before; None where there is none.

    Raises:
        StoreError: a file is missing or damaged.
    """
    if before is not None and before.manifest.model_digest != view.manifest.model_digest:
        before = None  # vectors of two models are not compared
    columns = ["user_id", "embedding", "embedding_date", "last_action_ms"]
    active: list[tuple[int, int]] = []  # (user, moment)
    changed: list[tuple[int, float]] = []  # (user, cosine)
    among = 0
    for entries in sampled_parts(view):
        rows = read_files(view.root, entries, columns)
        among += rows.num_rows
        ids, moments = rows["user_id"].to_numpy(), rows["last_action_ms"].to_numpy()
        newest = np.argsort(-moments, kind="stable")[:SHOWN]
        active += zip(ids[newest].tolist(), moments[newest].tolist(), strict=True)
        if before is not None and entries:
            changed += _most_changed(view, before, rows, entries[0].part)
    active = sorted(active, key=lambda one: (-one[1], one[0]))[:SHOWN]
    changed = sorted(changed, key=lambda one: (one[1], one[0]))[:SHOWN]
    canaries = _canaries(view)
    names = ids_shown(view, USERS, np.array([one for one, _ in [*active, *changed]] + canaries, np.int64))
    return Picks(
        [Pick(names[user], str(day_of(moment))) for user, moment in active],
        [Pick(names[user], f"cosine {cosine:.3f}") for user, cosine in changed],
        [Pick(names[user], "") for user in canaries],
        among,
        view.manifest.rows("user_embeddings"),
        "" if before is None else before.release,
    )


def _most_changed(view: View, before: View, rows: pa.Table, bucket: int) -> list[tuple[int, float]]:
    """Of the users of a bucket embedded tonight, those whose vector moved most: (user, cosine)."""
    entries = before.manifest.parts("user_embeddings").get(bucket, [])
    if not entries:
        return []
    then = read_files(before.root, entries, ["user_id", "embedding"])
    tonight = rows["embedding_date"].to_numpy() == np.datetime64(view.manifest.day)
    ids = rows["user_id"].to_numpy()[tonight]
    at, found = find_sorted(then["user_id"].to_numpy(), ids)
    if not found.any():
        return []
    now = from_binary_column(rows["embedding"])[tonight][found].astype(np.float32)
    was = from_binary_column(then["embedding"])[at[found]].astype(np.float32)
    if now.shape != was.shape:
        return []
    cosines = np.einsum("nd,nd->n", now, was)  # unit vectors
    lowest = np.argsort(cosines, kind="stable")[:SHOWN]
    return list(zip(ids[found][lowest].tolist(), cosines[lowest].astype(float).tolist(), strict=True))


def _canaries(view: View) -> list[int]:
    if "canaries" in view.manifest.dropped or not view.manifest.tables["canaries"]:
        return []
    rows = read_files(view.root, view.manifest.tables["canaries"], ["user_id"])
    return np.unique(rows["user_id"].to_numpy())[:SHOWN].tolist()


def draw_user(view: View, rng: np.random.Generator) -> Id | None:
    """A user at random; None where there is none. One file is read, up to the row drawn.

    Raises:
        StoreError: a file is missing or damaged.
    """
    entries = [entry for entry in view.manifest.tables["user_embeddings"] if entry.rows]
    if not entries:
        return None
    sizes = np.array([entry.rows for entry in entries], np.float64)
    entry = entries[int(rng.choice(len(entries), p=sizes / sizes.sum()))]
    row = read_numbered(view.root, entry, np.array([int(rng.integers(entry.rows))]), ["user_id"])
    user = row["user_id"].to_numpy()
    return ids_shown(view, USERS, user)[int(user[0])]
