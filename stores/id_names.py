"""Ids as people and clients know them: what was typed as the inner id, and the names of ids of a release.

Inside, every id is an int64. Where a root's ids are strings it is their hash (`stores.string_ids`), and the tables
`user_names` and `pin_names` of a release say whose: `user_id` or `pin_id`, and `name`, sorted by id, a file a part.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.id_columns import id_kind
from stores.ids import as_ids, bucket_of, find_sorted
from stores.manifests import Manifest
from stores.string_ids import INT64, STRING, hash_strings, hash_text
from stores.tables import PIN_NAMES, USER_NAMES, read_files, read_rows_of

Id = int | str  # as a person or a client has it: by the kind of its root


@dataclasses.dataclass(frozen=True)
class NamedIds:
    """One kind of thing that has ids.

    Attributes:
        word: In messages.
        table: Of the names in a release whose ids are strings.
        column: Of the inner ids, in every table.
        field: Of a layout: the kind of its ids.
        parts: Of a layout: how many parts the table has.
    """

    word: str
    table: str
    column: str
    field: str
    parts: str

    def kind(self, manifest: Manifest) -> str:
        """The kind of a release's ids: "int64" or "string"."""
        return str(manifest.settings.get("layout", {}).get(self.field, INT64))


USERS = NamedIds("user", USER_NAMES, "user_id", "user_ids", "user_buckets")
PINS = NamedIds("pin", PIN_NAMES, "pin_id", "pin_ids", "pin_shards")


def parse_id(text: str, kind: str) -> int | None:
    """The inner id of what a person typed or wrote into a list; None if it can be nobody's.

    Args:
        kind: Of the root's ids. Of strings everything is one, `17` too; bytes are taken as they are.

    Raises:
        UsageError: a string that UTF-8 cannot write.
    """
    if kind == STRING:
        return hash_text(text) if text else None
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not -(1 << 63) <= int(text) < 1 << 63:  # int() takes 1_000
        return None
    return int(text)


def typed_id(flag: str, text: str, kind: str, of: NamedIds = USERS) -> int:
    """As `parse_id`, of a flag.

    Raises:
        UsageError: it can be nobody's id on this root; says which can.
    """
    found = parse_id(text, kind)
    if found is not None:
        return found
    if kind == STRING:
        raise UsageError(f"{flag}: an empty string is no {of.word} id")
    raise UsageError(
        f"{flag} {text}: {text!r} is not a {of.word} id; the {of.word} ids of this root are whole numbers "
        f"({of.field} int64 in layout.json): give one as the logs have it"
    )


FEW = 32  # strings that are faster hashed one by one than as a column


def inner_ids(values: Any, kind: str) -> np.ndarray:
    """Ids that a client gives, as inner ids; nothing is rounded, parsed or taken for another kind.

    Args:
        values: [N]: a list, an array, a pandas or Arrow column without nulls; whole numbers or strings, as `kind` says.
        kind: Of the ids of the store or the root.

    Returns:
        int64 [N].

    Raises:
        TypeError: ids of the other kind, or of neither.
        ValueError: as `as_ids`; strings that UTF-8 cannot write.
    """
    if kind != STRING:
        return as_ids(values)
    if isinstance(values, (list, tuple)) and len(values) <= FEW and all(type(value) is str for value in values):
        try:
            return np.array([hash_text(value) for value in values], np.int64)
        except UsageError as error:
            raise ValueError(str(error)) from None
    try:
        column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(_one_dimensional(values))
    except UnicodeEncodeError as error:
        raise ValueError(f"ids must be text that UTF-8 can write, got {error.object!r}") from None
    except (pa.ArrowException, TypeError) as error:  # several kinds in one list
        raise TypeError(f"ids must be strings: {str(error).splitlines()[0]}; {AS_STRINGS}") from None
    if column.null_count:
        raise TypeError(f"ids must be strings, got a null; {AS_STRINGS}")
    if not len(column):
        return np.empty(0, np.int64)
    if id_kind(column.type) != STRING:
        words = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        raise TypeError(f"ids must be strings, got {column[0].as_py()!r} in a column of {words}; {AS_STRINGS}")
    column = column.cast(pa.large_string())
    return hash_strings(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)


AS_STRINGS = "the ids of this store are strings: give them as the logs have them, 17 as '17'"


def _one_dimensional(values: Any) -> Any:
    """Values that are a list or a column. Raises ValueError of anything else: a string is a list of its letters."""
    if isinstance(values, (str, bytes)) or np.ndim(values) != 1:
        raise ValueError(f"ids must be one-dimensional, got {type(values).__name__}: give a list of them")
    return values


def names_of(root: Root, manifest: Manifest, of: NamedIds, ids: Iterable[int]) -> dict[int, str]:
    """The names of a few ids of a release; of ids without one nothing, as of all where ids are int64.

    A file is read up to the last of its ids that is asked for, a piece at a time.

    Raises:
        StoreError: a file of the names is missing or damaged.
    """
    parts = manifest.parts(of.table) if of.kind(manifest) == STRING and of.table in manifest.tables else {}
    asked = np.unique(np.fromiter(ids, np.int64))
    if not parts or not len(asked):
        return {}
    part = bucket_of(asked, int(manifest.settings["layout"][of.parts]))
    found: dict[int, str] = {}
    for number in np.unique(part).tolist():
        entries = parts.get(number, [])
        if entries:
            rows = read_rows_of(root, entries, of.column, asked[part == number], [of.column, "name"])
            found |= dict(zip(rows[of.column].to_pylist(), rows["name"].to_pylist(), strict=True))
    return found


def shown_ids(root: Root, manifest: Manifest, of: NamedIds, ids: Iterable[int]) -> dict[int, str]:
    """Inner id -> what a message calls it: its digits, or its name, with quotes where it would not be told as one.

    An id that has no name (any more) is called by its hash, and that it is one.

    Raises:
        StoreError: as `names_of`.
    """
    asked = list(ids)
    if of.kind(manifest) != STRING:
        return {number: str(number) for number in asked}
    found = names_of(root, manifest, of, asked)
    return {number: quoted(found[number]) if number in found else f"with hash {number}" for number in asked}


def quoted(name: str) -> str:
    """A name within a sentence: as it is, or in quotes where one would not see where it ends."""
    return repr(name) if " " in name else visible(name)


def visible(name: str) -> str:
    """A name alone on a line or in a cell: as it is, or in quotes and escaped where letters of it would not be seen."""
    return name if name and name.isprintable() and name == name.strip() else repr(name)


@dataclasses.dataclass(frozen=True)
class Names:
    """All names of a table, in memory: for whoever asks again and again.

    Attributes:
        ids: int64 [N], sorted.
        names: string [N].
    """

    ids: np.ndarray
    names: pa.Array

    @classmethod
    def load(cls, root: Root, manifest: Manifest, of: NamedIds) -> "Names | None":
        """The names of a release's pins or users; None where their ids are int64.

        Raises:
            StoreError: as `read_files`; or the release has no such table.
        """
        if of.kind(manifest) != STRING:
            return None
        if of.table not in manifest.tables:
            raise StoreError(
                f"{root.url}: release {manifest.release} has no table {of.table}, and its {of.word} ids are strings; "
                "serve another release, or make it again with `pinnerformer backfill --recompute`"
            )
        rows = [read_files(root, entries, [of.column, "name"]) for entries in manifest.parts(of.table).values()]
        ids = np.concatenate([np.empty(0, np.int64), *(table[of.column].to_numpy() for table in rows)])
        order = np.argsort(ids, kind="stable")
        names = pa.chunked_array([chunk for table in rows for chunk in table["name"].chunks], pa.string())
        return cls(ids[order], names.combine_chunks().cast(pa.large_string()).take(pa.array(order)))

    def of(self, ids: np.ndarray) -> list[str | None]:
        """Names in the order of ids int64 [N]; None where one has none."""
        at, found = find_sorted(self.ids, ids)
        return self.names.take(pa.array(np.where(found, at, 0), mask=~found)).to_pylist()
