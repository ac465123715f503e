"""The names of a bucket's users through a night: read, merged with those that came in, kept as histories are."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa

from stores.files import FileEntry, Root
from stores.names import Counter
from stores.schemas import ENGAGEMENTS, NAME_COLUMNS, STRING_CODES
from stores.string_ids import STRING
from stores.tables import USER_NAMES, read_files, write_part
from transforms.batches import from_ipc
from transforms.dead_letters import constant, write_dead
from transforms.id_names import Collided, MergedNames, drop_names, merge_names, read_names
from transforms.named_rows import NamedRows, file_of, unpack_rows
from transforms.run import Run
from transforms.sorted_rows import group_starts

Lost = Mapping[str, Mapping[int, str]]  # source -> id -> the string of that batch, where the id is another's


def by_source(collided: Iterable[Collided]) -> Lost:
    """Collided strings, looked up by their batch."""
    found: dict[str, dict[int, str]] = {}
    for one in collided:
        found.setdefault(one.source, {})[one.id] = one.name
    return found


@dataclasses.dataclass(frozen=True)
class BucketNames:
    """The names of a bucket's users.

    Attributes:
        table: Of `names_schema("user_id")`; None where users are numbers.
        entries: The files that hold them; none before the first night.
    """

    table: pa.Table | None
    entries: list[FileEntry]

    @classmethod
    def read(cls, run: Run, entries: Iterable[FileEntry]) -> "BucketNames":
        """Reads what some files hold, compared with their sha256.

        Raises:
            StoreError: a file is missing or damaged.
        """
        if run.layout.user_ids != STRING:
            return cls(None, [])
        found = list(entries)
        return cls(read_names(run.root, found, "user_id"), found)

    def files(self) -> dict[str, list[FileEntry]]:
        """Table -> files, for a report; nothing where users are numbers."""
        return {} if self.table is None else {USER_NAMES: self.entries}


@dataclasses.dataclass(frozen=True)
class CameIn:
    """What came to a bucket in a night.

    Attributes:
        rows: Of schema `ENGAGEMENTS`, but for those of strings that have no id.
        names: What the names are with theirs; None where users are numbers.
        dead: Those rows, as dead letters.
    """

    rows: pa.Table
    names: MergedNames | None
    dead: pa.Table | None

    def report(self, run: Run, bucket: int) -> tuple[dict[str, list[FileEntry]], dict[str, int]]:
        """Writes the dead letters; returns files and counters for a report, nothing where there are none."""
        if self.dead is None:
            return {}, {}
        written = write_dead(run, f"{run.date}-names-{bucket:05d}", self.dead)
        found = collections.Counter(self.dead["reason"].cast(pa.string()).to_pylist())
        counters = {f"dropped_{reason}": count for reason, count in sorted(found.items())}
        return {"dead_letters": [written]}, {Counter.ROWS_COLLIDED: self.dead.num_rows, **counters}


def take_in(run: Run, chunks: Iterable[bytes], before: BucketNames, lost_pins: Lost) -> CameIn:
    """The rows that came to a bucket, and their users' names beside those there were.

    Args:
        chunks: As `named_rows.pack_rows` packed them, in any order.
        lost_pins: Strings of pins whose id another pin has.
    """
    if not run.layout.has_strings:
        return CameIn(pa.Table.from_batches(from_ipc(chunks), ENGAGEMENTS), None, None)
    parts = unpack_rows(chunks)
    merged = None
    if before.table is not None:
        merged = merge_names(before.table, [(part.source, part.users) for part in parts if part.users is not None])
    lost_users = by_source(merged.collided) if merged else {}
    kept, dead = [], []
    for part in parts:
        users, pins = lost_users.get(part.source, {}), lost_pins.get(part.source, {})
        if not users and not pins:
            kept.append(part.rows)
            continue
        of_users = np.isin(part.rows["user_id"].to_numpy(), list(users))
        bad = of_users | np.isin(part.rows["pin_id"].to_numpy(), list(pins))
        kept.append(part.rows.filter(pa.array(~bad)))
        if bad.any():
            dead.append(_dead_rows(part, bad, of_users, users, pins))
    rows = pa.Table.from_batches(kept, ENGAGEMENTS)
    return CameIn(rows, merged, pa.concat_tables(dead) if dead else None)


def _dead_rows(
    part: NamedRows, bad: np.ndarray, of_users: np.ndarray, users: Mapping[int, str], pins: Mapping[int, str]
) -> pa.Table:
    """The dead letters of a part: their row in the file is not known any more, the strings are."""
    rows = pa.table(part.rows.filter(pa.array(bad)))
    named = dict(users)
    if part.users is not None:
        ids = np.unique(rows["user_id"].to_numpy())
        mine = part.users.take(np.flatnonzero(np.isin(part.users.ids, ids)))
        named = dict(zip(mine.ids.tolist(), mine.strings.to_pylist(), strict=True))
    for key, known in (("user_id", named), ("pin_id", pins)):
        strings = pa.array([known.get(one) for one in rows[key].to_pylist()], pa.string())
        rows = rows.append_column(NAME_COLUMNS[key], strings.dictionary_encode().cast(STRING_CODES))
    reasons = np.where(of_users[bad], "user_id_collision", "pin_id_collision")
    rows = rows.append_column("reason", pa.array(reasons.tolist(), pa.string()).dictionary_encode())
    rows = rows.append_column("row", pa.nulls(rows.num_rows, pa.int64()))
    return rows.append_column("file", constant(file_of(part.source), rows.num_rows))


def keep_names(
    run: Run,
    bucket: int,
    before: BucketNames,
    merged: MergedNames | None,
    histories: pa.Table,
    with_vector: Callable[[], np.ndarray],
) -> BucketNames:
    """The names of the users that have a row in the histories or a vector; written if they are others than before.

    Args:
        merged: As `take_in` gave it.
        histories: The bucket's, up to date.
        with_vector: Gives the users that the snapshot before has; asked only if somebody has no row any more.
    """
    if merged is None or before.table is None:
        return before
    ids, users = merged.table["user_id"].to_numpy(), histories["user_id"].to_numpy()
    gone = ~np.isin(ids, users[group_starts(users)])
    if gone.any():
        gone &= ~np.isin(ids, with_vector())
    table = drop_names(merged.table, gone)
    if table is before.table and before.entries:
        return before
    return BucketNames(table, [write_part(run.root, USER_NAMES, run.date, bucket, table)])


def users_of(root: Root, entries: list[FileEntry]) -> np.ndarray:
    """The users of a part of user_embeddings."""
    return read_files(root, entries, ["user_id"])["user_id"].to_numpy() if entries else np.empty(0, np.int64)
